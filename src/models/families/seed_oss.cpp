// Seed-OSS. Reference: transformers models/seed_oss/modeling_seed_oss.py.
#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  RETURN_IF_ERROR(RefuseWindows(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false));
  AttentionSettings attention;
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  ASSIGN_OR_RETURN(attention.qkv_bias, config.required_bool("attention_bias"));
  ASSIGN_OR_RETURN(attention.o_bias, ReadLateFlag(config, "attention_out_bias"));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(const bool mlp_bias, ReadLateFlag(config, "mlp_bias"));
  return DecoderOf("seed_oss", sizes, UsualAttention(sizes, attention), UsualMlp(sizes, ffn, mlp_bias));
}

std::string Tiny() {
  return TinyConfig("seed_oss", R"("intermediate_size": 384, "num_key_value_heads": 2, "head_dim": 28,
  "hidden_act": "silu", "rope_theta": 10000000.0, "attention_bias": true, "attention_out_bias": false,
  "mlp_bias": false, "rope_scaling": {"rope_type": "default"}, "tie_word_embeddings": false)");
}

}  // namespace

extern const Family seed_oss;
constinit const Family seed_oss = {"seed_oss", &Spec, &Tiny, "llama"};

}  // namespace shoal::families
