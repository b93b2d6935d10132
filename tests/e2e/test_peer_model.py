"""bench/peer_model.py: files as the GGUF specification has them."""
import random
import struct

import peer_model as bench
import pytest


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        found = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return found if len(found) > 1 else found[0]

    def text(self):
        size = self.take("Q")
        self.at += size
        return self.data[self.at - size:self.at].decode()

    def value(self, kind):
        if kind == bench.ARRAY:
            of, count = self.take("I"), self.take("Q")
            return [self.value(of) for _ in range(count)]
        return self.text() if kind == bench.STRING else self.take({bench.U32: "I", bench.I32: "i", bench.F32: "f"}[kind])


@pytest.fixture
def small(monkeypatch):
    shape = bench.Shape("qwen3moe", layers=2, heads=2, kv_heads=1, hidden=256, experts=3, width=256, head_dim=128, vocab=300)
    monkeypatch.setitem(bench.SHAPES, "B", shape)
    return shape


@pytest.mark.parametrize("name", sorted(bench.FORMATS))
def test_a_file_has_what_its_header_says(small, tmp_path, name):
    assert bench.main(["--shape", "B", "--format", name, "--out", str(tmp_path / "b.gguf")]) == 0
    reader = Reader((tmp_path / "b.gguf").read_bytes())
    assert reader.take("4s") == b"GGUF"
    _, tensors, entries = reader.take("IQQ")
    meta = {reader.text(): reader.value(reader.take("I")) for _ in range(entries)}
    assert meta["general.architecture"] == "qwen3moe"
    assert meta["qwen3moe.expert_count"] == 3
    assert len(set(meta["tokenizer.ggml.tokens"])) == small.vocab
    form, end = bench.FORMATS[name], 0
    for _ in range(tensors):
        tensor, dims = reader.text(), [reader.take("Q") for _ in range(reader.take("I"))]
        kind, offset = reader.take("IQ")
        assert offset % 32 == 0
        assert offset >= end
        assert kind == (0 if "norm" in tensor or "gate_inp" in tensor else form.tensor_type)
        end = offset + bench.byte_count(form, dims, kind != 0)
    begin = -(-reader.at // 32) * 32
    assert len(reader.data) == begin + -(-end // 32) * 32


def test_values_have_unit_deviation_after_a_row():
    form = bench.FORMATS["q4_0"]
    data = bench.coded(random.Random(1), form, 2048, 1)
    values = []
    for block in range(2048 // 32):
        scale = struct.unpack_from("<e", data, block * 18)[0]
        for byte in data[block * 18 + 2:block * 18 + 18]:
            values += [scale * ((byte & 15) - 8), scale * ((byte >> 4) - 8)]
    assert sum(value * value for value in values) == pytest.approx(1, rel=0.1)


def test_a_folder_that_is_not_there_is_said(tmp_path, capsys):
    with pytest.raises(SystemExit):
        bench.main(["--shape", "A", "--format", "q4_0", "--out", str(tmp_path / "no" / "a.gguf")])
    assert "its folder is not there" in capsys.readouterr().err
