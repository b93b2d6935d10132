// MiniMax-M2. Reference: transformers models/minimax_m2/modeling_minimax_m2.py.
#include <optional>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_mixtral.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  RETURN_IF_ERROR(RefuseWindows(config));
  RETURN_IF_ERROR(RequireIfPresent(config, "scoring_func", "sigmoid"));
  RETURN_IF_ERROR(RequireIfPresent(config, "qk_norm_type", "per_layer"));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false));
  AttentionSettings attention;
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDim(config));
  ASSIGN_OR_RETURN(const int64_t rotary, config.required_int("rotary_dim", {2, attention.head_dim}));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, static_cast<int>(rotary)));
  ASSIGN_OR_RETURN(const bool qk_norm, config.required_bool("use_qk_norm"));
  if (qk_norm) attention.norm = QkNorm::kWhole;
  ASSIGN_OR_RETURN(MoeSettings experts, ReadExperts(config, sizes,
                                                    {.experts = "num_local_experts",
                                                     .top_k = "num_experts_per_tok",
                                                     .width = "intermediate_size"}));
  experts.scores = RouteScores::kSigmoid;
  experts.weighting = RouteWeights::kRenormalized;
  ASSIGN_OR_RETURN(experts.has_selection_bias, config.required_bool("use_routing_bias"));
  ASSIGN_OR_RETURN(const std::optional<int64_t> shared,
                   config.optional_int("shared_intermediate_size", kAnyCount));
  if (shared.value_or(0) != 0) {
    return Unimplemented("{}: expected 0, found {}; shared experts of this family are not built",
                         config.where("shared_intermediate_size"), *shared);
  }
  return DecoderOf("minimax_m2", sizes, UsualAttention(sizes, attention),
                   [&](int64_t, const std::string& base) {
                     MoeSpec moe = MoeAt(base + ".block_sparse_moe", sizes.width, experts,
                                         {.gate = "w1", .up = "w3", .down = "w2", .selection_bias = ""});
                     PlaceRouterBelowMlp(base, "gate", moe);
                     return moe;
                   });
}

std::string Tiny() {
  return TinyConfig("minimax_m2",
                    R"("intermediate_size": 320, "num_key_value_heads": 2, "head_dim": 28, "rotary_dim": 12,
  "use_qk_norm": true, "qk_norm_type": "per_layer", "num_local_experts": 13, "num_experts_per_tok": 3,
  "scoring_func": "sigmoid", "use_routing_bias": true, "shared_intermediate_size": 0,
  "hidden_act": "silu", "rope_theta": 5000000.0, "tie_word_embeddings": false)");
}

}  // namespace

extern const Family minimax_m2;
constinit const Family minimax_m2 = {"minimax_m2", &Spec, &Tiny};

}  // namespace shoal::families
