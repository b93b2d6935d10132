// Mistral 4: latent attention and experts. Reference: transformers models/mistral4/modeling_mistral4.py.
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_mla.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  RETURN_IF_ERROR(RefuseWindows(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false));
  ASSIGN_OR_RETURN(const MakeMixer attention, ReadLatentAttention(config, sizes, LatentNames::kSplit));
  ASSIGN_OR_RETURN(const QueryTemperature temperature, ReadQueryTemperature(config));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(MoeSettings experts, ReadDeepseekExperts(config, sizes));
  experts.float_router = false;
  ASSIGN_OR_RETURN(experts.weighting, ReadWeighting(config));
  ASSIGN_OR_RETURN(experts.groups, ReadGroups(config, experts));
  experts.groups.by_top_two = true;
  ASSIGN_OR_RETURN(const std::vector<bool> sparse, ReadLayersAfterDense(config, sizes.layers));
  ModelSpec spec = DecoderOf("mistral4", sizes, attention, UsualMoe(sizes, experts, sparse, ffn));
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    std::get<MlaSpec>(spec.layers[i].mixer).temperature = temperature;
    if (auto* moe = std::get_if<MoeSpec>(&spec.layers[i].feed_forward)) {
      FuseExperts(fmt::format("model.layers.{}.mlp", i), experts, *moe);
    }
  }
  return spec;
}

std::string Tiny() {
  return TinyConfig("mistral4",
                    R"("intermediate_size": 384, "moe_intermediate_size": 320, "num_key_value_heads": 16,
  "q_lora_rank": 320, "kv_lora_rank": 320, "qk_nope_head_dim": 64, "qk_rope_head_dim": 20,
  "v_head_dim": 20, "n_routed_experts": 13, "n_shared_experts": 1, "num_experts_per_tok": 3,
  "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "norm_topk_prob": true,
  "routed_scaling_factor": 1.5, "hidden_act": "silu", "rope_interleave": true,
  "rope_parameters": {"type": "yarn", "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4,
    "original_max_position_embeddings": 16, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0,
    "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1},
  "tie_word_embeddings": false)");
}

}  // namespace

extern const Family mistral4;
constinit const Family mistral4 = {"mistral4", &Spec, &Tiny};

}  // namespace shoal::families
