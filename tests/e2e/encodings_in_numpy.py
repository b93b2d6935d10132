"""Writes models in published encodings, in numpy and from the public formats alone, and the same models as f32 with exactly
the values that the encodings stand for.

GPTQ: AutoGPTQ's qlinear (checkpoint formats "gptq" and "gptq_v2"). AWQ: AutoAWQ's WQLinear_GEMM. compressed-tensors:
"pack-quantized". FP8: DeepSeek-V3's fp8_cast_bf16.py.
"""
import json
import struct
from pathlib import Path

import numpy as np
import safetensors

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I32": np.int32, "I64": np.int64, "U8": np.uint8,
          "F8_E4M3": np.uint8, "F8_E8M0": np.uint8}


def read(path):
    """{name: (dtype, array)}; bf16 and fp8 as their bits."""
    return {name: (tensor["dtype"], np.frombuffer(bytes(tensor["data"]), DTYPES[tensor["dtype"]]).reshape(tensor["shape"]))
            for name, tensor in safetensors.deserialize(Path(path).read_bytes())}


def write(path, tensors):
    header, at = {}, 0
    for name, (dtype, array) in tensors.items():
        assert array.dtype == DTYPES[dtype], name
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(np.ascontiguousarray(a).tobytes()
                                                                          for _, a in tensors.values()))


