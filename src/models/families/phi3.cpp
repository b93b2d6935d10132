// Phi-3 and Phi-4-mini. Reference: transformers models/phi3/modeling_phi3.py.
#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RequireActivation(config, "hidden_act", "silu"));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config));
  AttentionSettings attention;
  ASSIGN_OR_RETURN(attention.windows, ReadWindows(config, sizes.layers));
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(const int rotary, ReadRotaryDims(config, attention.head_dim));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, rotary));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  const int64_t width = sizes.width;
  ModelSpec spec = DecoderOf("phi3", sizes, UsualAttention(sizes, attention), UsualMlp(sizes, ffn));
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const std::string base = fmt::format("model.layers.{}", i);
    GqaSpec& gqa = std::get<GqaSpec>(spec.layers[i].mixer);
    const int64_t q = int64_t{sizes.heads} * attention.head_dim;
    const int64_t kv = int64_t{sizes.kv_heads} * attention.head_dim;
    gqa.q = PartOf(base + ".self_attn.qkv_proj", q + 2 * kv, 0, q, width);
    gqa.k = PartOf(base + ".self_attn.qkv_proj", q + 2 * kv, q, kv, width);
    gqa.v = PartOf(base + ".self_attn.qkv_proj", q + 2 * kv, q + kv, kv, width);
    spec.layers[i].feed_forward = FusedDenseAt(base + ".mlp", width, ffn);
  }
  return spec;
}

std::string Tiny() {
  return TinyConfig("phi3", R"("intermediate_size": 384, "num_key_value_heads": 2, "hidden_act": "silu",
  "rope_theta": 10000.0, "tie_word_embeddings": false, "sliding_window": 45,
  "partial_rotary_factor": 0.8, "original_max_position_embeddings": 73, "rope_scaling": {"type": "longrope",
  "short_factor": [1.0, 1.05, 1.1, 1.2, 1.3, 1.5, 1.8, 2.5],
  "long_factor": [1.0, 1.5, 2.5, 4.0, 6.5, 9.0, 12.0, 14.5]})");
}

}  // namespace

extern const Family phi3;
constinit const Family phi3 = {"phi3", &Spec, &Tiny};

}  // namespace shoal::families
