// Gemma 3n with towers for images and sound, of which the text model runs. Reference: transformers
// models/gemma3n/configuration_gemma3n.py.
#include "models/families/common/nested_text_config.h"
#include "models/family.h"

namespace shoal::families {

extern const Family gemma3n_text;

namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  const NestedText text[] = {{gemma3n_text.model_type, gemma3n_text.spec}};
  return NestedTextModel(config, text);
}

std::string Tiny() { return NestTextConfig("gemma3n", gemma3n_text.tiny()); }

}  // namespace

extern const Family gemma3n;
constinit const Family gemma3n = {"gemma3n", &Spec, &Tiny};

}  // namespace shoal::families
