// Qwen3.5 Mixture of Experts, text only. Reference: transformers models/qwen3_5_moe/modeling_qwen3_5_moe.py.
#include <string>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_moe.h"
#include "models/families/common/family_qwen3_5.h"
#include "models/families/common/nested_text_config.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::Status RefuseDenseLayers(const ModelConfig& text) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> dense, text.int_list("mlp_only_layers"));
  if (!dense.empty()) {
    return Unimplemented("{}: expected [], found {}; the reference of this family has experts in every layer",
                         text.where("mlp_only_layers"), text.excerpt("mlp_only_layers"));
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const Qwen35Parts parts, ReadQwen35(config, Qwen35Place::kNested));
  const ModelConfig& text = parts.text;
  const DecoderSizes& sizes = parts.sizes;
  RETURN_IF_ERROR(RefuseDenseLayers(text));
  ASSIGN_OR_RETURN(MoeSettings experts, ReadExperts(text, sizes));
  experts.weighting = RouteWeights::kRenormalized;
  ASSIGN_OR_RETURN(const int64_t shared, text.required_int("shared_expert_intermediate_size"));
  const auto feed_forward = [&](int64_t, const std::string& base) -> FeedForwardSpec {
    MoeSpec moe = MoeAt(base + ".mlp", sizes.width, experts);
    FuseExperts(base + ".mlp", experts, moe);
    moe.shared = DenseAt(base + ".mlp.shared_expert", sizes.width, shared, false);
    moe.shared_gate = MatrixAt(base + ".mlp.shared_expert_gate", 1, sizes.width);
    return moe;
  };
  return MakeQwen35("qwen3_5_moe", parts, feed_forward);
}

std::string Tiny() {
  return NestTextConfig("qwen3_5_moe", TinyQwen35("qwen3_5_moe_text", R"("moe_intermediate_size": 320,
  "shared_expert_intermediate_size": 448, "num_experts": 13, "num_experts_per_tok": 3)"));
}

}  // namespace

extern const Family qwen3_5_moe;
constinit const Family qwen3_5_moe = {"qwen3_5_moe", &Spec, &Tiny};

}  // namespace shoal::families
