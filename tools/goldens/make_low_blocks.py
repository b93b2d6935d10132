"""Makes tests/goldens/blocks/low_blocks.safetensors: random blocks, and what the PyPI package `gguf` makes of them.

    python tools/goldens/make_low_blocks.py     # with numpy and gguf 0.19

Scales are f16 of both signs, small enough that the packed layouts hold them; all other bits are random.
"""

import json
import pathlib
import struct

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import quants

ROWS, COLUMNS = 3, 512
# Elements and bytes of a block, and where its f16 scales lie.
LAYOUTS = {
    Type.Q2_K: (256, 84, (80, 82)),
    Type.Q3_K: (256, 110, (108,)),
    Type.IQ4_NL: (32, 18, (0,)),
    Type.IQ4_XS: (256, 136, (0,)),
}


def main() -> None:
    random = np.random.default_rng(18)
    tensors = {}
    for kind, (elements, size, scales) in LAYOUTS.items():
        blocks = random.integers(0, 256, (ROWS, COLUMNS // elements, size), dtype=np.uint8)
        for at in scales:
            values = random.normal(0, 0.05, blocks.shape[:2]).astype(np.float16)
            blocks[:, :, at : at + 2] = values[..., None].view(np.uint8)
        rows = blocks.reshape(ROWS, -1)
        tensors[f"{kind.name}.blocks"] = rows
        tensors[f"{kind.name}.values"] = quants.dequantize(rows, kind).astype(np.float32)
    header, data = {}, b""
    for name, tensor in tensors.items():
        dtype = {"uint8": "U8", "float32": "F32"}[str(tensor.dtype)]
        raw = np.ascontiguousarray(tensor).tobytes()
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    root = pathlib.Path(__file__).parents[2]
    (root / "tests/goldens/blocks/low_blocks.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


if __name__ == "__main__":
    main()
