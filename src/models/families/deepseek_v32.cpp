// DeepSeek-V3.2: DeepSeek-V3 with sparse attention. Reference: transformers
// models/deepseek_v32/modeling_deepseek_v32.py.
#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_mla.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RequireFlag(config, "indexer_rope_interleave", false));
  ASSIGN_OR_RETURN(const MakePicks picks, ReadTopPicks(config, RopePairing::kHalfSplit));
  return ReadDeepseekV3(config, "deepseek_v32", picks);
}

std::string Tiny() {
  return TinyConfig("deepseek_v32",
                    R"("intermediate_size": 384, "moe_intermediate_size": 320, "num_key_value_heads": 16,
  "q_lora_rank": 320, "kv_lora_rank": 320, "qk_nope_head_dim": 64, "qk_rope_head_dim": 20,
  "v_head_dim": 20, "n_routed_experts": 13, "n_shared_experts": 1, "num_experts_per_tok": 3,
  "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 1, "topk_group": 1,
  "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": true,
  "routed_scaling_factor": 2.5, "hidden_act": "silu", "rope_theta": 10000.0,
  "rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 64,
    "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0},
  "index_n_heads": 11, "index_head_dim": 36, "index_topk": 14, "tie_word_embeddings": false)");
}

}  // namespace

extern const Family deepseek_v32;
constinit const Family deepseek_v32 = {"deepseek_v32", &Spec, &Tiny, "glm_moe_dsa"};

}  // namespace shoal::families
