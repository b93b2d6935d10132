// Kimi K2. Reference: transformers models/deepseek_v3/modeling_deepseek_v3.py, which the hub's own code is.
#include "models/families/common/family_common.h"
#include "models/families/common/family_mla.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) { return ReadDeepseekV3(config, "kimi_k2"); }

std::string Tiny() {
  return TinyConfig("kimi_k2",
                    R"("intermediate_size": 384, "moe_intermediate_size": 320, "num_key_value_heads": 16,
  "q_lora_rank": 320, "kv_lora_rank": 320, "qk_nope_head_dim": 64, "qk_rope_head_dim": 20,
  "v_head_dim": 20, "n_routed_experts": 13, "n_shared_experts": 1, "num_experts_per_tok": 3,
  "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 1, "topk_group": 1,
  "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": true,
  "routed_scaling_factor": 2.827, "hidden_act": "silu", "rope_theta": 50000.0,
  "rope_scaling": {"type": "yarn", "factor": 32, "original_max_position_embeddings": 64,
    "beta_fast": 1.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0},
  "tie_word_embeddings": false)");
}

}  // namespace

extern const Family kimi_k2;
constinit const Family kimi_k2 = {"kimi_k2", &Spec, &Tiny, "deepseek_v3"};

}  // namespace shoal::families