def to_f32(tensor):
    dtype, array = tensor
    return (array.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else array.astype(np.float32)


def short_f16(x):
    """x rounded to f16 with four zero bits at the end, so that 8 and 15 times a scale are f16, too, and readers that
    hold biases as f16 lose nothing."""
    return ((x.astype(np.float16).view(np.uint16) + 8) & 0xFFF0).view(np.float16)


def pack(codes, axis, order=range(8)):
    """Packs eight codes of four bits per word along `axis`: code order[i] of each eight at bit 4 i."""
    codes = np.moveaxis(codes, axis, -1).astype(np.uint32)
    eights = codes.reshape(*codes.shape[:-1], -1, 8)
    words = np.zeros(eights.shape[:-1], np.uint32)
    for bit, index in enumerate(order):
        words |= eights[..., index] << np.uint32(4 * bit)
    return np.moveaxis(words, -1, axis).view(np.int32)


def quantize(w, group):
    """w [N, K] -> codes [N, K], scales f16 [N, K / group], zeros from 1 to 15 per group of a row, and the values."""
    groups = w.reshape(w.shape[0], -1, group)
    low, high = np.minimum(groups.min(-1), 0), np.maximum(groups.max(-1), 0)
    scales = short_f16((high - low) / 15)
    zeros = np.clip(np.rint(-low / scales.astype(np.float32)), 1, 15).astype(np.int64)
    codes = np.clip(np.rint(groups / scales.astype(np.float32)[..., None]) + zeros[..., None], 0, 15).astype(np.int64)
    values = scales.astype(np.float32)[..., None] * (codes - zeros[..., None]).astype(np.float32)
    return codes.reshape(w.shape), scales, zeros, values.reshape(w.shape)


def gptq(w, group, stored_less=1):
    codes, scales, zeros, values = quantize(w, group)
    return {"qweight": ("I32", pack(codes.T, 0)), "qzeros": ("I32", pack(zeros.T - stored_less, 1)),
            "scales": ("F16", scales.T), "g_idx": ("I32", (np.arange(w.shape[1]) // group).astype(np.int32))}, values


def gptq_v2(w, group):
    return gptq(w, group, stored_less=0)


def awq(w, group):
    codes, scales, zeros, values = quantize(w, group)
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    return {"qweight": ("I32", pack(codes.T, 1, order)), "qzeros": ("I32", pack(zeros.T, 1, order)),
            "scales": ("F16", scales.T)}, values


def packed_int4(w, group):
    groups = w.reshape(w.shape[0], -1, group)
    scales = short_f16(np.abs(groups).max(-1) / 7.5)
    codes = np.clip(np.rint(groups / scales.astype(np.float32)[..., None]), -8, 7)
    values = scales.astype(np.float32)[..., None] * codes.astype(np.float32)
    return {"weight_packed": ("I32", pack(codes.reshape(w.shape).astype(np.int64) + 8, 1)), "weight_scale": ("F16", scales),
            "weight_shape": ("I64", np.array(w.shape, np.int64))}, values.reshape(w.shape)


def e4m3_values():
    """The values of the codes 0 to 126: four bits of exponent with bias 7, three of mantissa. Code 127 is NaN."""
    codes = np.arange(127)
    exponent, mantissa = codes >> 3, codes & 7
    return np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0**(exponent - 10.0)).astype(np.float32)


def fp8(w, block):
    """block: rows and columns per scale; the last blocks may be smaller."""
    rows, cols = (-(-size // b) for size, b in zip(w.shape, block))
    scales = np.zeros((rows, cols), np.float32)
    spread = np.zeros_like(w)
    for i in range(rows):
        for j in range(cols):
            here = np.s_[i * block[0]:(i + 1) * block[0], j * block[1]:(j + 1) * block[1]]
            scales[i, j] = np.abs(w[here]).max() / 448
            spread[here] = scales[i, j]
    table = e4m3_values()
    wanted = np.abs(w / spread)
    above = np.clip(np.searchsorted(table, wanted), 1, 126)
    codes = np.where(wanted - table[above - 1] <= table[above] - wanted, above - 1, above).astype(np.uint8)
    signs = np.signbit(w)
    values = np.where(signs, -table[codes], table[codes]) * spread
    return {"weight": ("F8_E4M3", codes | (signs.astype(np.uint8) << 7)), "weight_scale_inv": ("F32", scales)}, values


def fp8_powers(w, block):
    """fp8 with scales that are powers of two, so that bf16 holds every value."""
    tensors, _ = fp8(w, block)
    scales = np.exp2(np.ceil(np.log2(tensors["weight_scale_inv"][1]))).astype(np.float32)
    spread = np.repeat(np.repeat(scales, block[0], 0), block[1], 1)[:w.shape[0], :w.shape[1]]
    table = e4m3_values()
    codes = np.abs(table[None, None] - np.abs(w / spread)[..., None]).argmin(-1).astype(np.uint8)
    signs = np.signbit(w)
    values = np.where(signs, -table[codes], table[codes]) * spread
    return {"weight": ("F8_E4M3", codes | (signs.astype(np.uint8) << 7)), "weight_scale_inv": ("F32", scales)}, values


def fp8_exponents(w, block):
    """fp8 as DeepSeek-V4 has it: the scales, powers of two, are stored as their exponents."""
    tensors, values = fp8_powers(w, block)
    exponents = np.log2(tensors["weight_scale_inv"][1]).astype(np.int32) + 127
    return {"weight": tensors["weight"], "scale": ("F8_E8M0", exponents.astype(np.uint8))}, values


def encode_model(source, encoded, exact, encode, config, chosen=lambda name: "_proj." in name):
    """Writes `source` twice: with the chosen matrices encoded and `config` as quantization_config, and with their values as
    f32. encode: w f32 [N, K] -> ({suffix: tensor}, values)."""
    coded, floats = {}, {}
    for name, tensor in read(Path(source) / "model.safetensors").items():
        if not (name.endswith(".weight") and tensor[1].ndim == 2 and chosen(name)):
            coded[name] = floats[name] = tensor
            continue
        pieces, values = encode(to_f32(tensor))
        for suffix, piece in pieces.items():
            coded[name.removesuffix("weight") + suffix] = piece
        floats[name] = ("F32", values.astype(np.float32))
    for folder, tensors, more in (encoded, coded, {"quantization_config": config}), (exact, floats, {}):
        Path(folder).mkdir(parents=True)
        write(Path(folder) / "model.safetensors", tensors)
        text = json.loads((Path(source) / "config.json").read_text())
        (Path(folder) / "config.json").write_text(json.dumps(text | more))
