// Gemma 4 with towers for images and sound, of which the text model runs. Reference: transformers
// models/gemma4/configuration_gemma4.py.
#include "models/families/common/nested_text_config.h"
#include "models/family.h"

namespace shoal::families {

extern const Family gemma4_text;

namespace {

/// Of Gemma4TextConfig: what the hub's configs leave out.
constexpr char kDefaults[] = R"({"vocab_size": 262144, "hidden_size": 2304, "intermediate_size": 9216,
  "num_hidden_layers": 30, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
  "global_head_dim": 512, "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 131072,
  "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "sliding_window": 512,
  "hidden_size_per_layer_input": 256, "vocab_size_per_layer_input": 262144, "rope_parameters": {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0}}})";

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  const NestedText text[] = {{gemma4_text.model_type, gemma4_text.spec, kDefaults}};
  return NestedTextModel(config, text);
}

std::string Tiny() { return NestTextConfig("gemma4", gemma4_text.tiny()); }

}  // namespace

extern const Family gemma4;
constinit const Family gemma4 = {"gemma4", &Spec, &Tiny, "gemma4_text"};

}  // namespace shoal::families
