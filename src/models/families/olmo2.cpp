// OLMo 2. Reference: transformers models/olmo2/modeling_olmo2.py.
#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  RETURN_IF_ERROR(RefuseWindows(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false));
  AttentionSettings attention{.norm = QkNorm::kWhole};
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(config, "attention_bias"));
  attention.o_bias = attention.qkv_bias;
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ModelSpec spec = DecoderOf("olmo2", sizes, UsualAttention(sizes, attention), UsualMlp(sizes, ffn));
  NormOutputsOnly(sizes, spec);
  return spec;
}

std::string Tiny() {
  return TinyConfig("olmo2", R"("intermediate_size": 384, "num_key_value_heads": 2, "hidden_act": "silu",
  "head_dim": 28, "rope_theta": 500000.0, "rope_scaling": null, "tie_word_embeddings": false,
  "attention_bias": false)");
}

}  // namespace

extern const Family olmo2;
constinit const Family olmo2 = {"olmo2", &Spec, &Tiny};

}  // namespace shoal::families
