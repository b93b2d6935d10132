// MiMo: Qwen2 with heads for further tokens, which are not used. Reference: transformers
// models/qwen2/modeling_qwen2.py.
#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/family.h"

namespace shoal::families {

extern const Family qwen2;

namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  ASSIGN_OR_RETURN(ModelSpec spec, qwen2.spec(config));
  spec.model_type = "mimo";
  spec.ignored_tensors.emplace_back("model.mtp_layers.", "unused heads for multi-token prediction");
  return spec;
}

std::string Tiny() {
  return TinyConfig("mimo", R"("intermediate_size": 384, "num_key_value_heads": 2, "head_dim": 28,
  "hidden_act": "silu", "rope_theta": 640000.0, "tie_word_embeddings": false, "attention_bias": true,
  "sliding_window": 64, "use_sliding_window": false, "max_window_layers": 7, "num_nextn_predict_layers": 1)");
}

}  // namespace

extern const Family mimo;
constinit const Family mimo = {"mimo", &Spec, &Tiny, "qwen2"};

}  // namespace shoal::families
