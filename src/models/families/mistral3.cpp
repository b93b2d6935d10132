// Mistral Small 3.1, Ministral 3 and Mistral 4 with a tower for images, of which the text model runs. Reference:
// transformers models/mistral3/configuration_mistral3.py.
#include "models/families/common/nested_text_config.h"
#include "models/family.h"

namespace shoal::families {

extern const Family ministral3;
extern const Family mistral;
extern const Family mistral4;

namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  constexpr char kDefaults[] = R"({"tie_word_embeddings": false})";
  const NestedText texts[] = {{mistral.model_type, mistral.spec, kDefaults},
                              {ministral3.model_type, ministral3.spec},
                              {mistral4.model_type, mistral4.spec}};
  return NestedTextModel(config, texts, NestedNames::kLanguageModel);
}

std::string Tiny() { return NestTextConfig("mistral3", ministral3.tiny()); }

}  // namespace

extern const Family mistral3;
constinit const Family mistral3 = {"mistral3", &Spec, &Tiny, "ministral3"};

}  // namespace shoal::families
