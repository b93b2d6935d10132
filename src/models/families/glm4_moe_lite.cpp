// GLM-4.7-Flash. Reference: transformers models/glm4_moe_lite/modeling_glm4_moe_lite.py.
#include "models/families/common/family_common.h"
#include "models/families/common/family_mla.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) { return ReadDeepseekV3(config, "glm4_moe_lite"); }

std::string Tiny() {
  return TinyConfig("glm4_moe_lite",
                    R"("intermediate_size": 384, "moe_intermediate_size": 320, "num_key_value_heads": 16,
  "q_lora_rank": 320, "kv_lora_rank": 320, "qk_nope_head_dim": 64, "qk_rope_head_dim": 20,
  "v_head_dim": 28, "n_routed_experts": 13, "n_shared_experts": 1, "num_experts_per_tok": 3,
  "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 1, "topk_group": 1,
  "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": true,
  "routed_scaling_factor": 2.5, "hidden_act": "silu", "rope_theta": 10000.0,
  "tie_word_embeddings": false)");
}

}  // namespace

extern const Family glm4_moe_lite;
constinit const Family glm4_moe_lite = {"glm4_moe_lite", &Spec, &Tiny, "deepseek_v3"};

}  // namespace shoal::families
