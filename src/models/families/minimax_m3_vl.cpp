// MiniMax-M3 with a tower for images, of which the text model runs. Reference: transformers
// models/minimax_m3_vl/modeling_minimax_m3_vl.py.
#include "base/status.h"
#include "models/families/common/nested_text_config.h"
#include "models/family.h"

namespace shoal::families {

extern const Family minimax_m3_vl_text;

namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  const NestedText texts[] = {{minimax_m3_vl_text.model_type, minimax_m3_vl_text.spec}};
  ASSIGN_OR_RETURN(ModelSpec spec, NestedTextModel(config, texts, NestedNames::kLanguageModel));
  for (const char* prefix : {"mtp.", "model.mtp.", "language_model.mtp.", "language_model.model.mtp."}) {
    spec.ignored_tensors.emplace_back(prefix, "heads for further tokens");
  }
  spec.ignored_tensors.emplace_back("patch_merge_mlp.", "what leads from towers to the text model");
  return spec;
}

std::string Tiny() { return NestTextConfig("minimax_m3_vl", minimax_m3_vl_text.tiny()); }

}  // namespace

extern const Family minimax_m3_vl;
constinit const Family minimax_m3_vl = {"minimax_m3_vl", &Spec, &Tiny};

}  // namespace shoal::families
