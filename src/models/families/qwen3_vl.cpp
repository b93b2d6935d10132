// Qwen3-VL with a tower for images, of which the text model runs: Qwen3's. Reference: transformers
// models/qwen3_vl/modeling_qwen3_vl.py.
#include "models/families/common/family_common.h"
#include "models/families/common/nested_text_config.h"
#include "models/family.h"

namespace shoal::families {

extern const Family qwen3;

namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  constexpr char kDefaults[] = R"({"head_dim": 128, "tie_word_embeddings": false})";
  const NestedText texts[] = {{"qwen3_vl_text", qwen3.spec, kDefaults}};
  return NestedTextModel(config, texts);
}

std::string Tiny() {
  return NestTextConfig("qwen3_vl",
                        TinyConfig("qwen3_vl_text", R"("intermediate_size": 384, "num_key_value_heads": 2,
  "head_dim": 20, "hidden_act": "silu", "rope_theta": 5000000.0, "attention_bias": false,
  "rope_scaling": {"mrope_interleaved": true, "mrope_section": [4, 3, 3], "rope_type": "default"},
  "tie_word_embeddings": true)"));
}

}  // namespace

extern const Family qwen3_vl;
constinit const Family qwen3_vl = {"qwen3_vl", &Spec, &Tiny, "qwen3"};

}  // namespace shoal::families
