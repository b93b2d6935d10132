// Mixtral. Reference: transformers models/mixtral/modeling_mixtral.py.
#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_mixtral.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config));
  ASSIGN_OR_RETURN(const AttentionSettings attention, ReadWindowedAttention(config, sizes));
  ASSIGN_OR_RETURN(MoeSettings experts, ReadExperts(config, sizes,
                                                    {.experts = "num_local_experts",
                                                     .top_k = "num_experts_per_tok",
                                                     .width = "intermediate_size"}));
  experts.weighting = RouteWeights::kRenormalized;
  return DecoderOf("mixtral", sizes, UsualAttention(sizes, attention), [&](int64_t, const std::string& base) {
    MoeSpec moe =
        MoeAt(base + ".block_sparse_moe", sizes.width, experts, {.gate = "w1", .up = "w3", .down = "w2"});
    PlaceRouterBelowMlp(base, "gate", moe);
    return moe;
  });
}

std::string Tiny() {
  return TinyConfig("mixtral", R"("intermediate_size": 320, "num_key_value_heads": 2,
  "num_local_experts": 13, "num_experts_per_tok": 2, "hidden_act": "silu", "rope_theta": 1000000.0,
  "tie_word_embeddings": false, "sliding_window": null)");
}

}  // namespace

extern const Family mixtral;
constinit const Family mixtral = {"mixtral", &Spec, &Tiny};

}  // namespace shoal::families
