// Qwen3, dense. Reference: transformers models/qwen3/modeling_qwen3.py.
#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config));
  AttentionSettings attention{.norm = QkNorm::kPerHead};
  ASSIGN_OR_RETURN(attention.windows, ReadWindows(config, sizes.layers));
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDim(config));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(config, "attention_bias"));
  attention.o_bias = attention.qkv_bias;
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  return DecoderOf("qwen3", sizes, UsualAttention(sizes, attention), UsualMlp(sizes, ffn));
}

std::string Tiny() {
  return TinyConfig("qwen3", R"("intermediate_size": 384, "num_key_value_heads": 2, "head_dim": 20,
  "hidden_act": "silu", "rope_theta": 1000000.0, "rope_scaling": null, "tie_word_embeddings": true,
  "attention_bias": false, "use_sliding_window": false, "sliding_window": null)");
}

}  // namespace

extern const Family qwen3;
constinit const Family qwen3 = {"qwen3", &Spec, &Tiny};

}  // namespace shoal::families
