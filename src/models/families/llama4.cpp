// Llama 4 with a tower for images, of which the text model runs. Reference: transformers
// models/llama4/modeling_llama4.py.
#include "models/families/common/nested_text_config.h"
#include "models/family.h"

namespace shoal::families {

extern const Family llama4_text;

namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  const NestedText text[] = {{llama4_text.model_type, llama4_text.spec}};
  return NestedTextModel(config, text, NestedNames::kLanguageModel);
}

std::string Tiny() { return NestTextConfig("llama4", llama4_text.tiny()); }

}  // namespace

extern const Family llama4;
constinit const Family llama4 = {"llama4", &Spec, &Tiny};

}  // namespace shoal::families
