// K-EXAONE. Reference: transformers models/exaone_moe/modeling_exaone_moe.py.
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  RETURN_IF_ERROR(RequireIfPresent(config, "scoring_func", "sigmoid"));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false));
  AttentionSettings attention{.norm = QkNorm::kPerHead};
  if (config.has("sliding_window")) {
    ASSIGN_OR_RETURN(attention.windows, ReadWindowPattern(config, sizes.layers, "sliding_window_pattern", 4));
  }
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(MoeSettings experts, ReadExperts(config, sizes));
  ASSIGN_OR_RETURN(const int64_t shared, config.required_int("num_shared_experts", {0, 1024}));
  experts.shared_width = shared * experts.width;
  ASSIGN_OR_RETURN(const double factor, config.required_number("routed_scaling_factor", {0.0, 1e3}));
  experts.routed_scaling_factor = static_cast<float>(factor);
  RETURN_IF_ERROR(ReadDeepseekV3Routing(config, experts));
  ASSIGN_OR_RETURN(const std::vector<bool> sparse, ReadMlpLayerTypes(config, sizes.layers));
  ModelSpec spec =
      DecoderOf("exaone_moe", sizes, UsualAttention(sizes, attention), UsualMoe(sizes, experts, sparse, ffn));
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    auto* moe = std::get_if<MoeSpec>(&spec.layers[i].feed_forward);
    if (moe == nullptr) continue;  // The hub has the selection bias beside the router, mlx-lm below it.
    std::vector<WeightSource>& places = moe->router.selection_bias->sources;
    places.insert(places.begin(),
                  {.base = fmt::format("model.layers.{}.mlp", i), .suffix = "e_score_correction_bias"});
  }
  RotateOnlyWithWindow(spec);
  spec.ignored_tensors.emplace_back("mtp.", "unused heads for multi-token prediction");
  return spec;
}

std::string Tiny() {
  return TinyConfig("exaone_moe",
                    R"("intermediate_size": 384, "moe_intermediate_size": 320, "num_key_value_heads": 2,
  "head_dim": 28, "hidden_act": "silu", "sliding_window": 33, "layer_types": ["sliding_attention",
    "sliding_attention", "sliding_attention", "full_attention", "sliding_attention", "sliding_attention",
    "full_attention"], "mlp_layer_types": ["dense", "sparse", "sparse", "sparse", "sparse", "sparse",
    "sparse"], "num_experts": 13, "num_experts_per_tok": 3, "num_shared_experts": 1, "n_group": 1,
  "topk_group": 1, "norm_topk_prob": true, "scoring_func": "sigmoid", "routed_scaling_factor": 2.5,
  "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"}, "tie_word_embeddings": false)");
}

}  // namespace

extern const Family exaone_moe;
constinit const Family exaone_moe = {"exaone_moe", &Spec, &Tiny, "glm4_moe"};

}  // namespace shoal::families
