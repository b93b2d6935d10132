#!/usr/bin/env python3
"""Copies a golden into tests/goldens/models, without the hidden states, which no test reads and which are a third of it.

    tools/goldens/copy_case.py ../shared/goldens/models qwen2/tied mistral/swa
"""

import json
import pathlib
import shutil
import struct
import sys

HERE = pathlib.Path(__file__).resolve().parents[2] / "tests" / "goldens" / "models"


def without_hidden(raw):
    """The safetensors file `raw` without its hidden.* tensors."""
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + size])
    data = raw[8 + size:]
    kept, pieces, at = {}, [], 0
    for name, entry in header.items():
        if name == "__metadata__" or name.startswith("hidden."):
            continue
        begin, end = entry["data_offsets"]
        kept[name] = dict(entry, data_offsets=[at, at + end - begin])
        pieces.append(data[begin:end])
        at += end - begin
    text = json.dumps(kept, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(pieces)


def main(source, *cases):
    for case in cases:
        target = HERE / case
        target.mkdir(parents=True, exist_ok=True)
        for file in sorted((pathlib.Path(source) / case).iterdir()):
            if file.name == "expect.safetensors":
                (target / file.name).write_bytes(without_hidden(file.read_bytes()))
            else:
                shutil.copyfile(file, target / file.name)


if __name__ == "__main__":
    main(*sys.argv[1:])
