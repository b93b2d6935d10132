// Qwen2.5-VL with a tower for images, of which the text model runs: Qwen2's. Reference: transformers
// models/qwen2_5_vl/modeling_qwen2_5_vl.py.
#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/nested_text_config.h"
#include "models/family.h"

namespace shoal::families {

extern const Family qwen2;

namespace {

/// The hub's configs have the text model's keys among their own, newer ones in text_config.
absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  constexpr char kDefaults[] = R"({"tie_word_embeddings": false})";
  if (config.has("text_config")) {
    const NestedText texts[] = {{"qwen2_5_vl_text", qwen2.spec, kDefaults}};
    return NestedTextModel(config, texts, NestedNames::kPlain);
  }
  ASSIGN_OR_RETURN(ModelSpec spec, qwen2.spec(config.with_defaults(kDefaults)));
  spec.model_type = "qwen2_5_vl";
  PlaceBelowLanguageModel(spec, NestedNames::kPlain);
  IgnoreTowers(spec);
  return spec;
}

std::string Tiny() {
  return TinyConfig("qwen2_5_vl", R"("intermediate_size": 384, "num_key_value_heads": 2, "hidden_act": "silu",
  "rope_theta": 1000000.0, "rope_scaling": {"type": "mrope", "mrope_section": [4, 3, 3]},
  "tie_word_embeddings": false, "use_sliding_window": false, "sliding_window": 64, "max_window_layers": 7,
  "vision_config": {"depth": 1, "hidden_size": 32})");
}

}  // namespace

extern const Family qwen2_5_vl;
constinit const Family qwen2_5_vl = {"qwen2_5_vl", &Spec, &Tiny, "qwen2"};

}  // namespace shoal::families
