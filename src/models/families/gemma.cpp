// Gemma 1. Reference: transformers models/gemma/modeling_gemma.py.
#include <optional>
#include <string>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_gemma.h"
#include "models/family.h"

namespace shoal::families {
namespace {

/// "gelu" of the first releases means its tanh form, too; the reference ignores hidden_activation.
absl::Status CheckActivation(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const std::optional<std::string> act, config.optional_string("hidden_act"));
  if (!act || *act == "gelu") return absl::OkStatus();
  return RequireActivation(config, "hidden_act", "gelu_pytorch_tanh");
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(CheckActivation(config));
  RETURN_IF_ERROR(RefuseBidirectional(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, true));
  AttentionSettings attention;
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDim(config));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(config, "attention_bias"));
  attention.o_bias = attention.qkv_bias;
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ModelSpec spec = DecoderOf("gemma", sizes, UsualAttention(sizes, attention), UsualMlp(sizes, ffn));
  MakeGemma(sizes, {.zero_centered = true, .of_outputs = false}, spec);
  return spec;
}

std::string Tiny() {
  return TinyConfig("gemma", R"("intermediate_size": 384, "num_key_value_heads": 1, "head_dim": 28,
  "hidden_act": "gelu", "hidden_activation": null, "rope_theta": 10000.0)");
}

}  // namespace

extern const Family gemma;
constinit const Family gemma = {"gemma", &Spec, &Tiny, "gemma3_text"};

}  // namespace shoal::families
