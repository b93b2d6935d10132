#!/usr/bin/env python3
"""Makes a model of any size say a known text, at the full cost of its shape: for speeds that depend on what is said.

    chain_model.py --model DIR --out DIR

The model is one of `shoal synth --bits ...`. In the copy, attention and feed-forward add zeros to the residual stream, and
row next(t) of the head is the embedding of token t: every weight is read and every product computed as before, and after
token t the likeliest by far is next(t), one cycle through all tokens (`next_token`). Only the standard library.
"""
import argparse
import json
import shutil
import struct
from pathlib import Path

STEP = 60_013  # Prime.
PARTS = ("weight", "scales", "biases")
EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
SILENT = (".o_proj.", ".down_proj.")


def next_token(token, vocabulary):
    """What the model says after `token`: one cycle through all, since STEP shares no factor with the vocabulary."""
    return (token + STEP) % vocabulary


def read_header(file):
    size, = struct.unpack("<Q", file.read(8))
    header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return header, 8 + size


def read_tensor(file, base, tensor):
    begin, end = tensor["data_offsets"]
    file.seek(base + begin)
    return file.read(end - begin)


def head_rows(data, rows):
    """Row next(t) is row t of the embedding."""
    width = len(data) // rows
    moved = bytearray(len(data))
    for token in range(rows):
        to = next_token(token, rows)
        moved[to * width:(to + 1) * width] = data[token * width:(token + 1) * width]
    return bytes(moved)


def is_silent(name):
    return any(part in name for part in SILENT) and name.endswith((".scales", ".biases"))


def copy_tensors(source, target):
    with source.open("rb") as file:
        header, base = read_header(file)
        missing = [f"{EMBEDDING}.{part}" for part in PARTS if f"{EMBEDDING}.{part}" not in header]
        if missing:
            raise SystemExit(f"{source}: expected quantized tensors {missing}; make the model with `shoal synth --bits 4`")
        vocabulary = header[f"{EMBEDDING}.weight"]["shape"][0]
        if vocabulary % STEP == 0:
            raise SystemExit(f"{source}: a vocabulary of {vocabulary} tokens has no single cycle of steps of {STEP}")
        made = {f"{HEAD}.{part}": header[f"{EMBEDDING}.{part}"] for part in PARTS}
        out, at = {}, 0
        for name, tensor in {**header, **made}.items():
            begin, end = tensor["data_offsets"]
            out[name] = {**tensor, "data_offsets": [at, at + end - begin]}
            at += end - begin
        text = json.dumps(out).encode()
        text += b" " * (-len(text) % 8)
        with target.open("wb") as to:
            to.write(struct.pack("<Q", len(text)) + text)
            for name in out:
                data = read_tensor(file, base, header.get(name) if name not in made else made[name])
                if name in made:
                    data = head_rows(data, vocabulary)
                elif is_silent(name):
                    data = bytes(len(data))
                to.write(data)
    return vocabulary


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    flags = parser.parse_args()
    files = sorted(flags.model.glob("*.safetensors"))
    if len(files) != 1:
        raise SystemExit(f"{flags.model}: expected one file of tensors, found {len(files)}")
    flags.out.mkdir(parents=True)
    for file in flags.model.iterdir():
        if not file.name.endswith((".safetensors", ".index.json")):
            shutil.copy(file, flags.out)
    config = json.loads((flags.model / "config.json").read_text())
    config["tie_word_embeddings"] = False
    (flags.out / "config.json").write_text(json.dumps(config, indent=2))
    vocabulary = copy_tensors(files[0], flags.out / "model.safetensors")
    print(f"{flags.out}: after token t it says (t + {STEP}) mod {vocabulary}")


if __name__ == "__main__":
    main()
