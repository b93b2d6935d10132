// Architectures with layers of the delta rule. Names and keys as in gguf_architectures.cpp; the order of value heads is
// that of the converter in llama-cpp-python 0.3.36 (gguf 0.19.0).
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "base/status.h"
#include "formats/gguf_architectures.h"

namespace shoal {
namespace {

/// Norms of rows and heads are 1 + w as in MLX's folders, whose names and taps these therefore are.
constexpr GgufStem kQwenDelta[] = {
    {"post_attention_norm", "post_attention_layernorm"},
    {"attn_qkv", "linear_attn.in_proj_qkv", StemKind::kPlain, StemShape::kSame, StemTiled::kLastRows},
    {"attn_gate", "linear_attn.in_proj_z", StemKind::kPlain, StemShape::kSame, StemTiled::kRows},
    {"ssm_beta", "linear_attn.in_proj_b", StemKind::kPlain, StemShape::kSame, StemTiled::kSingle},
    {"ssm_alpha", "linear_attn.in_proj_a", StemKind::kPlain, StemShape::kSame, StemTiled::kSingle},
    {"ssm_conv1d", "linear_attn.conv1d", StemKind::kPlain, StemShape::kMlxTaps, StemTiled::kLastRows},
    {"ssm_dt", "linear_attn.dt_bias", StemKind::kWholeName, StemShape::kSame, StemTiled::kSingle},
    {"ssm_a", "linear_attn.minus_exp_A_log", StemKind::kWholeName, StemShape::kSame, StemTiled::kSingle},
    {"ssm_norm", "linear_attn.norm"},
    {"ssm_out", "linear_attn.out_proj", StemKind::kPlain, StemShape::kSame, StemTiled::kColumns},
    // Of Qwen3-Next:
    {"ssm_ba", "linear_attn.in_proj_ba"},
    {"ssm_in", "linear_attn.in_proj_qkvz"},  // In files from before attn_qkv and attn_gate.
};
constexpr GgufStem kKimiDelta[] = {
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"ssm_conv1d_q", "self_attn.q_conv1d", StemKind::kPlain, StemShape::kTaps},
    {"ssm_conv1d_k", "self_attn.k_conv1d", StemKind::kPlain, StemShape::kTaps},
    {"ssm_conv1d_v", "self_attn.v_conv1d", StemKind::kPlain, StemShape::kTaps},
    {"ssm_f_a", "self_attn.f_a_proj"},
    {"ssm_f_b", "self_attn.f_b_proj"},
    {"ssm_g_a", "self_attn.g_a_proj"},
    {"ssm_g_b", "self_attn.g_b_proj"},
    {"ssm_beta", "self_attn.b_proj"},
    {"ssm_dt", "self_attn.dt_bias", StemKind::kWholeName},
    {"ssm_a", "self_attn.minus_exp_A_log", StemKind::kWholeName, StemShape::kVector},
    {"ssm_norm", "self_attn.o_norm"},
    {"exp_probs_b", "mlp.e_score_correction_bias", StemKind::kWholeName},  // As in MLX's folders.
};

/// Which layers are recurrent: a flag for each, or all but every n-th, the fourth where the file is silent.
absl::StatusOr<std::vector<bool>> RecurrentLayers(const GgufDraft& draft) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> flags, draft.per_layer(".attention.recurrent_layers", {0, 1}));
  ASSIGN_OR_RETURN(const auto interval, draft.keys.optional_int(".full_attention_interval"));
  std::vector<bool> recurrent;
  for (int64_t i = 0; i < draft.layers; ++i) {
    recurrent.push_back(flags.empty() ? (i + 1) % interval.value_or(4) != 0
                                      : flags[static_cast<size_t>(i)] == 1);
  }
  return recurrent;
}

/// The sizes of the gated delta nets, and which layers have them.
absl::Status AddDeltaNets(GgufDraft& draft, bool tiled) {
  constexpr Bounds<int64_t> kSize{1, 1 << 12};
  const GgufKeys& keys = draft.keys;
  nlohmann::json& config = draft.config;
  ASSIGN_OR_RETURN(const int64_t key_heads, keys.required_int(".ssm.group_count", kSize));
  ASSIGN_OR_RETURN(const int64_t value_heads, keys.required_int(".ssm.time_step_rank", kSize));
  ASSIGN_OR_RETURN(const int64_t key_dim, keys.required_int(".ssm.state_size", kSize));
  ASSIGN_OR_RETURN(const int64_t inner, keys.required_int(".ssm.inner_size"));
  if (value_heads % key_heads != 0)
    return keys.refuse(".ssm.time_step_rank", fmt::format("a multiple of the {} key heads", key_heads));
  if (inner % value_heads != 0 || inner / value_heads > kSize.max)
    return keys.refuse(".ssm.inner_size", fmt::format("a multiple of the {} value heads", value_heads));
  config["linear_num_key_heads"] = key_heads;
  config["linear_num_value_heads"] = value_heads;
  config["linear_key_head_dim"] = key_dim;
  config["linear_value_head_dim"] = inner / value_heads;
  ASSIGN_OR_RETURN(config["linear_conv_kernel_dim"], keys.required_int(".ssm.conv_kernel"));
  if (tiled && value_heads != key_heads) {
    draft.value_heads = {.groups = key_heads,
                         .per_group = value_heads / key_heads,
                         .value_dim = inner / value_heads,
                         .before = 2 * key_heads * key_dim};
  }
  ASSIGN_OR_RETURN(const std::vector<bool> recurrent, RecurrentLayers(draft));
  config["layer_types"] = nlohmann::json::array();
  for (const bool delta : recurrent)
    config["layer_types"].push_back(delta ? "linear_attention" : "full_attention");
  return absl::OkStatus();
}

