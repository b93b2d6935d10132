// Qwen2 and Qwen2.5. Reference: transformers models/qwen2/modeling_qwen2.py.
#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config));
  ASSIGN_OR_RETURN(AttentionSettings attention, ReadWindowedAttention(config, sizes));
  attention.qkv_bias = true;
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  return DecoderOf("qwen2", sizes, UsualAttention(sizes, attention), UsualMlp(sizes, ffn));
}

std::string Tiny() {
  return TinyConfig("qwen2", R"("intermediate_size": 384, "num_key_value_heads": 1, "hidden_act": "silu",
  "rope_theta": 1000000.0, "rope_scaling": null, "tie_word_embeddings": true,
  "use_sliding_window": true, "sliding_window": 40, "max_window_layers": 4)");
}

}  // namespace

extern const Family qwen2;
constinit const Family qwen2 = {"qwen2", &Spec, &Tiny};

}  // namespace shoal::families
