// gpt-oss. Reference: transformers models/gpt_oss/modeling_gpt_oss.py.
#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

/// One projection of expert `expert`, as MLX splits them, or as part of the hub's. In floats gate and up
/// stand there as columns 2i and 2i + 1 of [E, D, 2F], down as [E, F, D], biases likewise without the middle
/// axis; in MXFP4 as rows of [E, 2F, D] and [E, D, F], named `<fused>.weight` (encoded_tensors.h).
struct Projection {
  const char* name;   ///< MLX's stack
  const char* fused;  ///< the hub's tensor
  int64_t step = 1;   ///< Columns or rows from one row of the weight to the next,
  int64_t first = 0;  ///< and that of row 0.
};

LinearSpec ExpertLinear(const std::string& base, const Projection& projection, int64_t experts,
                        int64_t expert, int64_t rows, int64_t cols) {
  LinearSpec linear = LinearAt(base + "." + projection.name, rows, cols, true);
  const int64_t stored = rows * projection.step;
  for (WeightRef* ref : {&linear.weight, &*linear.bias}) {
    ref->sources[0].stack = experts;
    ref->sources[0].index = expert;
  }
  WeightSource fused{.base = base, .suffix = projection.fused, .stack = experts, .index = expert};
  fused.strided = WeightSource::StridedView{.stored_shape = {experts, cols, stored},
                                            .offset = projection.first,
                                            .row_stride = projection.step,
                                            .col_stride = stored};
  linear.weight.sources.push_back(fused);
  linear.weight.sources.push_back(
      {.base = base + "." + projection.fused,
       .stack = experts,
       .index = expert,
       .rows = {projection.first, projection.first + (rows - 1) * projection.step + 1},
       .stored_rows = stored,
       .row_interval = projection.step});
  fused.suffix += "_bias";
  fused.strided = WeightSource::StridedView{.stored_shape = {experts, stored},
                                            .offset = projection.first,
                                            .row_stride = 0,
                                            .col_stride = projection.step};
  linear.bias->sources.push_back(fused);
  return linear;
}

MoeSpec ExpertsAt(const std::string& base, int64_t width, const MoeSettings& parts, float limit) {
  constexpr Projection kGate{"gate_proj", "gate_up_proj", 2, 0};
  constexpr Projection kUp{"up_proj", "gate_up_proj", 2, 1};
  constexpr Projection kDown{"down_proj", "down_proj", 1, 0};
  MoeSpec moe;
  moe.top_k = static_cast<int>(parts.top_k);
  moe.router.linear = LinearAt(base + ".router", parts.experts, width, true);
  moe.router.scores = RouteScores::kLogits;
  moe.router.weighting = RouteWeights::kSoftmax;
  for (int64_t e = 0; e < parts.experts; ++e) {
    moe.experts.push_back(
        {.width = parts.width,
         .gate = ExpertLinear(base + ".experts", kGate, parts.experts, e, parts.width, width),
         .up = ExpertLinear(base + ".experts", kUp, parts.experts, e, parts.width, width),
         .down = ExpertLinear(base + ".experts", kDown, parts.experts, e, width, parts.width),
         .gating = Gating::kClampedSwiglu,
         .limit = limit});
  }
  return moe;
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config));
  AttentionSettings attention;
  ASSIGN_OR_RETURN(attention.windows, ReadWindows(config, sizes.layers));
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDim(config));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  ASSIGN_OR_RETURN(attention.qkv_bias, config.required_bool("attention_bias"));
  attention.o_bias = attention.qkv_bias;
  ASSIGN_OR_RETURN(const MoeSettings experts, ReadExperts(config, sizes,
                                                          {.experts = "num_local_experts",
                                                           .top_k = "num_experts_per_tok",
                                                           .width = "intermediate_size"}));
  ASSIGN_OR_RETURN(const double limit, config.required_number("swiglu_limit", {0.0, 1e6}));
  ModelSpec spec =
      DecoderOf("gpt_oss", sizes, UsualAttention(sizes, attention), [&](int64_t, const std::string& base) {
        return ExpertsAt(base + ".mlp", sizes.width, experts, static_cast<float>(limit));
      });
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    std::get<GqaSpec>(spec.layers[i].mixer).sinks =
        WeightRef{.shape = {sizes.heads},
                  .sources = {{.base = fmt::format("model.layers.{}.self_attn", i), .suffix = "sinks"}}};
  }
  return spec;
}

std::string Tiny() {
  return TinyConfig("gpt_oss", R"("intermediate_size": 320, "num_key_value_heads": 2, "head_dim": 28,
  "attention_bias": true, "num_local_experts": 13, "num_experts_per_tok": 4, "swiglu_limit": 1.5,
  "sliding_window": 34, "layer_types": ["sliding_attention", "full_attention", "sliding_attention",
    "full_attention", "sliding_attention", "full_attention", "sliding_attention"],
  "hidden_act": "silu", "rope_theta": 150000,
  "rope_scaling": {"rope_type": "yarn", "factor": 16.0, "beta_fast": 32.0, "beta_slow": 1.0,
    "truncate": false, "original_max_position_embeddings": 64},
  "tie_word_embeddings": false)");
}

}  // namespace

extern const Family gpt_oss;
constinit const Family gpt_oss = {"gpt_oss", &Spec, &Tiny};

}  // namespace shoal::families
