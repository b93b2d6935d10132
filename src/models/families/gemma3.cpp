// Gemma 3 with a tower for images, of which the text model runs. Reference: transformers
// models/gemma3/configuration_gemma3.py.
#include "models/families/common/nested_text_config.h"
#include "models/family.h"

namespace shoal::families {

extern const Family gemma3_text;

namespace {

/// Of Gemma3TextConfig: what the hub's configs leave out.
constexpr char kDefaults[] = R"({"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216,
  "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
  "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 131072, "rms_norm_eps": 1e-6,
  "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "query_pre_attn_scalar": 256,
  "sliding_window": 4096, "tie_word_embeddings": true})";

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  const NestedText text[] = {{gemma3_text.model_type, gemma3_text.spec, kDefaults}};
  return NestedTextModel(config, text);
}

std::string Tiny() { return NestTextConfig("gemma3", gemma3_text.tiny()); }

}  // namespace

extern const Family gemma3;
constinit const Family gemma3 = {"gemma3", &Spec, &Tiny, "gemma3_text"};

}  // namespace shoal::families
