"""The logits of a model folder from mlx-lm (on the CPU, in f32) and from shoal (with f32 activations)."""
import json
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm.utils import load_model
from safetensors.numpy import load_file

IDS = [i * 7 % 300 for i in range(40)]

# The tolerance of the goldens for two implementations in f32: max |difference| of logits of magnitude ten.
TOLERANCE = 1e-3


def logits_of_mlx(folder):
    mx.set_default_device(mx.cpu)
    model, _ = load_model(Path(folder))
    model.set_dtype(mx.float32)
    return np.array(model(mx.array([IDS]))[0].astype(mx.float32))


def logits_of_shoal(succeed, folder):
    with tempfile.TemporaryDirectory() as scratch:
        ids, out = Path(scratch) / "ids.json", Path(scratch) / "out.safetensors"
        ids.write_text(json.dumps({"ids": IDS}))
        succeed("logits", "--model", folder, "--ids", ids, "--out", out, "--activations", "f32", "--kv-dtype", "f32",
                "--packed-cache", "off")
        return load_file(out)["logits"]
