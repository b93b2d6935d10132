// The versions of Gemma. Names and keys as in gguf_architectures.cpp.
#include <nlohmann/json.hpp>

#include "base/status.h"
#include "formats/gguf_architectures.h"

namespace shoal {
namespace {

constexpr GgufStem kGemmaNorms[] = {{"attn_norm", "input_layernorm"},
                                    {"ffn_norm", "pre_feedforward_layernorm"}};

/// Gemma 2 and 3. The format has no key for query_pre_attn_scalar, which is the width per head of the 27B model and
/// head_dim of the others.
absl::Status AddGemmaWithFourNorms(GgufDraft& draft, const char* model_type, int64_t layers_of_27b) {
  draft.norms_plus_one = true;
  draft.own_keys = {".attn_logit_softcapping", ".final_logit_softcapping"};
  RETURN_IF_ERROR(draft.add_dense(model_type));
  nlohmann::json& config = draft.config;
  config["hidden_activation"] = "gelu_pytorch_tanh";
  config["query_pre_attn_scalar"] =
      draft.layers == layers_of_27b
          ? config["hidden_size"].get<int64_t>() / config["num_attention_heads"].get<int64_t>()
          : config["head_dim"].get<int64_t>();
  draft.stems.erase(draft.stems.begin(), draft.stems.begin() + std::ssize(kGgufNorms));
  draft.add(kGemmaNorms);
  draft.add(kGgufOutputNorms);
  return absl::OkStatus();
}

}  // namespace

absl::Status BuildGemma(GgufDraft& draft) {
  draft.norms_plus_one = true;
  RETURN_IF_ERROR(draft.add_dense("gemma"));
  draft.config["hidden_act"] = "gelu_pytorch_tanh";
  return absl::OkStatus();
}

/// Where the file lacks a key, llama.cpp takes the values of the released models.
absl::Status BuildGemma2(GgufDraft& draft) {
  RETURN_IF_ERROR(AddGemmaWithFourNorms(draft, "gemma2", 46));
  ASSIGN_OR_RETURN(const auto window, draft.keys.optional_int(".attention.sliding_window"));
  ASSIGN_OR_RETURN(const auto score_cap, draft.keys.optional_number(".attn_logit_softcapping"));
  ASSIGN_OR_RETURN(const auto logit_cap, draft.keys.optional_number(".final_logit_softcapping"));
  draft.config["sliding_window"] = window.value_or(4096);
  draft.config["attn_logit_softcapping"] = score_cap.value_or(50.0);
  draft.config["final_logit_softcapping"] = logit_cap.value_or(30.0);
  return absl::OkStatus();
}

/// Every sixth layer sees everything; the others have a window and a rope of their own, both as in every released model.
absl::Status BuildGemma3(GgufDraft& draft) {
  RETURN_IF_ERROR(AddGemmaWithFourNorms(draft, "gemma3_text", 62));
  ASSIGN_OR_RETURN(draft.config["sliding_window"], draft.keys.required_int(".attention.sliding_window"));
  ASSIGN_OR_RETURN(const auto local, draft.keys.optional_number(".rope.freq_base_swa"));
  ASSIGN_OR_RETURN(const auto logit_cap, draft.keys.optional_number(".final_logit_softcapping"));
  draft.config["rope_local_base_freq"] = local.value_or(10000.0);
  if (logit_cap.value_or(0) != 0) draft.config["final_logit_softcapping"] = *logit_cap;
  draft.add(kGgufHeadNorms);
  return absl::OkStatus();
}

}  // namespace shoal
