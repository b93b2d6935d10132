// Architectures whose layers keep states, apart for length. Names and keys as in gguf_architectures.cpp.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/status.h"
#include "formats/gguf_architectures.h"

namespace shoal {
namespace {

constexpr GgufStem kLfm2[] = {
    {"attn_norm", "operator_norm"},
    {"ffn_norm", "ffn_norm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.out_proj"},
    {"attn_q_norm", "self_attn.q_layernorm"},
    {"attn_k_norm", "self_attn.k_layernorm"},
    {"shortconv.conv", "conv.conv", StemKind::kPlain, StemShape::kTaps},
    {"shortconv.in_proj", "conv.in_proj"},
    {"shortconv.out_proj", "conv.out_proj"},
    {"ffn_gate", "feed_forward.w1"},
    {"ffn_up", "feed_forward.w3"},
    {"ffn_down", "feed_forward.w2"},
    {"ffn_gate_inp", "feed_forward.gate"},
    {"exp_probs_b", "feed_forward.expert_bias", StemKind::kWholeName},
    {"ffn_gate_exps", "feed_forward.switch_mlp.gate_proj"},
    {"ffn_up_exps", "feed_forward.switch_mlp.up_proj"},
    {"ffn_down_exps", "feed_forward.switch_mlp.down_proj"},
};
// The last norm under the name that llama.cpp first gave it, and under its own.
constexpr GgufStem kLfm2Outside[] = {{"token_embd", "model.embed_tokens"},
                                     {"token_embd_norm", "model.embedding_norm"},
                                     {"output_norm", "model.embedding_norm"},
                                     {"output", "lm_head"}};
constexpr GgufStem kBackboneOutside[] = {
    {"token_embd", "backbone.embeddings"}, {"output_norm", "backbone.norm_f"}, {"output", "lm_head"}};
constexpr GgufStem kBackboneMamba[] = {
    {"attn_norm", "norm"},
    {"ssm_in", "mixer.in_proj"},
    {"ssm_conv1d", "mixer.conv1d", StemKind::kPlain, StemShape::kTaps},
    {"ssm_dt", "mixer.dt_bias", StemKind::kWholeName},
    {"ssm_a", "mixer.minus_exp_A_log", StemKind::kWholeName, StemShape::kVector},
    {"ssm_d", "mixer.D", StemKind::kWholeName, StemShape::kVector},
    {"ssm_norm", "mixer.norm", StemKind::kPlain, StemShape::kVector},
    {"ssm_out", "mixer.out_proj"},
};
constexpr GgufStem kNemotronH[] = {
    {"attn_q", "mixer.q_proj"},
    {"attn_k", "mixer.k_proj"},
    {"attn_v", "mixer.v_proj"},
    {"attn_output", "mixer.o_proj"},
    {"ffn_up", "mixer.up_proj"},
    {"ffn_down", "mixer.down_proj"},
    {"ffn_gate_inp", "mixer.gate"},
    {"exp_probs_b", "mixer.gate.e_score_correction_bias", StemKind::kWholeName},
    {"ffn_up_exps", "mixer.switch_mlp.fc1"},
    {"ffn_down_exps", "mixer.switch_mlp.fc2"},
    {"ffn_up_shexp", "mixer.shared_experts.up_proj"},
    {"ffn_down_shexp", "mixer.shared_experts.down_proj"},
};
constexpr GgufStem kGraniteMamba[] = {
    {"ssm_in", "mamba.in_proj"},
    {"ssm_conv1d", "mamba.conv1d", StemKind::kPlain, StemShape::kTaps},
    {"ssm_dt", "mamba.dt_bias", StemKind::kWholeName},
    {"ssm_a", "mamba.minus_exp_A_log", StemKind::kWholeName, StemShape::kVector},
    {"ssm_d", "mamba.D", StemKind::kWholeName, StemShape::kVector},
    {"ssm_norm", "mamba.norm", StemKind::kPlain, StemShape::kVector},
    {"ssm_out", "mamba.out_proj"},
    {"ffn_gate_shexp", "shared_mlp.gate_proj"},
    {"ffn_up_shexp", "shared_mlp.up_proj"},
    {"ffn_down_shexp", "shared_mlp.output_linear"},
};

constexpr GgufStem kMamba1[] = {
    {"ssm_in", "mamba.in_proj"},
    {"ssm_conv1d", "mamba.conv1d", StemKind::kPlain, StemShape::kTaps},
    {"ssm_x", "mamba.x_proj"},
    {"ssm_dt", "mamba.dt_proj"},
    {"ssm_dt_norm", "mamba.dt_layernorm"},
    {"ssm_b_norm", "mamba.b_layernorm"},
    {"ssm_c_norm", "mamba.c_layernorm"},
    {"ssm_a", "mamba.minus_exp_A_log", StemKind::kWholeName},
    {"ssm_d", "mamba.D", StemKind::kWholeName, StemShape::kVector},
    {"ssm_out", "mamba.out_proj"},
};
constexpr GgufStem kFeedForward[] = {
    {"attn_norm", "input_layernorm"},
    {"ffn_norm", "pre_ff_layernorm"},
    {"ffn_gate", "feed_forward.gate_proj"},
    {"ffn_up", "feed_forward.up_proj"},
    {"ffn_down", "feed_forward.down_proj"},
    {"ffn_gate_inp", "feed_forward.router"},
    {"ffn_gate_exps", "feed_forward.switch_mlp.gate_proj"},
    {"ffn_up_exps", "feed_forward.switch_mlp.up_proj"},
    {"ffn_down_exps", "feed_forward.switch_mlp.down_proj"},
};
constexpr GgufStem kFeedForwardOutside[] = {
    {"token_embd", "model.embed_tokens"}, {"output_norm", "model.final_layernorm"}, {"output", "lm_head"}};

/// LFM2, with experts or without. Layers without key heads are convolutions.
absl::Status AddLfm2(GgufDraft& draft) {
  nlohmann::json& config = draft.config;
  RETURN_IF_ERROR(draft.add_decoder());
  ASSIGN_OR_RETURN(const std::vector<int64_t> kv_heads, draft.per_layer(".attention.head_count_kv"));
  config["norm_eps"] = config["rms_norm_eps"];
  config["block_auto_adjust_ff_dim"] = false;
  ASSIGN_OR_RETURN(config["conv_L_cache"], draft.keys.required_int(".shortconv.l_cache"));
  config["layer_types"] = nlohmann::json::array();
  config["conv_bias"] = false;
  for (size_t i = 0; i < kv_heads.size(); ++i) {
    config["layer_types"].push_back(kv_heads[i] > 0 ? "full_attention" : "conv");
    if (draft.has(fmt::format("blk.{}.shortconv.conv.bias", i))) config["conv_bias"] = true;
  }
  draft.outside.assign(std::begin(kLfm2Outside), std::end(kLfm2Outside));
  draft.stems.assign(std::begin(kLfm2), std::end(kLfm2));
  return absl::OkStatus();
}

/// The names of a family's config for Mamba-2 layers.
struct MambaNames {
  const char* heads;
  const char* head_dim;
  const char* groups;
  const char* state_dim;
  const char* taps;
  const char* conv_bias;
  const char* projection_bias;
};
constexpr MambaNames kMamba2Names{"num_heads",   "head_dim",      "n_groups", "state_size",
                                  "conv_kernel", "use_conv_bias", "use_bias"};
constexpr MambaNames kNemotronNames{"mamba_num_heads", "mamba_head_dim", "n_groups", "ssm_state_size",
                                    "conv_kernel",     "use_conv_bias",  "use_bias"};
constexpr MambaNames kGraniteNames{"mamba_n_heads", "mamba_d_head",    "mamba_n_groups", "mamba_d_state",
                                   "mamba_d_conv",  "mamba_conv_bias", "mamba_proj_bias"};

/// Their sizes. Returns the width of a layer's values.
absl::StatusOr<int64_t> AddMamba(GgufDraft& draft, const MambaNames& names) {
  const GgufKeys& keys = draft.keys;
  nlohmann::json& config = draft.config;
  ASSIGN_OR_RETURN(const int64_t inner, keys.required_int(".ssm.inner_size"));
  ASSIGN_OR_RETURN(const int64_t heads, keys.required_int(".ssm.time_step_rank"));
  if (inner % heads != 0) return keys.refuse(".ssm.time_step_rank", fmt::format("a divisor of {}", inner));
  config[names.heads] = heads;
  config[names.head_dim] = inner / heads;
  ASSIGN_OR_RETURN(config[names.groups], keys.required_int(".ssm.group_count"));
  ASSIGN_OR_RETURN(config[names.state_dim], keys.required_int(".ssm.state_size"));
  ASSIGN_OR_RETURN(config[names.taps], keys.required_int(".ssm.conv_kernel"));
  const auto any = [&](std::string_view name) {
    return std::ranges::count(draft.layers_with(name), true) > 0;
  };
  config[names.conv_bias] = any("ssm_conv1d.bias");
  config[names.projection_bias] = any("ssm_in.bias");
  return inner;
}

/// Layer norms' epsilon where the file has it, else the other.
absl::Status AddBackbone(GgufDraft& draft) {
  nlohmann::json& config = draft.config;
  config["layer_norm_epsilon"] =
      config.contains("rms_norm_eps") ? config["rms_norm_eps"] : config["layer_norm_eps"];
  draft.layer_prefix = "backbone.layers.";
  draft.outside.assign(std::begin(kBackboneOutside), std::end(kBackboneOutside));
  draft.stems.assign(std::begin(kBackboneMamba), std::end(kBackboneMamba));
  return absl::OkStatus();
}

/// `<kind>_layer_period` and `<kind>_layer_offset` of layers of which every n-th is chosen. Unimplemented for others.
absl::Status AddEveryNth(GgufDraft& draft, const std::string& kind, const std::vector<bool>& chosen) {
  const auto first = std::ranges::find(chosen, true) - chosen.begin();
  int64_t period = std::ssize(chosen);
  for (int64_t i = std::ssize(chosen) - 1; i > first; --i) {
    if (chosen[static_cast<size_t>(i)]) period = i - first;
  }
  for (int64_t i = 0; i < std::ssize(chosen); ++i) {
    if (chosen[static_cast<size_t>(i)] == (first < period && i % period == first)) continue;
    return Unimplemented(
        "checkpoint: {}: expected layers of kind '{}' to be every {}-th from {} on, found layer {}",
        draft.keys.file(), kind, period, first, i);
  }
  draft.config[kind + "_layer_period"] = period;
  draft.config[kind + "_layer_offset"] = first;
  return absl::OkStatus();
}

}  // namespace

absl::Status BuildLfm2(GgufDraft& draft) {
  RETURN_IF_ERROR(AddLfm2(draft));
  draft.config["model_type"] = "lfm2";
  return absl::OkStatus();
}

/// Weights of the chosen experts are renormalised, as in every released model and in llama.cpp.
absl::Status BuildLfm2Moe(GgufDraft& draft) {
  nlohmann::json& config = draft.config;
  RETURN_IF_ERROR(draft.require_sigmoid_scores());
  RETURN_IF_ERROR(AddLfm2(draft));
  RETURN_IF_ERROR(draft.add_routed_experts("num_experts"));
  config["model_type"] = "lfm2_moe";
  config["num_dense_layers"] = config["first_k_dense_replace"];
  config["norm_topk_prob"] = true;
  config["use_expert_bias"] =
      draft.has(fmt::format("blk.{}.exp_probs_b.bias", config["num_dense_layers"].get<int64_t>()));
  return absl::OkStatus();
}

absl::Status BuildMamba2(GgufDraft& draft) {
  nlohmann::json& config = draft.config;
  RETURN_IF_ERROR(draft.add_sizes());
  config["model_type"] = "mamba2";
  config["rms_norm"] = true;
  ASSIGN_OR_RETURN(const int64_t inner, AddMamba(draft, kMamba2Names));
  config["expand"] = static_cast<double>(inner) / config["hidden_size"].get<double>();
  return AddBackbone(draft);
}

/// A block is attention where it has key heads, a feed-forward where it has a width, else Mamba 2.
absl::Status BuildNemotronH(GgufDraft& draft) {
  const GgufKeys& keys = draft.keys;
  nlohmann::json& config = draft.config;
  RETURN_IF_ERROR(draft.add_decoder());
  config["model_type"] = "nemotron_h";
  config["mlp_hidden_act"] = "relu2";
  config["mamba_hidden_act"] = "silu";
  draft.permute_heads();
  ASSIGN_OR_RETURN(const auto experts, keys.optional_int(".expert_count", kAnyCount));
  ASSIGN_OR_RETURN(const auto latent, keys.optional_int(".moe_latent_size", kAnyCount));
  if (latent.value_or(0) > 0) config["moe_latent_size"] = *latent;
  ASSIGN_OR_RETURN(const std::vector<int64_t> kv_heads, draft.per_layer(".attention.head_count_kv"));
  ASSIGN_OR_RETURN(const std::vector<int64_t> ffn, draft.per_layer(".feed_forward_length"));
  if (kv_heads.empty() || ffn.empty()) return keys.refuse(".feed_forward_length", "one for each layer");
  std::string pattern;
  for (size_t i = 0; i < ffn.size(); ++i) {
    const char feed_forward = experts.value_or(0) > 0 ? 'E' : '-';
    pattern += kv_heads[i] > 0 ? '*' : ffn[i] > 0 ? feed_forward : 'M';
  }
  config["hybrid_override_pattern"] = pattern;
  config["mlp_bias"] = std::ranges::count(draft.layers_with("ffn_up.bias"), true) > 0;
  RETURN_IF_ERROR(AddMamba(draft, kNemotronNames).status());
  if (experts.value_or(0) > 0) {
    RETURN_IF_ERROR(draft.add_routed_experts("n_routed_experts"));
    ASSIGN_OR_RETURN(config["moe_shared_expert_intermediate_size"],
                     keys.required_int(".expert_shared_feed_forward_length"));
  }
  RETURN_IF_ERROR(AddBackbone(draft));
  draft.add(kNemotronH);
  return absl::OkStatus();
}

/// Layers without key heads are Mamba 1.
absl::Status BuildJamba(GgufDraft& draft) {
  const GgufKeys& keys = draft.keys;
  nlohmann::json& config = draft.config;
  RETURN_IF_ERROR(draft.add_decoder());
  config["model_type"] = "jamba";
  constexpr std::string_view kKvHeads = ".attention.head_count_kv";
  ASSIGN_OR_RETURN(const std::vector<int64_t> kv_heads, draft.per_layer(kKvHeads));
  std::vector<bool> attending;
  for (const int64_t heads : kv_heads) attending.push_back(heads > 0);
  if (std::ranges::count(attending, true) == 0)
    return keys.refuse(kKvHeads, "one for each layer, some not 0");
  RETURN_IF_ERROR(AddEveryNth(draft, "attn", attending));
  ASSIGN_OR_RETURN(const auto experts, keys.optional_int(".expert_count", kAnyCount));
  config["num_experts"] = std::max<int64_t>(1, experts.value_or(0));
  if (config["num_experts"] > 1) {
    RETURN_IF_ERROR(draft.add_experts("num_experts"));
    RETURN_IF_ERROR(AddEveryNth(draft, "expert", draft.layers_with("ffn_gate_inp.weight")));
  }
  ASSIGN_OR_RETURN(const int64_t inner, keys.required_int(".ssm.inner_size"));
  const auto width = config["hidden_size"].get<int64_t>();
  if (inner % width != 0) return keys.refuse(".ssm.inner_size", fmt::format("a multiple of {}", width));
  config["mamba_expand"] = inner / width;
  ASSIGN_OR_RETURN(config["mamba_d_state"], keys.required_int(".ssm.state_size"));
  ASSIGN_OR_RETURN(config["mamba_d_conv"], keys.required_int(".ssm.conv_kernel"));
  ASSIGN_OR_RETURN(config["mamba_dt_rank"], keys.required_int(".ssm.time_step_rank"));
  config["mamba_conv_bias"] = std::ranges::count(draft.layers_with("ssm_conv1d.bias"), true) > 0;
  config["mamba_proj_bias"] = std::ranges::count(draft.layers_with("ssm_in.bias"), true) > 0;
  draft.outside.assign(std::begin(kFeedForwardOutside), std::end(kFeedForwardOutside));
  draft.stems.assign(std::begin(kFeedForward), std::end(kFeedForward));
  draft.add(kGgufProjections);
  draft.add(kMamba1);
  return absl::OkStatus();
}

/// The file's weights have been multiplied by the config's multipliers, which are 1 therefore; the gate comes before the
/// norm, as in every released model and in llama.cpp.
absl::Status BuildFalconH1(GgufDraft& draft) {
  nlohmann::json& config = draft.config;
  RETURN_IF_ERROR(draft.add_decoder());
  config["model_type"] = "falcon_h1";
  ASSIGN_OR_RETURN(config["mamba_d_ssm"], AddMamba(draft, kGraniteNames));
  config["mamba_rms_norm"] = draft.has("blk.0.ssm_norm.weight");
  config["mamba_norm_before_gate"] = false;
  config["mlp_bias"] = draft.has("blk.0.ffn_up.bias");
  draft.outside.assign(std::begin(kFeedForwardOutside), std::end(kFeedForwardOutside));
  draft.stems.assign(std::begin(kFeedForward), std::end(kFeedForward));
  draft.add(kGgufProjections);
  draft.add(kGraniteMamba);
  return absl::OkStatus();
}

/// Granite 4. Layers without key heads are Mamba 2.
absl::Status BuildGraniteHybrid(GgufDraft& draft) {
  const GgufKeys& keys = draft.keys;
  nlohmann::json& config = draft.config;
  RETURN_IF_ERROR(AddGgufGranite(draft, "granitemoehybrid"));
  ASSIGN_OR_RETURN(const auto rotates, keys.optional_bool(".rope.scaling.finetuned"));
  config["position_embedding_type"] = rotates.value_or(true) ? "rope" : "nope";
  ASSIGN_OR_RETURN(const std::vector<int64_t> kv_heads, draft.per_layer(".attention.head_count_kv"));
  config["layer_types"] = nlohmann::json::array();
  for (const int64_t heads : kv_heads) config["layer_types"].push_back(heads > 0 ? "attention" : "mamba");
  RETURN_IF_ERROR(AddMamba(draft, kGraniteNames).status());
  draft.add(kGraniteMamba);
  ASSIGN_OR_RETURN(const auto experts, keys.optional_int(".expert_count", kAnyCount));
  if (experts.value_or(0) == 0) {
    config["shared_intermediate_size"] = config["intermediate_size"];
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(config["shared_intermediate_size"],
                   keys.required_int(".expert_shared_feed_forward_length"));
  return draft.add_experts("num_local_experts");
}

}  // namespace shoal
