// DeepSeek-V2. Reference: transformers models/deepseek_v2/modeling_deepseek_v2.py.
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_mla.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

/// How groups are used: topk_method.
absl::Status ReadChoice(const ModelConfig& config, MoeSettings& experts) {
  ASSIGN_OR_RETURN(const std::string method, config.required_string("topk_method"));
  if (method == "group_limited_greedy") {
    ASSIGN_OR_RETURN(experts.groups, ReadGroups(config, experts));
  } else if (method != "greedy") {
    return Unimplemented("{}: expected \"greedy\" or \"group_limited_greedy\", found \"{}\"",
                         config.where("topk_method"), method);
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  RETURN_IF_ERROR(RefuseWindows(config));
  RETURN_IF_ERROR(RequireIfPresent(config, "scoring_func", "softmax"));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config));
  ASSIGN_OR_RETURN(const MakeMixer attention, ReadLatentAttention(config, sizes, LatentNames::kFused));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  // norm_topk_prob has no effect in the reference.
  ASSIGN_OR_RETURN(MoeSettings experts, ReadDeepseekExperts(config, sizes));
  RETURN_IF_ERROR(ReadChoice(config, experts));
  ASSIGN_OR_RETURN(const std::vector<bool> sparse, ReadLayersAfterDense(config, sizes.layers));
  return DecoderOf("deepseek_v2", sizes, attention, UsualMoe(sizes, experts, sparse, ffn));
}

std::string Tiny() {
  return TinyConfig("deepseek_v2",
                    R"("intermediate_size": 384, "moe_intermediate_size": 320, "num_key_value_heads": 16,
  "q_lora_rank": null, "kv_lora_rank": 320, "qk_nope_head_dim": 64, "qk_rope_head_dim": 20,
  "v_head_dim": 20, "n_routed_experts": 13, "n_shared_experts": 2, "num_experts_per_tok": 4,
  "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 1, "topk_group": 1,
  "topk_method": "greedy", "scoring_func": "softmax", "norm_topk_prob": false,
  "routed_scaling_factor": 1.5, "hidden_act": "silu", "rope_theta": 10000.0,
  "rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 64,
    "beta_fast": 32, "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 1.0},
  "tie_word_embeddings": false)");
}

}  // namespace

extern const Family deepseek_v2;
constinit const Family deepseek_v2 = {"deepseek_v2", &Spec, &Tiny};

}  // namespace shoal::families
