// Qwen3, dense. Reference: transformers models/qwen3/modeling_qwen3.py.
#include "base/status.h"
#include "models/family.h"
#include "models/family_parts.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config));
  ASSIGN_OR_RETURN(const int head_dim, ReadHeadDim(config));
  ASSIGN_OR_RETURN(const RopeSpec rope, ReadRope(config, head_dim));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(const bool attention_bias, ReadLateFlag(config, "attention_bias"));

  ModelSpec spec = DecoderAround("qwen3", sizes);
  for (int64_t i = 0; i < sizes.layers; ++i) {
    const std::string base = LayerBase(i);
    GqaSpec attention = GqaAt(base + ".self_attn", sizes, head_dim, attention_bias);
    attention.q_norm = NormAt(base + ".self_attn.q_norm", head_dim, sizes.eps);
    attention.k_norm = NormAt(base + ".self_attn.k_norm", head_dim, sizes.eps);
    attention.rope = rope;
    spec.layers.push_back(
        {.mixer_norm = NormAt(base + ".input_layernorm", sizes.width, sizes.eps),
         .mixer = std::move(attention),
         .feed_forward_norm = NormAt(base + ".post_attention_layernorm", sizes.width, sizes.eps),
         .feed_forward = DenseAt(base + ".mlp", sizes.width, ffn, false)});
  }
  return spec;
}

std::string Tiny() {
  return R"({
  "architectures": ["Qwen3ForCausalLM"],
  "model_type": "qwen3",
  "vocab_size": 331,
  "hidden_size": 320,
  "intermediate_size": 384,
  "num_hidden_layers": 7,
  "num_attention_heads": 16,
  "num_key_value_heads": 2,
  "head_dim": 20,
  "hidden_act": "silu",
  "max_position_embeddings": 1024,
  "rms_norm_eps": 1e-06,
  "rope_theta": 1000000.0,
  "rope_scaling": null,
  "tie_word_embeddings": true,
  "attention_bias": false,
  "use_sliding_window": false,
  "sliding_window": null,
  "bos_token_id": 1,
  "eos_token_id": 2
})";
}

}  // namespace

extern const Family qwen3;
constinit const Family qwen3 = {"qwen3", &Spec, &Tiny};

}  // namespace shoal::families
