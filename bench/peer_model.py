#!/usr/bin/env python3
"""Writes shape A or B as a GGUF file of random weights, for the peers of against_peers.py.

The shapes are those of `shoal synth --shape`; every matrix has the format, embedding and head as well, routers and norms are f32.
Values are random bits behind scales that keep rows near unit deviation, so that nothing overflows and routers choose all experts. The
tokenizer is byte-level. Only the standard library.

    bench/peer_model.py --shape A --format q4_0 --out a-q4_0.gguf

exit status: 0 written, 2 wrong flags
"""
import argparse
import math
import random
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

ALIGNMENT = 32
VERSION = 3
# Types of metadata, as the GGUF specification numbers them.
U32, I32, F32, STRING, ARRAY = 4, 5, 6, 8, 9
F32_TENSOR = 0
BYTES_OF_F32 = 4


@dataclass(frozen=True)
class Format:
    """How a matrix is stored. scales: (offset in a block, what the value there is for rows of unit deviation), each an f16."""
    tensor_type: int
    values: int
    block_bytes: int
    scales: tuple


# q4_0: scale x (code - 8). q4_k: scale x s x code - least x m, s and m of 6 random bits. iq4_k, of ik_llama.cpp alone:
# scale x (s - 32) x one of 16 levels up to 127.
FORMATS = {
    "q4_0": Format(2, 32, 18, ((0, 1 / 4.6),)),
    "q4_k": Format(12, 256, 144, ((0, 1 / 250), (2, 7.5 / 250))),
    "iq4_k": Format(139, 256, 144, ((0, 1 / 1100),)),
}


@dataclass(frozen=True)
class Shape:
    """As a config.json of the hub has it. experts: 0: a dense model."""
    arch: str
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    experts: int = 0
    tied: bool = False
    width: int = 2048
    head_dim: int = 128
    vocab: int = 151936
    experts_per_token: int = 8


SHAPES = {
    "A": Shape("qwen3", layers=28, heads=16, kv_heads=8, hidden=6144, tied=True),
    "B": Shape("qwen3moe", layers=6, heads=32, kv_heads=4, hidden=768, experts=128),
}


def matrices(shape):
    """[(name, shape with the columns first, whether it has the format)]"""
    width, q, kv = shape.width, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    found = [("token_embd", (width, shape.vocab), True), ("output_norm", (width,), False)]
    if not shape.tied:
        found.append(("output", (width, shape.vocab), True))
    for i in range(shape.layers):
        layer = [("attn_norm", (width,), False), ("ffn_norm", (width,), False), ("attn_q_norm", (shape.head_dim,), False),
                 ("attn_k_norm", (shape.head_dim,), False), ("attn_q", (width, q), True), ("attn_k", (width, kv), True),
                 ("attn_v", (width, kv), True), ("attn_output", (q, width), True)]
        each = (shape.experts,) if shape.experts else ()
        suffix = "_exps" if shape.experts else ""
        layer += [(f"ffn_gate{suffix}", (width, shape.hidden, *each), True), (f"ffn_up{suffix}", (width, shape.hidden, *each), True),
                  (f"ffn_down{suffix}", (shape.hidden, width, *each), True)]
        if shape.experts:
            layer.append(("ffn_gate_inp", (width, shape.experts), False))
        found += [(f"blk.{i}.{name}", dims, stored) for name, dims, stored in layer]
    return [(f"{name}.weight", dims, stored) for name, dims, stored in found]


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def scalar(kind, value):
    return text(value) if kind == STRING else struct.pack({U32: "<I", I32: "<i", F32: "<f"}[kind], value)


def entry(key, kind, value):
    """One of the metadata; a list is an array of `kind`."""
    if not isinstance(value, list):
        return text(key) + struct.pack("<I", kind) + scalar(kind, value)
    return text(key) + struct.pack("<IIQ", ARRAY, kind, len(value)) + b"".join(scalar(kind, item) for item in value)


