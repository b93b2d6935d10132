#!/usr/bin/env python3
"""Makes tests/goldens/models/qwen2_moe/plain: a tiny random model, and the outputs of mlx-lm for it in float32.

    pip install mlx-lm==0.32.2 'mlx[cpu]==0.32.4' && tools/goldens/make_qwen2_moe.py

A second implementation, written after transformers' modeling_qwen2_moe.py in float64, must agree: logits within 1e-4, and the
same greedy tokens. It also gives the chosen experts. Prompts are drawn until no choice is near a tie.
"""

import json
import pathlib

import mlx.core as mx
import numpy as np
from mlx_lm.utils import load_model

HERE = pathlib.Path(__file__).resolve().parents[2] / "tests" / "goldens" / "models" / "qwen2_moe" / "plain"
CONFIG = {
    "architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe", "torch_dtype": "bfloat16", "vocab_size": 256,
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "hidden_act": "silu", "max_position_embeddings": 1024, "rms_norm_eps": 1e-06, "rope_theta": 10000.0,
    "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 2, "tie_word_embeddings": False,
    "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48,
    "norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": [], "qkv_bias": True, "bos_token_id": 1,
    "eos_token_id": 2}
V, D, L, H, KV, E, K = (CONFIG[k] for k in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                                            "num_key_value_heads", "num_experts", "num_experts_per_tok"))
HD = D // H
GREEDY = 24


def shapes():
    yield "model.embed_tokens.weight", (V, D)
    for i in range(L):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (D,)
        for name, rows in ("q", H * HD), ("k", KV * HD), ("v", KV * HD):
            yield p + f"self_attn.{name}_proj.weight", (rows, D)
            yield p + f"self_attn.{name}_proj.bias", (rows,)
        yield p + "self_attn.o_proj.weight", (D, H * HD)
        yield p + "post_attention_layernorm.weight", (D,)
        yield p + "mlp.gate.weight", (E, D)
        yield p + "mlp.shared_expert_gate.weight", (1, D)
        experts = [("mlp.shared_expert.", CONFIG["shared_expert_intermediate_size"])]
        experts += [(f"mlp.experts.{e}.", CONFIG["moe_intermediate_size"]) for e in range(E)]
        for stem, width in experts:
            yield p + stem + "gate_proj.weight", (width, D)
            yield p + stem + "up_proj.weight", (width, D)
            yield p + stem + "down_proj.weight", (D, width)
    yield "model.norm.weight", (D,)
    yield "lm_head.weight", (V, D)


def values(name, shape, random):
    """Random numbers, scaled so that logits have a standard deviation near 2 and routers are far from uniform."""
    x = random.standard_normal(shape)
    if name.endswith("norm.weight"):
        return 1 + 0.2 * x
    if name.endswith("bias"):
        return 0.3 * x
    if "embed_tokens" in name:
        return x
    gain = 2.0 if "lm_head" in name else 1.5 if name.endswith("gate.weight") else 1.2
    return x * gain / shape[-1] ** 0.5


