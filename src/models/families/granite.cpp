// Granite 3 and the dense ones of Granite 4. Reference: transformers models/granite/modeling_granite.py.
#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_granite.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  RETURN_IF_ERROR(RefuseWindows(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false));
  ASSIGN_OR_RETURN(const AttentionSettings attention, ReadGraniteAttention(config, sizes));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(const bool mlp_bias, ReadLateFlag(config, "mlp_bias"));
  ModelSpec spec =
      DecoderOf("granite", sizes, UsualAttention(sizes, attention), UsualMlp(sizes, ffn, mlp_bias));
  RETURN_IF_ERROR(ApplyGraniteMultipliers(config, spec));
  return spec;
}

std::string Tiny() {
  return TinyConfig("granite", R"("intermediate_size": 384, "num_key_value_heads": 2, "hidden_act": "silu",
  "rope_theta": 10000.0, "rope_scaling": null, "tie_word_embeddings": true, "attention_bias": false,
  "mlp_bias": false, "embedding_multiplier": 12.0, "residual_multiplier": 0.22,
  "attention_multiplier": 0.1, "logits_scaling": 8.0)");
}

}  // namespace

extern const Family granite;
constinit const Family granite = {"granite", &Spec, &Tiny, "granitemoe"};

}  // namespace shoal::families
