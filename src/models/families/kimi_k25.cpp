// Kimi K2.5 and K2.6 with a tower for images, of which the text model runs. Reference: transformers
// models/kimi_k25/configuration_kimi_k25.py.
#include "models/families/common/nested_text_config.h"
#include "models/family.h"

namespace shoal::families {

extern const Family deepseek_v3;
extern const Family kimi_k2;

namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  const NestedText texts[] = {{deepseek_v3.model_type, deepseek_v3.spec}, {kimi_k2.model_type, kimi_k2.spec}};
  return NestedTextModel(config, texts, NestedNames::kLanguageModel);
}

std::string Tiny() { return NestTextConfig("kimi_k25", kimi_k2.tiny()); }

}  // namespace

extern const Family kimi_k25;
constinit const Family kimi_k25 = {"kimi_k25", &Spec, &Tiny, "deepseek_v3"};

}  // namespace shoal::families
