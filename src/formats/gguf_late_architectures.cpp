// Architectures of families of late 2026, apart for length. Names and keys as in gguf_architectures.cpp.
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/status.h"
#include "formats/gguf_architectures.h"

namespace shoal {
namespace {

constexpr GgufStem kGraniteExperts[] = {
    {"ffn_gate_inp", "block_sparse_moe.router.layer"},
    {"ffn_gate_exps", "block_sparse_moe.switch_mlp.gate_proj"},
    {"ffn_up_exps", "block_sparse_moe.switch_mlp.up_proj"},
    {"ffn_down_exps", "block_sparse_moe.switch_mlp.down_proj"},
};
constexpr GgufStem kHunyuanNorms[] = {{"attn_q_norm", "self_attn.query_layernorm"},
                                      {"attn_k_norm", "self_attn.key_layernorm"}};
constexpr GgufStem kHunyuanExperts[] = {{"ffn_gate_inp", "mlp.gate.wg"},
                                        {"ffn_gate_exps", "mlp.switch_mlp.gate_proj"},
                                        {"ffn_up_exps", "mlp.switch_mlp.up_proj"},
                                        {"ffn_down_exps", "mlp.switch_mlp.down_proj"},
                                        {"ffn_gate_shexp", "mlp.shared_mlp.gate_proj"},
                                        {"ffn_up_shexp", "mlp.shared_mlp.up_proj"},
                                        {"ffn_down_shexp", "mlp.shared_mlp.down_proj"}};
constexpr GgufStem kStarcoder2[] = {{"attn_q", "self_attn.q_proj"}, {"attn_k", "self_attn.k_proj"},
                                    {"attn_v", "self_attn.v_proj"}, {"attn_output", "self_attn.o_proj"},
                                    {"ffn_up", "mlp.c_fc"},         {"ffn_down", "mlp.c_proj"}};
}  // namespace

/// Granite, with experts where the file has them. Without a factor of scores llama.cpp takes the usual one.
absl::Status BuildGranite(GgufDraft& draft) {
  draft.own_keys = {".logit_scale", ".residual_scale", ".embedding_scale"};
  RETURN_IF_ERROR(draft.add_dense("granite"));
  draft.permute_heads();
  nlohmann::json& config = draft.config;
  config["mlp_bias"] = draft.has("blk.0.ffn_up.bias");
  config["attention_multiplier"] = 1 / std::sqrt(config["head_dim"].get<double>());
  for (const auto& [key, name] :
       {std::pair(".attention.scale", "attention_multiplier"),
        std::pair(".embedding_scale", "embedding_multiplier"),
        std::pair(".residual_scale", "residual_multiplier"), std::pair(".logit_scale", "logits_scaling")}) {
    ASSIGN_OR_RETURN(const auto factor, draft.keys.optional_number(key));
    if (factor.value_or(0) != 0) config[name] = *factor;
  }
  ASSIGN_OR_RETURN(const auto rotates, draft.keys.optional_bool(".rope.scaling.finetuned"));
  if (!rotates.value_or(true)) return draft.keys.refuse(".rope.scaling.finetuned", "true");
  ASSIGN_OR_RETURN(const auto experts, draft.keys.optional_int(".expert_count", kAnyCount));
  if (experts.value_or(0) == 0) return absl::OkStatus();
  config["model_type"] = "granitemoe";
  draft.add(kGraniteExperts);
  return draft.add_experts("num_local_experts");
}

absl::Status BuildErnie45(GgufDraft& draft) {
  RETURN_IF_ERROR(draft.add_dense("ernie4_5"));
  draft.config["use_bias"] = draft.config["attention_bias"];
  return absl::OkStatus();
}

/// The files hold the theta that alpha makes.
absl::Status BuildHunyuanDense(GgufDraft& draft) {
  RETURN_IF_ERROR(draft.add_dense("hunyuan_v1_dense"));
  draft.add(kHunyuanNorms);
  return absl::OkStatus();
}

absl::Status BuildHunyuanMoe(GgufDraft& draft) {
  RETURN_IF_ERROR(draft.add_dense("hunyuan_v1_moe"));
  draft.add(kHunyuanNorms);
  draft.add(kHunyuanExperts);
  ASSIGN_OR_RETURN(draft.config["moe_intermediate_size"],
                   draft.keys.required_int(".expert_feed_forward_length"));
  ASSIGN_OR_RETURN(draft.config["moe_topk"], draft.keys.required_int(".expert_used_count"));
  return draft.add_experts("num_experts");
}

/// llama.cpp has no windows for this architecture, and its files no key for them.
absl::Status BuildStarcoder2(GgufDraft& draft) {
  RETURN_IF_ERROR(draft.add_decoder());
  draft.config["model_type"] = "starcoder2";
  draft.config["hidden_act"] = "gelu_pytorch_tanh";
  draft.config["use_bias"] = draft.has("blk.0.attn_q.bias");
  draft.add(kStarcoder2);
  return absl::OkStatus();
}

/// Every fourth layer sees everything, as in every released model and in llama.cpp.
absl::Status BuildCohere2(GgufDraft& draft) {
  draft.own_keys = {".logit_scale"};
  RETURN_IF_ERROR(draft.add_dense("cohere2"));
  ASSIGN_OR_RETURN(draft.config["logit_scale"], draft.keys.required_number(".logit_scale"));
  ASSIGN_OR_RETURN(draft.config["sliding_window"], draft.keys.required_int(".attention.sliding_window"));
  return absl::OkStatus();
}

}  // namespace shoal
