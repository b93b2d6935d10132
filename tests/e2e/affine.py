"""MLX affine weights in numpy, from the file format alone: w = scale * q + bias per group along the last axis."""
import json
from pathlib import Path

import numpy as np
import safetensors


def bf16(data):
    return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)


class DemoWeights:
    def __init__(self, folder):
        folder = Path(folder)
        self.config = json.loads((folder / "config.json").read_text())
        self.tensors = dict(safetensors.deserialize((folder / "model.safetensors").read_bytes()))

    def array(self, name):
        tensor = self.tensors[name]
        data = bytes(tensor["data"])
        flat = bf16(data) if tensor["dtype"] == "BF16" else np.frombuffer(data, np.uint32)
        return flat.reshape(tensor["shape"])

    def dequantized(self, name):
        """float64 [..., N, K]"""
        quantization = self.config["quantization"]
        bits, group = quantization["bits"], quantization["group_size"]
        words = self.array(name + ".weight")
        shifts = np.arange(0, 32, bits, dtype=np.uint32)  # lowest bits first
        codes = ((words[..., None] >> shifts) & ((1 << bits) - 1)).reshape(*words.shape[:-1], -1)
        scales, biases = (np.repeat(self.array(f"{name}.{part}").astype(np.float64), group, -1)
                          for part in ("scales", "biases"))
        return scales * codes + biases

    def expert(self, layer, expert):
        """(gate [F, D], up [F, D], down [D, F]) in float64."""
        stem = f"model.layers.{layer}.mlp.switch_mlp."
        return tuple(self.dequantized(stem + part)[expert] for part in ("gate_proj", "up_proj", "down_proj"))


def silu(x):
    return x / (1 + np.exp(-x))


# A generous bound on the relative error of a float32 chain of a few hundred terms: twice 256 roundings of 2^-24.
ROUNDING = 2 * 256 * 2.0**-24


def quantized(x, x_error, group):
    """x after quantization to int8 codes per group (docs/numerics.md), and a bound on the difference from shoal's.

    A code is round(x / step), with step = absmax / 127. If x / step is within its error of a half, both neighbours are
    right, and the result may be off by one step. Otherwise it is off only by the rounding of the step.
    """
    step = np.repeat(np.abs(x).reshape(-1, group).max(-1) / 127, group)
    position = x / step
    slack = x_error / step + np.abs(position) * ROUNDING
    on_the_edge = np.abs(np.abs(position - np.floor(position)) - 0.5) <= slack
    return np.rint(position) * step, on_the_edge * step + np.abs(x) * ROUNDING


def matvec(w, x, x_error):
    """w @ x, and a bound on the difference of a float32 chain."""
    return w @ x, np.abs(w) @ (x_error + np.abs(x) * ROUNDING)


def expert_output(weights, x, group=64):
    """down(silu(gate x) * up x) with int8 activations in float64, and a bound on the difference of float32 code."""
    gate_w, up_w, down_w = weights
    xq, xq_error = quantized(x, np.zeros_like(x), group)
    gate, d_gate = matvec(gate_w, xq, xq_error)
    up, d_up = matvec(up_w, xq, xq_error)
    h = silu(gate) * up
    slope = 1.1  # an upper bound on the slope of silu
    d_h = slope * d_gate * (np.abs(up) + d_up) + np.abs(silu(gate)) * d_up + np.abs(h) * ROUNDING
    return matvec(down_w, *quantized(h, d_h, group))
