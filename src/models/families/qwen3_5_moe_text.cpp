// Qwen3.5 Mixture of Experts without the model around it that sees images. Reference: transformers
// models/qwen3_5_moe/modeling_qwen3_5_moe.py.
#include <string>

#include "base/status.h"
#include "models/families/common/family_qwen3_5.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const Qwen35Parts parts, ReadQwen35(config, Qwen35Place::kAlone));
  ASSIGN_OR_RETURN(const MakeFeedForward experts, ReadQwen35Experts(parts));
  return MakeQwen35("qwen3_5_moe_text", parts, experts);
}

std::string Tiny() {
  return TinyQwen35("qwen3_5_moe_text", R"("moe_intermediate_size": 320,
  "shared_expert_intermediate_size": 448, "num_experts": 13, "num_experts_per_tok": 3)");
}

}  // namespace

extern const Family qwen3_5_moe_text;
constinit const Family qwen3_5_moe_text = {"qwen3_5_moe_text", &Spec, &Tiny, "qwen3_5_moe"};

}  // namespace shoal::families
