#!/usr/bin/env python3
"""What a golden of sparse latent attention says where ties go to the lowest position. Needs numpy only.

    tools/goldens/lowest_ties.py ../shared/goldens/models deepseek_v32/plain glm_moe_dsa/plain-q4g64 glm_moe_dsa/shared

An indexer scores a position 0 where no head likes it, so scores tie exactly. The reference takes those that torch.topk
happens to leave in front: it orders the whole row, the masked positions behind it too, and so depends on how long the
prompt is and how it is cut. We take the lowest position. Three goldens have such ties among the picks of their long
prompts. This computes these prompts anew, in double, by the reference's formulas, and writes logits of the last 4 rows
and 24 greedy tokens to tests/goldens/lowest_ties/<family>/<case>.safetensors, which LoadGolden puts in their place.
Written in the same way but with the order of torch's std::nth_element, all three are the goldens' within 1.5e-5.
Source: transformers 5.24, modeling_deepseek_v32.py and modeling_glm_moe_dsa.py.
"""

import json
import math
import pathlib
import struct
import sys

import numpy as np

HERE = pathlib.Path(__file__).resolve().parents[2] / "tests" / "goldens" / "lowest_ties"
LATENT_EPS = 1e-6
DTYPES = {"F32": np.float32, "I32": np.int32, "U32": np.uint32}


