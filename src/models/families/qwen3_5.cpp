// Qwen3.5 without experts, text only: of a model that sees images the text model runs. Reference: transformers
// models/qwen3_5/modeling_qwen3_5.py.
#include <string>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_qwen3_5.h"
#include "models/families/common/nested_text_config.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const Qwen35Parts parts, ReadQwen35(config, Qwen35Place::kNested));
  ASSIGN_OR_RETURN(const int64_t ffn, parts.text.required_int("intermediate_size"));
  return MakeQwen35("qwen3_5", parts, UsualMlp(parts.sizes, ffn));
}

std::string Tiny() {
  return NestTextConfig("qwen3_5", TinyQwen35("qwen3_5_text", R"("intermediate_size": 384)"));
}

}  // namespace

extern const Family qwen3_5;
constinit const Family qwen3_5 = {"qwen3_5", &Spec, &Tiny};

}  // namespace shoal::families
