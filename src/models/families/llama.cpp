// Llama 1 to 3 and whatever shares its code. Reference: transformers models/llama/modeling_llama.py.
#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  RETURN_IF_ERROR(RefuseWindows(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config));
  AttentionSettings attention;
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(config, "attention_bias"));
  attention.o_bias = attention.qkv_bias;
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(const bool mlp_bias, ReadLateFlag(config, "mlp_bias"));
  return DecoderOf("llama", sizes, UsualAttention(sizes, attention), UsualMlp(sizes, ffn, mlp_bias));
}

std::string Tiny() {
  return TinyConfig("llama", R"("intermediate_size": 384, "num_key_value_heads": 2, "hidden_act": "silu",
  "rope_theta": 500000.0,
  "rope_scaling": {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64
  },
  "tie_word_embeddings": false, "attention_bias": true, "mlp_bias": true)");
}

}  // namespace

extern const Family llama;
constinit const Family llama = {"llama", &Spec, &Tiny};

}  // namespace shoal::families