def read(path):
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    tensors = {}
    for name, entry in json.loads(raw[8:8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        data = raw[8 + size + begin:8 + size + end]
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(data, DTYPES[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def write(path, tensors):
    header, pieces, at = {}, [], 0
    for name, values in tensors.items():
        dtype = {np.dtype(np.float32): "F32", np.dtype(np.int32): "I32"}[values.dtype]
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [at, at + values.nbytes]}
        pieces.append(values.tobytes())
        at += values.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(pieces))


def silu(x):
    return x / (1 + np.exp(-x))


class Model:
    def __init__(self, folder):
        self.tensors = read(folder / "model.safetensors")
        self.config = json.loads((folder / "config.json").read_text())

    def vector(self, name):
        return self.tensors[name].astype(np.float64)

    def matrix(self, name):
        """In double; MLX's 4 bits in groups of 64 unpacked."""
        weight = self.tensors[name + ".weight"]
        if name + ".scales" in self.tensors:
            codes = np.stack([(weight >> (4 * i)) & 15 for i in range(8)], -1)
            codes = codes.reshape(*weight.shape[:-1], -1, 64).astype(np.float32)
            scales, biases = self.tensors[name + ".scales"], self.tensors[name + ".biases"]
            weight = (scales[..., None] * codes + biases[..., None]).reshape(*weight.shape[:-1], -1)
        return weight.astype(np.float64)

    def linear(self, name, x):
        return x @ self.matrix(name).T

    def norm(self, name, x, eps):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * self.vector(name + ".weight")

    def layer_norm(self, name, x, eps):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * self.vector(name + ".weight") + self.vector(
            name + ".bias")

    def angles(self, count):
        """Cosines and sines [count, dims / 2], and the factor on scores that yarn has."""
        config = self.config
        dims = config["qk_rope_head_dim"]
        theta = (config.get("rope_parameters") or config)["rope_theta"]
        inverse = (1 / theta**(np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims))).astype(np.float32)
        factor = 1.0
        yarn = config.get("rope_scaling")
        if yarn:
            original = yarn["original_max_position_embeddings"]

            def dimension(rotations):
                return dims * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

            low = max(math.floor(dimension(yarn["beta_fast"])), 0)
            high = min(math.ceil(dimension(yarn["beta_slow"])), dims - 1)
            ramp = np.clip((np.arange(dims // 2) - low) / max(high - low, 0.001), 0, 1)
            inverse = (inverse / yarn["factor"] * ramp + inverse * (1 - ramp)).astype(np.float32)
            factor = (0.1 * yarn["mscale_all_dim"] * math.log(yarn["factor"]) + 1)**2
        angles = (np.arange(count, dtype=np.float32)[:, None] * inverse).astype(np.float64)
        return np.cos(angles), np.sin(angles), factor

    def rotate(self, x, interleaved):
        """The leading dimensions of x [T, heads, dim]."""
        dims = self.config["qk_rope_head_dim"]
        first, second = (slice(0, dims, 2), slice(1, dims, 2)) if interleaved else (slice(dims // 2),
                                                                                    slice(dims // 2, dims))
        cos, sin = self.cos[:, None], self.sin[:, None]
        out = x.copy()
        out[..., first] = x[..., first] * cos - x[..., second] * sin
        out[..., second] = x[..., second] * cos + x[..., first] * sin
        return out

    def picks(self, base, x, latent):
        """[T, T]: which positions each row picks."""
        config, rows = self.config, len(x)
        heads, dim, count = (config["index_" + key] for key in ("n_heads", "head_dim", "topk"))
        interleaved = config["model_type"] == "glm_moe_dsa"
        query = self.rotate(self.linear(base + ".wq_b", latent).reshape(rows, heads, dim), interleaved)
        key = self.layer_norm(base + ".k_norm", self.linear(base + ".wk", x), LATENT_EPS)
        key = self.rotate(key[:, None], interleaved)[:, 0]
        weights = self.linear(base + ".weights_proj", x) / math.sqrt(heads * dim)
        scores = np.einsum("th,ths->ts", weights, np.maximum(np.einsum("thd,sd->ths", query, key), 0))
        picked = np.zeros((rows, rows), bool)
        for row in range(rows):
            best = np.argsort(-scores[row, :row + 1], kind="stable")  # Ties in ascending order.
            picked[row, best[:count]] = True
        return picked

    def attention(self, base, x, picked):
        """What it adds, and what it picked."""
        config, rows = self.config, len(x)
        heads, nope, value = config["num_attention_heads"], config["qk_nope_head_dim"], config["v_head_dim"]
        rank = config["kv_lora_rank"]
        latent = self.norm(base + ".q_a_layernorm", self.linear(base + ".q_a_proj", x), LATENT_EPS)
        query = self.linear(base + ".q_b_proj", latent).reshape(rows, heads, -1)
        both = self.linear(base + ".kv_a_proj_with_mqa", x)
        kept = self.norm(base + ".kv_a_layernorm", both[:, :rank], LATENT_EPS)
        if base + ".kv_b_proj.weight" in self.tensors:
            fused = self.matrix(base + ".kv_b_proj").reshape(heads, nope + value, rank)
            to_key, to_value = fused[:, :nope], fused[:, nope:]
        else:
            to_key, to_value = np.swapaxes(self.matrix(base + ".embed_q"), 1, 2), self.matrix(base + ".unembed_out")
        if base + ".indexer.wk.weight" in self.tensors:
            picked = self.picks(base + ".indexer", x, latent)
        scores = np.einsum("thn,shn->hts", query[..., :nope], np.einsum("tl,hnl->thn", kept, to_key))
        scores += np.einsum("thr,sr->hts", self.rotate(query[..., nope:], True),
                            self.rotate(both[:, None, rank:], True)[:, 0])
        scores = np.where(picked, scores * self.factor / math.sqrt(query.shape[-1]), -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out = np.einsum("hts,shv->thv", weights, np.einsum("tl,hvl->thv", kept, to_value))
        return self.linear(base + ".o_proj", out.reshape(rows, -1)), picked

    def mlp(self, base, x):
        return self.linear(base + ".down_proj",
                           silu(self.linear(base + ".gate_proj", x)) * self.linear(base + ".up_proj", x))

    def expert(self, base, index, x):
        stacks = base + ".switch_mlp"
        if stacks + ".up_proj.weight" not in self.tensors:
            return self.mlp(f"{base}.experts.{index}", x)
        gate, up, down = (self.matrix(f"{stacks}.{part}_proj")[index] for part in ("gate", "up", "down"))
        return (silu(x @ gate.T) * (x @ up.T)) @ down.T

    def experts(self, base, x):
        config = self.config
        count, groups = config["n_routed_experts"], config["n_group"]
        scores = 1 / (1 + np.exp(-self.linear(base + ".gate", x)))
        compared = scores + self.vector(base + ".gate.e_score_correction_bias")
        if groups > 1:
            rank = np.sort(compared.reshape(len(x), groups, -1), -1)[..., -2:].sum(-1)
            kept = np.zeros(rank.shape, bool)
            np.put_along_axis(kept, np.argsort(-rank, -1)[:, :config["topk_group"]], True, -1)
            compared = np.where(np.repeat(kept, count // groups, -1), compared, -np.inf)
        chosen = np.argsort(-compared, -1)[:, :config["num_experts_per_tok"]]
        weights = np.take_along_axis(scores, chosen, -1)
        weights *= config["routed_scaling_factor"] / weights.sum(-1, keepdims=True)
        out = self.mlp(base + ".shared_experts", x)
        for expert in range(count):
            out += self.expert(base, expert, x) * ((chosen == expert) * weights).sum(-1)[:, None]
        return out

    def logits(self, ids, count):
        """Of the last `count` rows."""
        self.cos, self.sin, self.factor = self.angles(len(ids))
        eps = self.config["rms_norm_eps"]
        x = self.matrix("model.embed_tokens")[ids]
        picked = None
        for layer in range(self.config["num_hidden_layers"]):
            base = f"model.layers.{layer}"
            added, picked = self.attention(base + ".self_attn", self.norm(base + ".input_layernorm", x, eps), picked)
            x = x + added
            normed = self.norm(base + ".post_attention_layernorm", x, eps)
            dense = layer < self.config["first_k_dense_replace"]
            x = x + (self.mlp(base + ".mlp", normed) if dense else self.experts(base + ".mlp", normed))
        return self.linear("lm_head", self.norm("model.norm", x[-count:], eps))


def main(source, *cases):
    for case in cases:
        folder = pathlib.Path(source) / case
        model = Model(folder)
        golden = read(folder / "expect.safetensors")
        ids = golden["long_prompt"].tolist()
        greedy = golden["long_greedy"].tolist()  # A guess: each round has one right token more at least.
        while True:
            rows = model.logits(ids + greedy[:-1], len(greedy) + 3)
            best = rows[3:].argmax(-1).tolist()
            if best == greedy:
                break
            first = next(i for i, pair in enumerate(zip(greedy, best)) if pair[0] != pair[1])
            greedy[first] = best[first]
        logits = rows[:4]
        write(HERE / f"{case}.safetensors", {
            "long_logits": logits.astype(np.float32),
            "long_greedy": np.array(greedy, np.int32)
        })
        moved = np.abs(logits - golden["long_logits"]).max(-1)
        print(f"{case}: rows moved by {', '.join(f'{row:.1e}' for row in moved)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