/// All but the feed-forwards. Positions of text are the same in each of rope.dimension_sections.
absl::Status AddQwenDelta(GgufDraft& draft, const char* model_type, bool tiled) {
  nlohmann::json& config = draft.config;
  RETURN_IF_ERROR(draft.add_decoder());
  config["model_type"] = model_type;
  nlohmann::json rope = config.value("rope_scaling", nlohmann::json{{"rope_type", "default"}});
  config.erase("rope_scaling");
  rope["rope_theta"] = config["rope_theta"];
  rope["partial_rotary_factor"] = config.value("partial_rotary_factor", 1.0);
  config["rope_parameters"] = std::move(rope);
  RETURN_IF_ERROR(AddDeltaNets(draft, tiled));
  bool bias = false;
  for (const bool here : draft.layers_with("attn_q.bias")) bias = bias || here;
  config["attention_bias"] = bias;
  draft.add(kGgufProjections);
  draft.add(kGgufHeadNorms);
  draft.add(kQwenDelta);
  return absl::OkStatus();
}

absl::Status AddQwenDeltaExperts(GgufDraft& draft) {
  ASSIGN_OR_RETURN(draft.config["shared_expert_intermediate_size"],
                   draft.keys.required_int(".expert_shared_feed_forward_length"));
  draft.add(kGgufQwenShared);
  return draft.add_qwen_experts(true);
}

}  // namespace

absl::Status BuildQwen35(GgufDraft& draft) {
  draft.wrapper = "qwen3_5";
  RETURN_IF_ERROR(AddQwenDelta(draft, "qwen3_5_text", true));
  draft.add(kGgufDense);
  return absl::OkStatus();
}

absl::Status BuildQwen35Moe(GgufDraft& draft) {
  draft.wrapper = "qwen3_5_moe";
  RETURN_IF_ERROR(AddQwenDelta(draft, "qwen3_5_moe_text", true));
  return AddQwenDeltaExperts(draft);
}

/// Value heads lie in the hub's order.
absl::Status BuildQwen3Next(GgufDraft& draft) {
  RETURN_IF_ERROR(AddQwenDelta(draft, "qwen3_next", false));
  draft.config["num_nextn_predict_layers"] = 0;
  return AddQwenDeltaExperts(draft);
}

/// Layers without key heads have the delta rule, with as many heads as the others; weights of the chosen experts are
/// renormalised. Both as in the released model and in llama.cpp: the format has no keys for them.
absl::Status BuildKimiLinear(GgufDraft& draft) {
  const GgufKeys& keys = draft.keys;
  nlohmann::json& config = draft.config;
  RETURN_IF_ERROR(draft.require_sigmoid_scores());
  RETURN_IF_ERROR(draft.add_latent_attention());
  RETURN_IF_ERROR(draft.add_routed_experts("num_experts"));
  RETURN_IF_ERROR(draft.add_shared_experts("num_shared_experts"));
  config["model_type"] = "kimi_linear";
  config["mla_use_nope"] = true;
  config["num_experts_per_token"] = config["num_experts_per_tok"];
  config["num_expert_group"] = config["n_group"];
  config["moe_renormalize"] = true;
  config["moe_router_activation_func"] = "sigmoid";
  config["moe_layer_freq"] = 1;
  constexpr std::string_view kKvHeads = ".attention.head_count_kv";
  ASSIGN_OR_RETURN(const std::vector<int64_t> kv_heads, draft.per_layer(kKvHeads));
  if (kv_heads.empty()) return keys.refuse(kKvHeads, "one for each layer");
  nlohmann::json& linear = config["linear_attn_config"];
  linear["full_attn_layers"] = linear["kda_layers"] = nlohmann::json::array();
  for (size_t i = 0; i < kv_heads.size(); ++i)
    linear[kv_heads[i] > 0 ? "full_attn_layers" : "kda_layers"].push_back(i + 1);
  linear["num_heads"] = config["num_attention_heads"];
  ASSIGN_OR_RETURN(linear["head_dim"], keys.required_int(".kda.head_dim"));
  ASSIGN_OR_RETURN(linear["short_conv_kernel_size"], keys.required_int(".ssm.conv_kernel"));
  draft.add(kKimiDelta);
  draft.add(kGgufDense);
  draft.add(kGgufStacks);
  draft.add(kGgufSharedExpert);
  return absl::OkStatus();
}

}  // namespace shoal
