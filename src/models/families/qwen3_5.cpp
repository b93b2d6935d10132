// Qwen3.5 without experts, text only: of a model that sees images the text model runs. Reference: transformers
// models/qwen3_5/modeling_qwen3_5.py.
#include <optional>
#include <string>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_qwen3_5.h"
#include "models/families/common/nested_text_config.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const ModelConfig text, config.required_object("text_config"));
  ASSIGN_OR_RETURN(const std::optional<bool> tied, config.optional_bool("tie_word_embeddings"));
  ASSIGN_OR_RETURN(const Qwen35Layers layers, ReadQwen35(text, tied));
  ASSIGN_OR_RETURN(const int64_t ffn, text.required_int("intermediate_size"));
  const MakeFeedForward mlp = UsualMlp(layers.sizes, ffn);
  ModelSpec spec = DecoderOf("qwen3_5", layers.sizes, layers.mixer, mlp);
  RETURN_IF_ERROR(AddQwen35Mtp(text, layers, mlp, spec));
  PlaceQwen35(Qwen35Place::kNested, spec);
  return spec;
}

std::string Tiny() {
  return NestTextConfig("qwen3_5", TinyQwen35("qwen3_5_text", R"("intermediate_size": 384)"));
}

}  // namespace

extern const Family qwen3_5;
constinit const Family qwen3_5 = {"qwen3_5", &Spec, &Tiny};

}  // namespace shoal::families
