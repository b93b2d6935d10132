// Mistral, with or without its sliding window. Reference: transformers models/mistral/modeling_mistral.py.
#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config));
  ASSIGN_OR_RETURN(const AttentionSettings attention, ReadWindowedAttention(config, sizes));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  return DecoderOf("mistral", sizes, UsualAttention(sizes, attention), UsualMlp(sizes, ffn));
}

std::string Tiny() {
  return TinyConfig("mistral", R"("intermediate_size": 384, "num_key_value_heads": 2, "head_dim": 28,
  "hidden_act": "silu", "rope_theta": 10000.0, "tie_word_embeddings": false, "sliding_window": 37)");
}

}  // namespace

extern const Family mistral;
constinit const Family mistral = {"mistral", &Spec, &Tiny};

}  // namespace shoal::families
