// Apertus. Reference: transformers models/apertus/modeling_apertus.py.
#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/family.h"

namespace shoal::families {
namespace {

/// A vector of one value, or on the hub a scalar.
WeightRef ParameterAt(const std::string& base, const char* name) {
  return {.shape = {1}, .sources = {{.base = base, .suffix = name}}};
}

DenseSpec MlpAt(const std::string& base, int64_t width, int64_t ffn) {
  DenseSpec mlp = UngatedOf(LinearAt(base + ".up_proj", ffn, width, false),
                            LinearAt(base + ".down_proj", width, ffn, false), Activation::kXielu);
  const std::string act = base + ".act_fn";
  mlp.xielu = XieluSpec{.alpha_p = ParameterAt(act, "alpha_p"),
                        .alpha_n = ParameterAt(act, "alpha_n"),
                        .beta = ParameterAt(act, "beta"),
                        .eps = ParameterAt(act, "eps")};
  return mlp;
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RequireActivation(config, "hidden_act", "xielu"));
  RETURN_IF_ERROR(RefuseWindows(config));
  RETURN_IF_ERROR(RequireFlag(config, "qk_norm", true));
  RETURN_IF_ERROR(RequireFlag(config, "post_norm", false));
  RETURN_IF_ERROR(RequireFlag(config, "mlp_bias", false));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false));
  AttentionSettings attention{.norm = QkNorm::kPerHead};
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(config, "attention_bias"));
  attention.o_bias = attention.qkv_bias;
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ModelSpec spec =
      DecoderOf("apertus", sizes, UsualAttention(sizes, attention),
                [&](int64_t, const std::string& base) { return MlpAt(base + ".mlp", sizes.width, ffn); });
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const std::string base = fmt::format("model.layers.{}", i);
    spec.layers[i].mixer_norm = NormAt(base + ".attention_layernorm", sizes.width, sizes.eps);
    spec.layers[i].feed_forward_norm = NormAt(base + ".feedforward_layernorm", sizes.width, sizes.eps);
  }
  return spec;
}

std::string Tiny() {
  return TinyConfig("apertus", R"("intermediate_size": 384, "num_key_value_heads": 2, "hidden_act": "xielu",
  "rope_theta": 12000000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64}, "qk_norm": true, "post_norm": false,
  "attention_bias": false, "mlp_bias": false, "tie_word_embeddings": false)");
}

}  // namespace

extern const Family apertus;
constinit const Family apertus = {"apertus", &Spec, &Tiny};

}  // namespace shoal::families
