// Llama 1 to 3 and whatever shares its code. Reference: transformers models/llama/modeling_llama.py.
#include <optional>

#include "base/status.h"
#include "models/family.h"
#include "models/family_parts.h"

namespace shoal::families {
namespace {

/// Most llama configs leave head_dim out, and the reference then takes hidden_size / num_attention_heads.
absl::StatusOr<int> HeadDim(const ModelConfig& config, const DecoderSizes& sizes) {
  if (config.has("head_dim")) return ReadHeadDim(config);
  if (sizes.width % (2 * sizes.heads) != 0) {
    return InvalidArgument(
        "{}: expected this key, or a hidden_size that is an even multiple of num_attention_heads = {}; "
        "found hidden_size = {}",
        config.where("head_dim"), sizes.heads, sizes.width);
  }
  return static_cast<int>(sizes.width / sizes.heads);
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config));
  ASSIGN_OR_RETURN(const int head_dim, HeadDim(config, sizes));
  ASSIGN_OR_RETURN(const RopeSpec rope, ReadRope(config, head_dim));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(const bool attention_bias, ReadLateFlag(config, "attention_bias"));
  ASSIGN_OR_RETURN(const bool mlp_bias, ReadLateFlag(config, "mlp_bias"));

  ModelSpec spec = DecoderAround("llama", sizes);
  for (int64_t i = 0; i < sizes.layers; ++i) {
    const std::string base = LayerBase(i);
    GqaSpec attention = GqaAt(base + ".self_attn", sizes, head_dim, attention_bias);
    attention.rope = rope;
    spec.layers.push_back(
        {.mixer_norm = NormAt(base + ".input_layernorm", sizes.width, sizes.eps),
         .mixer = std::move(attention),
         .feed_forward_norm = NormAt(base + ".post_attention_layernorm", sizes.width, sizes.eps),
         .feed_forward = DenseAt(base + ".mlp", sizes.width, ffn, mlp_bias)});
  }
  return spec;
}

std::string Tiny() {
  return R"({
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "vocab_size": 331,
  "hidden_size": 320,
  "intermediate_size": 384,
  "num_hidden_layers": 7,
  "num_attention_heads": 16,
  "num_key_value_heads": 2,
  "hidden_act": "silu",
  "max_position_embeddings": 1024,
  "rms_norm_eps": 1e-05,
  "rope_theta": 500000.0,
  "rope_scaling": {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64
  },
  "tie_word_embeddings": false,
  "attention_bias": true,
  "mlp_bias": true,
  "bos_token_id": 1,
  "eos_token_id": 2
})";
}

}  // namespace

extern const Family llama;
constinit const Family llama = {"llama", &Spec, &Tiny};

}  // namespace shoal::families
