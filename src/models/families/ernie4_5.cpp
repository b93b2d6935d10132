// ERNIE 4.5, the dense ones. Reference: transformers models/ernie4_5/modeling_ernie4_5.py.
#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  RETURN_IF_ERROR(RefuseWindows(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, true));
  AttentionSettings attention;
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  attention.rope.pairing = RopePairing::kInterleaved;
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(config, "use_bias"));
  attention.o_bias = attention.qkv_bias;
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  return DecoderOf("ernie4_5", sizes, UsualAttention(sizes, attention),
                   UsualMlp(sizes, ffn, attention.qkv_bias));
}

std::string Tiny() {
  return TinyConfig("ernie4_5", R"("intermediate_size": 384, "num_key_value_heads": 2, "head_dim": 28,
  "hidden_act": "silu", "rope_theta": 500000.0, "tie_word_embeddings": true, "use_bias": true)");
}

}  // namespace

extern const Family ernie4_5;
constinit const Family ernie4_5 = {"ernie4_5", &Spec, &Tiny, "llama"};

}  // namespace shoal::families
