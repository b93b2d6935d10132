// Qwen3.5 without experts and without the model around it that sees images. Reference: transformers
// models/qwen3_5/modeling_qwen3_5.py.
#include <string>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_qwen3_5.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const Qwen35Parts parts, ReadQwen35(config, Qwen35Place::kAlone));
  ASSIGN_OR_RETURN(const int64_t ffn, parts.text.required_int("intermediate_size"));
  return MakeQwen35("qwen3_5_text", parts, UsualMlp(parts.sizes, ffn));
}

std::string Tiny() { return TinyQwen35("qwen3_5_text", R"("intermediate_size": 384)"); }

}  // namespace

extern const Family qwen3_5_text;
constinit const Family qwen3_5_text = {"qwen3_5_text", &Spec, &Tiny, "qwen3_5"};

}  // namespace shoal::families
