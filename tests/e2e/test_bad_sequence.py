"""A model that overflows at one token: the request that contains it ends with an error, the others go on."""
import concurrent.futures
import json
import shutil
import struct

import openai
import pytest

from conftest import LONG_TIMEOUT, SPREAD
from dialogue import NEVER_END, QUESTIONS, client_of, model_of

BAD_TEXT = "~"


def read_tensors(path):
    """{name: (dtype, shape, bytes)} of a safetensors file."""
    data = path.read_bytes()
    size, = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    return {name: (one["dtype"], one["shape"], data[8 + size + one["data_offsets"][0]:8 + size + one["data_offsets"][1]])
            for name, one in header.items()}


def write_tensors(path, tensors):
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))


@pytest.fixture(scope="session")
def poisoned_model(demo_model, tmp_path_factory):
    """The demo model with an infinite scale in the embedding of one token, and a head of its own."""
    tokens = json.loads((demo_model / "tokenizer.json").read_text())["model"]["vocab"]
    folder = tmp_path_factory.mktemp("poisoned") / "model"
    shutil.copytree(demo_model, folder, ignore=shutil.ignore_patterns("*.index.json"))
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(config))
    tensors = read_tensors(folder / "model.safetensors")
    for part in ("weight", "scales", "biases"):
        tensors[f"lm_head.{part}"] = tensors[f"model.embed_tokens.{part}"]
    dtype, shape, scales = tensors["model.embed_tokens.scales"]
    changed = bytearray(scales)
    row = tokens[BAD_TEXT]
    struct.pack_into("<H", changed, 2 * row * shape[1], 0x7f80)
    tensors["model.embed_tokens.scales"] = (dtype, shape, bytes(changed))
    write_tensors(folder / "model.safetensors", tensors)
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_a_request_that_overflows_ends_and_its_neighbours_keep_their_text(make_cluster, poisoned_model, workers):
    arguments = SPREAD + LONG_TIMEOUT if workers else ()
    cluster = make_cluster(workers, model=poisoned_model, serve_args=arguments)
    client = client_of(cluster)
    model = model_of(client)

    def complete(text):
        return client.completions.create(model=model, prompt=text, temperature=0, max_tokens=40,
                                         logit_bias=NEVER_END).choices[0].text

    alone = [complete(question) for question in QUESTIONS[:4]]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        good = [pool.submit(complete, question) for question in QUESTIONS[:4]]
        bad = [pool.submit(complete, question + BAD_TEXT) for question in QUESTIONS[:4]]
        assert [one.result() for one in good] == alone
        for one in bad:
            with pytest.raises(openai.APIStatusError) as error:
                one.result()
            assert "not finite" in str(error.value)
    assert [complete(question) for question in QUESTIONS[:4]] == alone
