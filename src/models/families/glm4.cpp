// GLM-4, dense. Reference: transformers models/glm4/modeling_glm4.py.
#include <string>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RequireActivation(config, "hidden_act", "silu"));
  RETURN_IF_ERROR(RefuseWindows(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false));
  AttentionSettings attention;
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDim(config));
  const ModelConfig with_share =
      config.with_defaults(R"({"partial_rotary_factor": 0.5})");  // The reference's.
  ASSIGN_OR_RETURN(const int rotary, ReadRotaryDims(with_share, attention.head_dim));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, rotary));
  attention.rope.pairing = RopePairing::kInterleaved;
  ASSIGN_OR_RETURN(attention.qkv_bias, config.required_bool("attention_bias"));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  const int64_t width = sizes.width;
  ModelSpec spec =
      DecoderOf("glm4", sizes, UsualAttention(sizes, attention),
                [&](int64_t, const std::string& base) { return FusedDenseAt(base + ".mlp", width, ffn); });
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const std::string base = fmt::format("model.layers.{}", i);
    spec.layers[i].mixer_out_norm = NormAt(base + ".post_self_attn_layernorm", width, sizes.eps);
    spec.layers[i].feed_forward_out_norm = NormAt(base + ".post_mlp_layernorm", width, sizes.eps);
  }
  return spec;
}

std::string Tiny() {
  return TinyConfig("glm4", R"("intermediate_size": 384, "num_key_value_heads": 2, "head_dim": 28,
  "hidden_act": "silu", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "attention_bias": true,
  "tie_word_embeddings": false)");
}

}  // namespace

extern const Family glm4;
constinit const Family glm4 = {"glm4", &Spec, &Tiny};

}  // namespace shoal::families
