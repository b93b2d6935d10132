// Trinity (AFMoE). Reference: transformers models/afmoe/modeling_afmoe.py.
#include <cmath>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

MoeSpec ExpertsAt(const std::string& base, int64_t width, const MoeSettings& parts) {
  MoeSpec moe = MoeAt(base, width, parts, {.stacks = ".experts"});
  moe.router.linear = LinearAt(base + ".router.gate", parts.experts, width, false);
  moe.router.selection_bias->sources = {{.base = base, .suffix = "expert_bias"}};
  return moe;
}

absl::StatusOr<MoeSettings> ReadAfmoeExperts(const ModelConfig& config, const DecoderSizes& sizes) {
  ASSIGN_OR_RETURN(MoeSettings experts, ReadExperts(config, sizes));
  ASSIGN_OR_RETURN(const int64_t shared, config.required_int("num_shared_experts", {0, 1024}));
  experts.shared_width = shared * experts.width;
  ASSIGN_OR_RETURN(const double factor, config.required_number("route_scale", {0.0, 1e3}));
  experts.routed_scaling_factor = static_cast<float>(factor);
  experts.scores = RouteScores::kSigmoid;
  experts.weighting = RouteWeights::kRenormalized;
  experts.has_selection_bias = true;
  return experts;
}

/// Refuses what the reference does not read, and what would be another model.
absl::Status RefuseOthers(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  RETURN_IF_ERROR(RequireIfPresent(config, "score_func", "sigmoid"));
  RETURN_IF_ERROR(RequireFlag(config, "route_norm", true));
  ASSIGN_OR_RETURN(const std::optional<int64_t> groups, config.optional_int("n_group"));
  if (groups.value_or(1) == 1) return absl::OkStatus();
  return Unimplemented("{}: expected 1, found {}", config.where("n_group"), *groups);
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseOthers(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false));
  AttentionSettings attention{.norm = QkNorm::kPerHead};
  ASSIGN_OR_RETURN(attention.windows,
                   ReadWindowPattern(config, sizes.layers, "global_attn_every_n_layers", 4));
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(config, "attention_bias"));
  attention.o_bias = attention.qkv_bias;
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(const int64_t dense, config.required_int("num_dense_layers", {0, sizes.layers}));
  ASSIGN_OR_RETURN(const MoeSettings experts, ReadAfmoeExperts(config, sizes));
  ASSIGN_OR_RETURN(const bool mup, ReadLateFlag(config, "mup_enabled"));
  const auto feed_forward = [&](int64_t layer, const std::string& base) -> FeedForwardSpec {
    if (layer < dense) return DenseAt(base + ".mlp", sizes.width, ffn, false);
    return ExpertsAt(base + ".mlp", sizes.width, experts);
  };
  ModelSpec spec = DecoderOf("afmoe", sizes, UsualAttention(sizes, attention), feed_forward);
  if (mup) spec.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(sizes.width)));
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const std::string base = fmt::format("model.layers.{}", i);
    LayerSpec& layer = spec.layers[i];
    layer.mixer_out_norm = NormAt(base + ".post_attention_layernorm", sizes.width, sizes.eps);
    layer.feed_forward_norm = NormAt(base + ".pre_mlp_layernorm", sizes.width, sizes.eps);
    layer.feed_forward_out_norm = NormAt(base + ".post_mlp_layernorm", sizes.width, sizes.eps);
    GqaSpec& gqa = std::get<GqaSpec>(layer.mixer);
    gqa.gate = LinearAt(base + ".self_attn.gate_proj", int64_t{gqa.heads} * gqa.head_dim, sizes.width, false);
  }
  RotateOnlyWithWindow(spec);
  return spec;
}

std::string Tiny() {
  return TinyConfig("afmoe",
                    R"("intermediate_size": 384, "moe_intermediate_size": 320, "num_key_value_heads": 2,
  "head_dim": 28, "num_dense_layers": 1, "global_attn_every_n_layers": 3, "sliding_window": 33,
  "num_experts": 13, "num_experts_per_tok": 3, "num_shared_experts": 1, "n_group": 1, "topk_group": 1,
  "route_norm": true, "route_scale": 2.826, "score_func": "sigmoid", "mup_enabled": true,
  "hidden_act": "silu", "rope_theta": 10000.0, "tie_word_embeddings": false)");
}

}  // namespace

extern const Family afmoe;
constinit const Family afmoe = {"afmoe", &Spec, &Tiny};

}  // namespace shoal::families