class Second:
    """The second implementation: float64, one sequence at a time, no cache."""

    def __init__(self, weights):
        self.w = {k: v.astype(np.float64) for k, v in weights.items()}
        self.nearest = np.inf  # The smallest distance between the scores of chosen and other experts.

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + CONFIG["rms_norm_eps"]) * self.w[name]

    def mlp(self, x, stem):
        gate = x @ self.w[stem + "gate_proj.weight"].T
        return (gate / (1 + np.exp(-gate)) * (x @ self.w[stem + "up_proj.weight"].T)) @ self.w[stem + "down_proj.weight"].T

    def rope(self, x):
        half = HD // 2
        angles = np.arange(len(x))[:, None] * CONFIG["rope_theta"] ** (-np.arange(half) / half)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def attention(self, x, p):
        q, k, v = (x @ self.w[f"{p}{n}_proj.weight"].T + self.w[f"{p}{n}_proj.bias"] for n in "qkv")
        q = self.rope(q.reshape(len(x), H, HD))
        k = np.repeat(self.rope(k.reshape(len(x), KV, HD)), H // KV, 1)
        v = np.repeat(v.reshape(len(x), KV, HD), H // KV, 1)
        scores = np.einsum("qhd,khd->hqk", q, k) / HD**0.5
        scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        return np.einsum("hqk,khd->qhd", scores, v).reshape(len(x), -1) @ self.w[p + "o_proj.weight"].T

    def run(self, ids):
        x, router = self.w["model.embed_tokens.weight"][ids], []
        for i in range(L):
            p = f"model.layers.{i}."
            x = x + self.attention(self.norm(x, p + "input_layernorm.weight"), p + "self_attn.")
            h = self.norm(x, p + "post_attention_layernorm.weight")
            scores = np.exp(h @ self.w[p + "mlp.gate.weight"].T)
            scores /= scores.sum(-1, keepdims=True)
            chosen = np.argsort(-scores, -1)[:, :K]
            ranked = -np.sort(-scores, -1)
            self.nearest = min(self.nearest, (ranked[:, K - 1] - ranked[:, K]).min())
            router.append(chosen.astype(np.int32))
            gate = 1 / (1 + np.exp(-(h @ self.w[p + "mlp.shared_expert_gate.weight"].T)))
            x = x + gate * self.mlp(h, p + "mlp.shared_expert.")
            for e in range(E):
                weight = np.where(chosen == e, np.take_along_axis(scores, chosen, -1), 0).sum(-1, keepdims=True)
                x = x + weight * self.mlp(h, f"{p}mlp.experts.{e}.")
        return self.norm(x, "model.norm.weight") @ self.w["lm_head.weight"].T, router


def continued(first, second, ids):
    """Logits of `ids` by mlx-lm, 24 greedy tokens, and the smallest gap between a chosen token and the next best."""
    logits = np.array(first(mx.array(ids[None])))[0]
    all_ids, gap = ids.tolist(), np.inf
    for _ in range(GREEDY):
        last = np.array(first(mx.array([all_ids])))[0, -1]
        other = second.run(np.array(all_ids))[0][-1]
        assert last.argmax() == other.argmax()
        top = np.sort(last)[-2:]
        gap = min(gap, top[1] - top[0])
        all_ids.append(int(last.argmax()))
    return logits, np.array(all_ids[len(ids):], np.int32), gap


def main():
    mx.set_default_device(mx.cpu)
    random = np.random.default_rng(20)
    HERE.mkdir(parents=True, exist_ok=True)
    (HERE / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    (HERE / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}, indent=2) + "\n")
    weights = {name: mx.array(values(name, shape, random)).astype(mx.bfloat16) for name, shape in shapes()}
    mx.save_safetensors(str(HERE / "model.safetensors"), weights, {"format": "pt"})
    first, _ = load_model(HERE)
    first.set_dtype(mx.float32)
    for _ in range(200):
        second = Second({k: np.array(v.astype(mx.float32)) for k, v in weights.items()})
        prompt, longer = (random.integers(3, V, n).astype(np.int32) for n in (48, 300))
        logits, greedy, gap = continued(first, second, prompt)
        long_logits, long_greedy, long_gap = continued(first, second, longer)
        if min(gap, long_gap) > 0.02 and second.nearest > 2e-5:
            break
    else:
        raise SystemExit("no prompt without a near tie")
    other, router = second.run(prompt)
    distance = max(np.abs(other - logits).max(), np.abs(second.run(longer)[0] - long_logits).max())
    assert distance < 1e-4, distance
    print(f"mlx-lm and float64 differ by {distance:.1e}; greedy gap {min(gap, long_gap):.3f}, nearest expert "
          f"{second.nearest:.1e}, logits' deviation {logits.std():.2f}")
    expect = {"prompt": prompt, "logits": logits, "greedy": greedy, "long_prompt": longer,
              "long_logits": long_logits[-4:], "long_greedy": long_greedy}
    expect |= {f"router.{i}": ids for i, ids in enumerate(router)}
    mx.save_safetensors(str(HERE / "expect.safetensors"), {k: mx.array(v) for k, v in expect.items()})


if __name__ == "__main__":
    main()
