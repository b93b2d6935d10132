// EXAONE 4. Reference: transformers models/exaone4/modeling_exaone4.py.
#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false));
  AttentionSettings attention{.norm = QkNorm::kPerHead};
  if (config.has("sliding_window")) {  // The smaller one has none.
    ASSIGN_OR_RETURN(attention.windows, ReadWindowPattern(config, sizes.layers, "sliding_window_pattern", 4));
  }
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ModelSpec spec = DecoderOf("exaone4", sizes, UsualAttention(sizes, attention), UsualMlp(sizes, ffn));
  NormOutputsOnly(sizes, spec);
  RotateOnlyWithWindow(spec);
  return spec;
}

std::string Tiny() {
  return TinyConfig("exaone4", R"("intermediate_size": 384, "num_key_value_heads": 2, "head_dim": 28,
  "hidden_act": "silu", "sliding_window": 33, "sliding_window_pattern": "LLLG", "layer_types":
  ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention", "sliding_attention",
    "sliding_attention", "full_attention"], "rope_theta": 1000000, "rope_scaling": {"rope_type": "llama3",
    "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
  "tie_word_embeddings": false)");
}

}  // namespace

extern const Family exaone4;
constinit const Family exaone4 = {"exaone4", &Spec, &Tiny, "olmo2"};

}  // namespace shoal::families
