// Architectures of families of late 2026, apart for length. Names and keys as in gguf_architectures.cpp.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

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
constexpr GgufStem kStableLm[] = {{"attn_q_norm", "self_attn.q_layernorm"},
                                  {"attn_k_norm", "self_attn.k_layernorm"}};
constexpr GgufStem kApertus[] = {{"attn_norm", "attention_layernorm"},
                                 {"ffn_norm", "feedforward_layernorm"},
                                 {"ffn_up", "mlp.up_proj"},
                                 {"ffn_down", "mlp.down_proj"}};

}  // namespace

/// What all Granite models have. Without a factor of scores llama.cpp takes the usual one.
absl::Status AddGgufGranite(GgufDraft& draft, const char* model_type) {
  draft.own_keys = {".logit_scale", ".residual_scale", ".embedding_scale"};
  RETURN_IF_ERROR(draft.add_dense(model_type));
  draft.permute_heads();
  nlohmann::json& config = draft.config;
  config["attention_bias"] = std::ranges::count(draft.layers_with("attn_q.bias"), true) > 0;
  config["attention_multiplier"] = 1 / std::sqrt(config["head_dim"].get<double>());
  for (const auto& [key, name] :
       {std::pair(".attention.scale", "attention_multiplier"),
        std::pair(".embedding_scale", "embedding_multiplier"),
        std::pair(".residual_scale", "residual_multiplier"), std::pair(".logit_scale", "logits_scaling")}) {
    ASSIGN_OR_RETURN(const auto factor, draft.keys.optional_number(key));
    if (factor.value_or(0) != 0) config[name] = *factor;
  }
  draft.add(kGraniteExperts);
  return absl::OkStatus();
}

/// Granite, with experts where the file has them.
absl::Status BuildGranite(GgufDraft& draft) {
  RETURN_IF_ERROR(AddGgufGranite(draft, "granite"));
  draft.config["mlp_bias"] = draft.has("blk.0.ffn_up.bias");
  ASSIGN_OR_RETURN(const auto rotates, draft.keys.optional_bool(".rope.scaling.finetuned"));
  if (!rotates.value_or(true)) return draft.keys.refuse(".rope.scaling.finetuned", "true");
  ASSIGN_OR_RETURN(const auto experts, draft.keys.optional_int(".expert_count", kAnyCount));
  if (experts.value_or(0) == 0) return absl::OkStatus();
  draft.config["model_type"] = "granitemoe";
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

/// The larger model alone has windows.
absl::Status BuildExaone4(GgufDraft& draft) {
  RETURN_IF_ERROR(draft.add_dense("exaone4"));
  ASSIGN_OR_RETURN(const auto window, draft.keys.optional_int(".attention.sliding_window", kAnyCount));
  if (window.value_or(0) > 0) RETURN_IF_ERROR(draft.add_windows(4).status());
  draft.add(kGgufHeadNorms);
  draft.add(kGgufOutputNorms);
  return absl::OkStatus();
}

/// Norms of heads are one tensor. Attention and MLP stand side by side where the MLP has no norm, as in llama.cpp.
absl::Status BuildStableLm(GgufDraft& draft) {
  RETURN_IF_ERROR(draft.add_dense("stablelm"));
  nlohmann::json& config = draft.config;
  if (!config.contains("partial_rotary_factor")) config["partial_rotary_factor"] = 1.0;
  config["use_qkv_bias"] = config["attention_bias"];
  config["qk_layernorm"] = draft.has("blk.0.attn_q_norm.weight");
  config["use_parallel_residual"] = !draft.has("blk.0.ffn_norm.weight");
  draft.add(kStableLm);
  return absl::OkStatus();
}

/// The four numbers of a layer's activation stand in the metadata.
absl::Status BuildApertus(GgufDraft& draft) {
  RETURN_IF_ERROR(draft.add_decoder());
  draft.config["model_type"] = "apertus";
  draft.config["hidden_act"] = "xielu";
  draft.config["attention_bias"] = draft.has("blk.0.attn_q.bias");
  draft.stems.assign(std::begin(kApertus), std::end(kApertus));
  draft.add(kGgufProjections);
  draft.add(kGgufHeadNorms);
  for (const char* name : {"alpha_p", "alpha_n", "beta", "eps"}) {
    const std::string key = fmt::format("xielu.{}", name);
    const GgufValue* value = draft.keys.find(key);
    if (value == nullptr || value->type != GgufType::kF32 || (value->array && value->count < draft.layers)) {
      return draft.keys.refuse(key, fmt::format("an f32, or one for each of {} layers", draft.layers));
    }
    const int64_t begin = value->bytes.data() - draft.source.first_file.data();
    for (int64_t i = 0; i < draft.layers; ++i) {
      const int64_t at = begin + (value->array ? 4 * i : 0);
      draft.numbers.push_back({fmt::format("model.layers.{}.mlp.act_fn.{}", i, name), {at, at + 4}});
    }
  }
  return absl::OkStatus();
}

}  // namespace shoal
