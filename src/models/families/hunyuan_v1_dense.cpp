// Hunyuan, the dense ones. Reference: transformers models/hunyuan_v1_dense/modeling_hunyuan_v1_dense.py.
#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_hunyuan.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  RETURN_IF_ERROR(RefuseWindows(config));
  RETURN_IF_ERROR(RequireFlag(config, "mlp_bias", false));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false));
  ASSIGN_OR_RETURN(const MakeMixer attention, ReadHunyuanAttention(config, sizes));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  return DecoderOf("hunyuan_v1_dense", sizes, attention, UsualMlp(sizes, ffn));
}

std::string Tiny() {
  return TinyConfig("hunyuan_v1_dense", R"("intermediate_size": 384, "num_key_value_heads": 2, "head_dim": 28,
  "hidden_act": "silu", "rope_theta": 10000.0, "attention_bias": false, "use_qk_norm": true, "use_cla": false,
  "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0, "beta_fast": 32, "beta_slow": 1,
    "mscale": 1.0, "mscale_all_dim": 1.0}, "tie_word_embeddings": true)");
}

}  // namespace

extern const Family hunyuan_v1_dense;
constinit const Family hunyuan_v1_dense = {"hunyuan_v1_dense", &Spec, &Tiny, "hunyuan_v1_moe"};

}  // namespace shoal::families