def byte_tokens():
    """A printable character for each byte, as GPT-2 has it."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def metadata(name, shape):
    arch = shape.arch
    tokens = byte_tokens() + [f"<{i}>" for i in range(256, shape.vocab)]
    found = [
        ("general.architecture", STRING, arch), ("general.name", STRING, f"shape {name}, random"),
        (f"{arch}.block_count", U32, shape.layers), (f"{arch}.context_length", U32, 40960),
        (f"{arch}.embedding_length", U32, shape.width), (f"{arch}.feed_forward_length", U32, shape.hidden),
        (f"{arch}.attention.head_count", U32, shape.heads), (f"{arch}.attention.head_count_kv", U32, shape.kv_heads),
        (f"{arch}.attention.key_length", U32, shape.head_dim), (f"{arch}.attention.value_length", U32, shape.head_dim),
        (f"{arch}.attention.layer_norm_rms_epsilon", F32, 1e-6), (f"{arch}.rope.freq_base", F32, 1e6),
        ("tokenizer.ggml.model", STRING, "gpt2"), ("tokenizer.ggml.pre", STRING, "qwen2"),
        ("tokenizer.ggml.tokens", STRING, tokens), ("tokenizer.ggml.token_type", I32, [1] * shape.vocab),
        ("tokenizer.ggml.merges", STRING, ["a b"]), ("tokenizer.ggml.eos_token_id", U32, shape.vocab - 1),
        ("tokenizer.ggml.bos_token_id", U32, shape.vocab - 2),
    ]
    if shape.experts:
        found += [(f"{arch}.expert_count", U32, shape.experts), (f"{arch}.expert_used_count", U32, shape.experts_per_token),
                  (f"{arch}.expert_feed_forward_length", U32, shape.hidden)]
    return [entry(*one) for one in found]


def coded(random_bits, form, cols, rows):
    """Random blocks of `rows` rows, whose scales fit rows of `cols` values."""
    blocks = cols // form.values * rows
    data = bytearray(random_bits.randbytes(blocks * form.block_bytes))
    for offset, unit in form.scales:
        scale = struct.pack("<e", unit / math.sqrt(cols))
        for i, byte in enumerate(scale):
            data[offset + i::form.block_bytes] = bytes([byte]) * blocks
    return bytes(data)


def floats(random_bits, dims):
    """Ones for a norm; a router's rows draw around zero."""
    if len(dims) == 1:
        return struct.pack("<f", 1.0) * dims[0]
    scale = 1 / math.sqrt(dims[0])
    return struct.pack(f"<{dims[0] * dims[1]}f", *(random_bits.gauss(0, scale) for _ in range(dims[0] * dims[1])))


def byte_count(form, dims, stored):
    values = math.prod(dims)
    return values // form.values * form.block_bytes if stored else BYTES_OF_F32 * values


def write(out, name, form, seed):
    """The file; memory: one matrix of 4096 rows."""
    shape, random_bits = SHAPES[name], random.Random(seed)
    meta, tensors = metadata(name, shape), matrices(shape)
    head = b"GGUF" + struct.pack("<IQQ", VERSION, len(tensors), len(meta)) + b"".join(meta)
    offset = 0
    for tensor, dims, stored in tensors:
        head += text(tensor) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, form.tensor_type if stored else F32_TENSOR, offset)
        offset += -(-byte_count(form, dims, stored) // ALIGNMENT) * ALIGNMENT
    with open(out, "wb") as file:
        file.write(head)
        for _, dims, stored in tensors:
            file.write(bytes(-file.tell() % ALIGNMENT))
            if not stored:
                file.write(floats(random_bits, dims))
                continue
            rows = math.prod(dims[1:])
            for first in range(0, rows, 4096):
                file.write(coded(random_bits, form, dims[0], min(4096, rows - first)))
        file.write(bytes(-file.tell() % ALIGNMENT))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--shape", required=True, choices=sorted(SHAPES))
    parser.add_argument("--format", required=True, choices=sorted(FORMATS))
    parser.add_argument("--out", required=True, type=Path, metavar="FILE")
    parser.add_argument("--seed", default=1, type=int)
    flags = parser.parse_args(arguments)
    if not flags.out.absolute().parent.is_dir():
        parser.error(f"--out {flags.out}: its folder is not there")
    write(flags.out, flags.shape, FORMATS[flags.format], flags.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
