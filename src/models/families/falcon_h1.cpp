// Falcon H1. Reference: transformers models/falcon_h1/modeling_falcon_h1.py.
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_mamba.h"
#include "models/family.h"

namespace shoal::families {
namespace {

struct Multipliers {
  double attention_in = 1, key = 1, attention_out = 1;
  double ssm_in = 1, ssm_out = 1;
  std::vector<double> ssm;  ///< Of gate, x, B, C and steps.
  std::vector<double> mlp;  ///< Of the gate and of the output.
};

/// `count` factors, all 1 where absent.
absl::StatusOr<std::vector<double>> ReadMultiplierList(const ModelConfig& config, const char* key,
                                                       size_t count) {
  ASSIGN_OR_RETURN(std::vector<double> factors, config.number_list(key, {1e-6, 1e6}));
  if (factors.empty()) factors.assign(count, 1.0);
  if (factors.size() == count) return factors;
  return InvalidArgument("{}: expected {} numbers, found {}", config.where(key), count, config.excerpt(key));
}

absl::StatusOr<Multipliers> ReadMultipliers(const ModelConfig& config) {
  Multipliers all;
  ASSIGN_OR_RETURN(all.attention_in, ReadFactor(config, "attention_in_multiplier"));
  ASSIGN_OR_RETURN(all.key, ReadFactor(config, "key_multiplier"));
  ASSIGN_OR_RETURN(all.attention_out, ReadFactor(config, "attention_out_multiplier"));
  ASSIGN_OR_RETURN(all.ssm_in, ReadFactor(config, "ssm_in_multiplier"));
  ASSIGN_OR_RETURN(all.ssm_out, ReadFactor(config, "ssm_out_multiplier"));
  ASSIGN_OR_RETURN(all.ssm, ReadMultiplierList(config, "ssm_multipliers", 5));
  ASSIGN_OR_RETURN(all.mlp, ReadMultiplierList(config, "mlp_multipliers", 2));
  return all;
}

/// The same multipliers for all layers.
absl::StatusOr<Mamba2Settings> ReadFalconMamba(const ModelConfig& config, const Multipliers& multipliers) {
  ASSIGN_OR_RETURN(Mamba2Settings mamba, ReadMamba2(config, {}));
  ASSIGN_OR_RETURN(const int64_t width, config.required_int("hidden_size"));
  ASSIGN_OR_RETURN(const std::optional<int64_t> expand, config.optional_int("mamba_expand", {1, 64}));
  ASSIGN_OR_RETURN(const std::optional<int64_t> inner, config.optional_int("mamba_d_ssm"));
  const int64_t expected = inner.value_or(expand.value_or(2) * width);  // As in the reference.
  if (mamba.sizes.inner() != expected) {
    return InvalidArgument("{}: expected mamba_n_heads * mamba_d_head = {}, found {}",
                           config.where("mamba_d_ssm"), mamba.sizes.inner(), expected);
  }
  const auto of = [&](size_t i) { return static_cast<float>(multipliers.ssm_in * multipliers.ssm[i]); };
  mamba.sizes.factors = {.gate = of(0), .x = of(1), .b = of(2), .c = of(3), .step = of(4)};
  ASSIGN_OR_RETURN(const std::optional<bool> first, config.optional_bool("mamba_norm_before_gate"));
  mamba.sizes.norm_before_gate = first.value_or(true);  // As in the reference.
  return mamba;
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RequireActivation(config, "hidden_act", "silu"));
  // The multipliers below are applied where no bias stands in between.
  for (const char* bias : {"attention_bias", "mamba_proj_bias", "projectors_bias"}) {
    RETURN_IF_ERROR(RequireFlag(config, bias, false));
  }
  RETURN_IF_ERROR(RequireFlag(config, "mamba_use_mlp", true));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false));
  ASSIGN_OR_RETURN(const Multipliers multipliers, ReadMultipliers(config));
  ASSIGN_OR_RETURN(const Mamba2Settings mamba, ReadFalconMamba(config, multipliers));
  ASSIGN_OR_RETURN(const bool normed, ReadLateFlag(config, "mamba_rms_norm"));
  AttentionSettings attention;
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(const bool mlp_bias, ReadLateFlag(config, "mlp_bias"));
  const auto mixer = [&](int64_t, const std::string& base) {
    AttentionBesideMamba2Spec both{.attention = GqaAt(base + ".self_attn", sizes, attention),
                                   .mamba = Mamba2At(base + ".mamba", sizes.width, sizes.eps, mamba),
                                   .attention_scale = static_cast<float>(multipliers.attention_out),
                                   .mamba_scale = static_cast<float>(multipliers.ssm_out)};
    // Queries, keys and values are linear in the input, and scores in both of the former.
    const double in = multipliers.attention_in;
    both.attention.scale = in * in * multipliers.key / std::sqrt(static_cast<double>(attention.head_dim));
    both.attention.value_scale = static_cast<float>(in);
    if (!normed) both.mamba.norm.reset();
    // mlx-lm's folders have the multipliers in their weights, but not that of keys: with that layout none is read.
    both.mamba.conv.sources.resize(1);
    return both;
  };
  ModelSpec spec = DecoderOf("falcon_h1", sizes, mixer, UsualMlp(sizes, ffn, mlp_bias));
  for (LayerSpec& layer : spec.layers) {
    std::get<DenseSpec>(layer.feed_forward).gate_scale = static_cast<float>(multipliers.mlp[0]);
    layer.feed_forward_scale = static_cast<float>(multipliers.mlp[1]);
  }
  ASSIGN_OR_RETURN(const double embedding, ReadFactor(config, "embedding_multiplier"));
  ASSIGN_OR_RETURN(const double logits, ReadFactor(config, "lm_head_multiplier"));
  spec.embedding_scale = static_cast<float>(embedding);
  spec.logits_scale = static_cast<float>(logits);
  NameAsFeedForward(spec);
  return spec;
}

std::string Tiny() {
  return TinyConfig("falcon_h1", R"("intermediate_size": 384, "num_key_value_heads": 2, "head_dim": 20,
  "hidden_act": "silu", "rope_theta": 100000000000.0, "rope_scaling": null, "tie_word_embeddings": false,
  "attention_bias": false, "mlp_bias": true, "projectors_bias": false, "mamba_proj_bias": false,
  "mamba_conv_bias": true, "mamba_d_ssm": 384, "mamba_n_heads": 6, "mamba_d_head": 64, "mamba_n_groups": 2,
  "mamba_d_state": 20, "mamba_d_conv": 4, "mamba_rms_norm": true, "mamba_norm_before_gate": false,
  "mamba_use_mlp": true, "attention_in_multiplier": 1.5, "attention_out_multiplier": 0.8, "key_multiplier": 0.7,
  "embedding_multiplier": 2.5, "lm_head_multiplier": 0.5, "mlp_multipliers": [0.9, 1.2],
  "ssm_in_multiplier": 1.25, "ssm_out_multiplier": 0.6, "ssm_multipliers": [0.7, 1.2, 0.8, 1.1, 0.9])");
}

}  // namespace

extern const Family falcon_h1;
constinit const Family falcon_h1 = {"falcon_h1", &Spec, &Tiny};

}  // namespace shoal::families
