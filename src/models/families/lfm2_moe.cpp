// LFM2 with experts. Reference: transformers models/lfm2_moe/modeling_lfm2_moe.py.
#include <string>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_lfm2.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<MoeSettings> ReadLfm2Experts(const ModelConfig& config, const DecoderSizes& sizes) {
  ASSIGN_OR_RETURN(MoeSettings experts, ReadExperts(config, sizes));
  experts.scores = RouteScores::kSigmoid;
  ASSIGN_OR_RETURN(experts.weighting, ReadWeighting(config));
  ASSIGN_OR_RETURN(const double factor, config.required_number("routed_scaling_factor", {0.0, 1e3}));
  experts.routed_scaling_factor = static_cast<float>(factor);
  ASSIGN_OR_RETURN(experts.has_selection_bias, config.required_bool("use_expert_bias"));
  return experts;
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const Lfm2Parts parts, ReadLfm2(config));
  const DecoderSizes& sizes = parts.sizes;
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(const MoeSettings experts, ReadLfm2Experts(config, sizes));
  ASSIGN_OR_RETURN(const int64_t dense, config.required_int("num_dense_layers", {0, sizes.layers}));
  return MakeLfm2("lfm2_moe", parts, [&](int64_t layer, const std::string& base) -> FeedForwardSpec {
    const std::string at = base + ".feed_forward";
    if (layer < dense) return Lfm2Mlp(at, sizes.width, ffn);
    MoeSpec moe = MoeAt(at, sizes.width, experts, {.gate = "w1", .up = "w3", .down = "w2"});
    moe.router.sum_eps = 1e-6f;
    if (moe.router.selection_bias)
      moe.router.selection_bias->sources[0] = {.base = at, .suffix = "expert_bias"};
    return moe;
  });
}

std::string Tiny() {
  return TinyLfm2("lfm2_moe", R"("intermediate_size": 384, "moe_intermediate_size": 320, "num_experts": 13,
  "num_experts_per_tok": 3, "num_dense_layers": 2, "norm_topk_prob": true, "use_expert_bias": true,
  "routed_scaling_factor": 1.5, "conv_bias": true)");
}

}  // namespace

extern const Family lfm2_moe;
constinit const Family lfm2_moe = {"lfm2_moe", &Spec, &Tiny};

}  // namespace shoal::families
