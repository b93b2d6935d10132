// Granite 3 with experts. Reference: transformers models/granitemoe/modeling_granitemoe.py.
#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_granite.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  RETURN_IF_ERROR(RefuseWindows(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false));
  ASSIGN_OR_RETURN(const AttentionSettings attention, ReadGraniteAttention(config, sizes));
  ASSIGN_OR_RETURN(const MoeSettings experts, ReadGraniteExperts(config, sizes));
  ModelSpec spec =
      DecoderOf("granitemoe", sizes, UsualAttention(sizes, attention), [&](int64_t, const std::string& base) {
        return GraniteExpertsAt(base + ".block_sparse_moe", sizes.width, experts);
      });
  RETURN_IF_ERROR(ApplyGraniteMultipliers(config, spec));
  return spec;
}

std::string Tiny() {
  return TinyConfig("granitemoe", R"("intermediate_size": 320, "num_key_value_heads": 2, "hidden_act": "silu",
  "rope_theta": 10000.0, "rope_scaling": null, "tie_word_embeddings": true, "attention_bias": false,
  "num_local_experts": 13, "num_experts_per_tok": 4, "embedding_multiplier": 12.0,
  "residual_multiplier": 0.22, "attention_multiplier": 0.1, "logits_scaling": 6.0)");
}

}  // namespace

extern const Family granitemoe;
constinit const Family granitemoe = {"granitemoe", &Spec, &Tiny};

}  // namespace shoal::families
