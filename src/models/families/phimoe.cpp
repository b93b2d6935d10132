// Phi-3.5-MoE and Phi-mini-MoE. Reference: transformers models/phimoe/modeling_phimoe.py.
#include <limits>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_mixtral.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

/// The reference's attention takes the short factors whatever the length (its forward asks for them anew, without one);
/// only the magnitude of long sequences is another.
absl::StatusOr<RopeSpec> ReadPhimoeRope(const ModelConfig& config, int head_dim) {
  ASSIGN_OR_RETURN(RopeSpec rope, ReadRopeWithMscales(config, head_dim));
  RopeLong* both = std::get_if<RopeLong>(&rope.scaling);
  if (both == nullptr) return rope;
  both->long_factors = both->short_factors;
  // Without a difference no sequence needs other keys.
  if (*both->long_magnitude == rope.magnitude) both->original_positions = std::numeric_limits<int64_t>::max();
  return rope;
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false));
  AttentionSettings attention;
  ASSIGN_OR_RETURN(attention.windows, ReadWindows(config, sizes.layers));
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(attention.rope, ReadPhimoeRope(config, attention.head_dim));
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(config, "attention_bias"));
  attention.o_bias = attention.qkv_bias;
  ASSIGN_OR_RETURN(MoeSettings experts, ReadExperts(config, sizes,
                                                    {.experts = "num_local_experts",
                                                     .top_k = "num_experts_per_tok",
                                                     .width = "intermediate_size"}));
  if (experts.top_k != 2) {
    return Unimplemented("{}: expected 2, found {}; the reference routes to two experts",
                         config.where("num_experts_per_tok"), experts.top_k);
  }
  experts.scores = RouteScores::kLogits;
  experts.weighting = RouteWeights::kSoftmaxOfNear;
  ASSIGN_OR_RETURN(const double jitter, config.required_number("router_jitter_noise", {0.0, 10.0}));
  ASSIGN_OR_RETURN(const bool head_bias, ReadLateFlag(config, "lm_head_bias"));
  ModelSpec spec =
      DecoderOf("phimoe", sizes, UsualAttention(sizes, attention), [&](int64_t, const std::string& base) {
        MoeSpec moe =
            MoeAt(base + ".block_sparse_moe", sizes.width, experts, {.gate = "w1", .up = "w3", .down = "w2"});
        PlaceRouterBelowMlp(base, "router", moe);
        moe.router.near_distance = static_cast<float>(2 * jitter);
        return moe;
      });
  if (head_bias && sizes.tied_head) {
    return Unimplemented("{}: expected false where the head is tied, found true",
                         config.where("lm_head_bias"));
  }
  if (head_bias) spec.head = LinearAt("lm_head", sizes.vocabulary, sizes.width, true);
  UseLayerNorms(LayerNormBias::kBeside, spec);
  return spec;
}

std::string Tiny() {
  return TinyConfig("phimoe", R"("intermediate_size": 320, "num_key_value_heads": 2, "hidden_act": "silu",
  "num_local_experts": 13, "num_experts_per_tok": 2, "router_jitter_noise": 0.1, "attention_bias": true,
  "lm_head_bias": true, "sliding_window": 512, "rope_theta": 10000.0, "tie_word_embeddings": false,
  "original_max_position_embeddings": 73, "rope_scaling": {"type": "longrope", "short_mscale": 1.1,
    "long_mscale": 1.25, "original_max_position_embeddings": 73,
    "short_factor": [1.0, 1.05, 1.1, 1.2, 1.3, 1.5, 1.8, 2.5, 2.6, 2.7],
    "long_factor": [1.0, 1.5, 2.5, 4.0, 6.5, 9.0, 12.0, 14.5, 15.0, 15.5]})");
}

}  // namespace

extern const Family phimoe;
constinit const Family phimoe = {"phimoe", &Spec, &Tiny};

}  // namespace shoal::families
