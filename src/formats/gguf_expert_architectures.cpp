// Architectures with experts of late 2026, apart for length. Names and keys as in gguf_architectures.cpp.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "formats/gguf_architectures.h"

namespace shoal {
namespace {

constexpr GgufStem kGlm4MoeNorm[] = {{"post_attention_norm", "post_attention_layernorm"}};
constexpr GgufStem kMinimaxBias[] = {
    {"exp_probs_b", "block_sparse_moe.e_score_correction_bias", StemKind::kWholeName}};
constexpr GgufStem kErnieBias[] = {
    {"exp_probs_b", "mlp.moe_statics.e_score_correction_bias", StemKind::kWholeName, StemShape::kRow}};
constexpr GgufStem kAfmoe[] = {
    {"attn_norm", "input_layernorm"},
    {"post_attention_norm", "post_attention_layernorm"},
    {"ffn_norm", "pre_mlp_layernorm"},
    {"post_ffw_norm", "post_mlp_layernorm"},
    {"attn_gate", "self_attn.gate_proj"},
    {"ffn_gate_inp", "mlp.router.gate"},
    {"exp_probs_b", "mlp.expert_bias", StemKind::kWholeName},
    {"ffn_gate_exps", "mlp.experts.gate_proj"},
    {"ffn_up_exps", "mlp.experts.up_proj"},
    {"ffn_down_exps", "mlp.experts.down_proj"},
};
// As the hub has them, gate and up as one; or apart.
constexpr GgufStem kMistral4Experts[] = {
    {"ffn_gate_inp", "mlp.gate"},
    {"ffn_gate_up_exps", "mlp.experts.gate_up_proj", StemKind::kWholeName},
    {"ffn_gate_exps", "mlp.switch_mlp.gate_proj"},
    {"ffn_up_exps", "mlp.switch_mlp.up_proj"},
};
constexpr GgufStem kMistral4FusedDown[] = {{"ffn_down_exps", "mlp.experts.down_proj", StemKind::kWholeName}};
constexpr GgufStem kMistral4StackedDown[] = {{"ffn_down_exps", "mlp.switch_mlp.down_proj"}};
constexpr GgufStem kMimo2Sinks[] = {{"attn_sinks", "self_attn.attention_sink_bias", StemKind::kWholeName}};
constexpr GgufStem kStep35[] = {
    {"attn_gate", "self_attn.g_proj"},
    {"ffn_gate_inp", "moe.gate"},
    {"exp_probs_b", "moe.router_bias", StemKind::kWholeName},
    {"ffn_gate_exps", "moe.gate_proj"},
    {"ffn_up_exps", "moe.up_proj"},
    {"ffn_down_exps", "moe.down_proj"},
    {"ffn_gate_shexp", "share_expert.gate_proj"},
    {"ffn_up_shexp", "share_expert.up_proj"},
    {"ffn_down_shexp", "share_expert.down_proj"},
};
constexpr GgufStem kLlama4[] = {
    {"ffn_gate", "feed_forward.gate_proj"},
    {"ffn_up", "feed_forward.up_proj"},
    {"ffn_down", "feed_forward.down_proj"},
    {"ffn_gate_inp", "feed_forward.router"},
    {"ffn_gate_exps", "feed_forward.experts.gate_proj"},
    {"ffn_up_exps", "feed_forward.experts.up_proj"},
    {"ffn_down_exps", "feed_forward.experts.down_proj"},
    {"ffn_gate_shexp", "feed_forward.shared_expert.gate_proj"},
    {"ffn_up_shexp", "feed_forward.shared_expert.up_proj"},
    {"ffn_down_shexp", "feed_forward.shared_expert.down_proj"},
};

/// Stems before all that are there.
void AddFirst(GgufDraft& draft, std::span<const GgufStem> stems) {
  draft.stems.insert(draft.stems.begin(), stems.begin(), stems.end());
}

/// What layers with a window have, and what those without; 0 where there is none of the kind.
struct KindNumbers {
  int64_t windowed = 0;
  int64_t full = 0;
};
/// Unimplemented where layers of one kind differ.
absl::StatusOr<KindNumbers> NumbersOfKinds(const GgufDraft& draft, std::string_view key,
                                           const std::vector<bool>& windowed) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> values, draft.per_layer(key, kPositive));
  KindNumbers numbers;
  for (size_t i = 0; i < values.size(); ++i) {
    int64_t& number = windowed[i] ? numbers.windowed : numbers.full;
    if (number == 0) number = values[i];
    if (number == values[i]) continue;
    return Unimplemented(
        "checkpoint: {}: key '{}': expected {} as in the layers before, which {} a window, too, found {} for "
        "layer {}",
        draft.keys.file(), draft.keys.full(key), number, windowed[i] ? "have" : "lack", values[i], i);
  }
  return numbers;
}

/// Where `flags` are set, their positions.
std::string PositionsOf(const std::vector<bool>& flags) {
  std::string text;
  for (size_t i = 0; i < flags.size(); ++i) {
    if (flags[i]) text += fmt::format("{}{}", text.empty() ? "" : ",", i);
  }
  return text;
}

}  // namespace

/// DeepSeek-MoE, the first: weights of the chosen experts are used as they are, in every released model and in
/// llama.cpp.
absl::Status BuildDeepseek(GgufDraft& draft) {
  RETURN_IF_ERROR(draft.add_dense("deepseek"));
  draft.permute_heads();
  RETURN_IF_ERROR(draft.add_routed_experts("n_routed_experts"));
  ASSIGN_OR_RETURN(draft.config["n_shared_experts"],
                   draft.keys.required_int(".expert_shared_count", kAnyCount));
  draft.config["norm_topk_prob"] = false;
  draft.config["moe_layer_freq"] = 1;
  draft.add(kGgufStacks);
  draft.add(kGgufSharedExpert);
  return absl::OkStatus();
}

/// OLMoE. Weights of the chosen experts are used as they are, as above.
absl::Status BuildOlmoe(GgufDraft& draft) {
  RETURN_IF_ERROR(draft.add_dense("olmoe"));
  draft.add(kGgufHeadNorms);
  draft.config["norm_topk_prob"] = false;
  draft.add(kGgufStacks);
  return draft.add_experts("num_experts");
}

absl::Status BuildMinimaxM2(GgufDraft& draft) {
  nlohmann::json& config = draft.config;
  RETURN_IF_ERROR(draft.require_sigmoid_scores());
  RETURN_IF_ERROR(draft.add_decoder());
  config["model_type"] = "minimax_m2";
  config.erase("partial_rotary_factor");
  ASSIGN_OR_RETURN(const auto rotary, draft.keys.optional_int(".rope.dimension_count"));
  config["rotary_dim"] = rotary.value_or(config["head_dim"].get<int64_t>());
  ASSIGN_OR_RETURN(config["intermediate_size"], draft.keys.required_int(".expert_feed_forward_length"));
  config["use_qk_norm"] = draft.has("blk.0.attn_q_norm.weight");
  config["use_routing_bias"] = draft.has("blk.0.exp_probs_b.bias");
  draft.add(kGgufProjections);
  draft.add(kGgufHeadNorms);
  draft.add(kGgufMixtralStacks);
  draft.add(kMinimaxBias);
  return draft.add_experts("num_local_experts");
}

/// GLM-4.5 to 4.7, and Solar Open without norms of heads.
absl::Status BuildGlm4Moe(GgufDraft& draft) {
  RETURN_IF_ERROR(draft.require_sigmoid_scores());
  RETURN_IF_ERROR(draft.add_dense("glm4_moe"));
  RETURN_IF_ERROR(draft.add_routed_experts("n_routed_experts"));
  RETURN_IF_ERROR(draft.add_shared_experts("n_shared_experts"));
  draft.config["use_qk_norm"] = draft.has("blk.0.attn_q_norm.weight");
  if (!draft.config.contains("intermediate_size")) draft.config["intermediate_size"] = 1;  // No dense layer.
  draft.add(kGlm4MoeNorm);
  draft.add(kGgufHeadNorms);
  draft.add(kGgufStacks);
  draft.add(kGgufSharedExpert);
  draft.add(kGgufSelectionBias);
  return absl::OkStatus();
}

/// The last layers have experts, too: the format has no key for moe_layer_end_index.
absl::Status BuildErnie45Moe(GgufDraft& draft) {
  const GgufKeys& keys = draft.keys;
  nlohmann::json& config = draft.config;
  RETURN_IF_ERROR(draft.add_dense("ernie4_5_moe"));
  config["use_bias"] = config["attention_bias"];
  ASSIGN_OR_RETURN(config["moe_num_experts"], keys.required_int(".expert_count"));
  ASSIGN_OR_RETURN(config["moe_k"], keys.required_int(".expert_used_count"));
  ASSIGN_OR_RETURN(config["moe_intermediate_size"], keys.required_int(".expert_feed_forward_length"));
  ASSIGN_OR_RETURN(config["moe_layer_start_index"],
                   keys.required_int(".leading_dense_block_count", kAnyCount));
  ASSIGN_OR_RETURN(config["moe_layer_interval"], keys.required_int(".interleave_moe_layer_step"));
  RETURN_IF_ERROR(draft.add_shared_experts("moe_num_shared_experts"));
  draft.add(kGgufStacks);
  draft.add(kGgufSharedExpert);
  draft.add(kErnieBias);
  return absl::OkStatus();
}

/// Three of four layers have the window where the file does not say which, as in llama.cpp.
absl::Status BuildExaoneMoe(GgufDraft& draft) {
  RETURN_IF_ERROR(draft.require_sigmoid_scores());
  RETURN_IF_ERROR(draft.add_dense("exaone_moe"));
  RETURN_IF_ERROR(draft.add_windows(4).status());
  RETURN_IF_ERROR(draft.add_routed_experts("num_experts"));
  RETURN_IF_ERROR(draft.add_shared_experts("num_shared_experts"));
  draft.add(kGgufHeadNorms);
  draft.add(kGgufStacks);
  draft.add(kGgufSharedExpert);
  draft.add(kGgufSelectionBias);
  return absl::OkStatus();
}

/// Embeddings are scaled, as in every released model and in llama.cpp: the format has no key for mup_enabled.
absl::Status BuildAfmoe(GgufDraft& draft) {
  nlohmann::json& config = draft.config;
  RETURN_IF_ERROR(draft.require_sigmoid_scores());
  RETURN_IF_ERROR(draft.add_dense("afmoe"));
  RETURN_IF_ERROR(draft.add_windows(4).status());
  RETURN_IF_ERROR(draft.add_routed_experts("num_experts"));
  config["num_dense_layers"] = config["first_k_dense_replace"];
  config["route_scale"] = config["routed_scaling_factor"];
  config["route_norm"] = config["norm_topk_prob"];
  config["mup_enabled"] = true;
  ASSIGN_OR_RETURN(config["num_shared_experts"], draft.keys.required_int(".expert_shared_count", kAnyCount));
  AddFirst(draft, kAfmoe);
  draft.add(kGgufHeadNorms);
  draft.add(kGgufSharedExpert);
  return absl::OkStatus();
}

/// The file holds the magnitude of rope that the lengths give, instead of short_mscale and long_mscale; and not the
/// jitter of the router, which is 0.01 in every released model.
absl::Status BuildPhimoe(GgufDraft& draft) {
  const GgufKeys& keys = draft.keys;
  nlohmann::json& config = draft.config;
  RETURN_IF_ERROR(draft.add_decoder());
  config["model_type"] = "phimoe";
  config["attention_bias"] = draft.has("blk.0.attn_q.bias");
  config["lm_head_bias"] = draft.has("output.bias");
  config["router_jitter_noise"] = 0.01;
  ASSIGN_OR_RETURN(const auto window, keys.optional_int(".attention.sliding_window", kAnyCount));
  if (window.value_or(0) > 0) config["sliding_window"] = *window;
  if (config.contains("rope_scaling")) {
    ASSIGN_OR_RETURN(const double magnitude, keys.required_number(".rope.scaling.attn_factor"));
    config["rope_scaling"]["short_mscale"] = config["rope_scaling"]["long_mscale"] = magnitude;
    config["rope_scaling"]["original_max_position_embeddings"] = config["original_max_position_embeddings"];
  }
  draft.add(kGgufProjections);
  draft.add(kGgufMixtralStacks);
  return draft.add_experts("num_local_experts");
}

/// Latent attention as of DeepSeek-V2, and experts by softmax, renormalised.
absl::Status BuildMistral4(GgufDraft& draft) {
  const GgufKeys& keys = draft.keys;
  nlohmann::json& config = draft.config;
  draft.own_keys = {".attention.temperature_scale"};
  RETURN_IF_ERROR(draft.add_latent_attention());
  RETURN_IF_ERROR(draft.add_routed_experts("n_routed_experts"));
  config["model_type"] = "mistral4";
  RETURN_IF_ERROR(draft.add_shared_experts("n_shared_experts"));
  ASSIGN_OR_RETURN(const double beta, keys.required_number(".attention.temperature_scale"));
  if (!config.contains("rope_scaling")) return keys.refuse(".rope.scaling.type", "\"yarn\"");
  nlohmann::json rope = std::move(config["rope_scaling"]);
  config.erase("rope_scaling");
  rope["rope_theta"] = config["rope_theta"];
  rope["llama_4_scaling_beta"] = beta;
  config["rope_parameters"] = std::move(rope);
  draft.add(kGgufDense);
  draft.add(kMistral4Experts);
  draft.add(
      draft.has(fmt::format("blk.{}.ffn_gate_up_exps.weight", config["first_k_dense_replace"].get<int64_t>()))
          ? std::span<const GgufStem>(kMistral4FusedDown)
          : kMistral4StackedDown);
  draft.add(kGgufSharedExpert);
  return absl::OkStatus();
}

/// MiMo-V2-Flash: the hub's config has the window as sliding_window_size, which counts the positions before a row.
absl::Status BuildMimo2(GgufDraft& draft) {
  const GgufKeys& keys = draft.keys;
  nlohmann::json& config = draft.config;
  constexpr std::string_view kKvHeads = ".attention.head_count_kv";
  draft.narrow_values = true;
  draft.own_keys = {kKvHeads};
  RETURN_IF_ERROR(draft.add_dense("mimo_v2_flash"));
  config["layernorm_epsilon"] = config["rms_norm_eps"];
  ASSIGN_OR_RETURN(const std::vector<bool> windowed, draft.add_windows(1));
  config["sliding_window_size"] = config["sliding_window"];
  ASSIGN_OR_RETURN(const KindNumbers kv_heads, NumbersOfKinds(draft, kKvHeads, windowed));
  if (kv_heads.full > 0) config["num_key_value_heads"] = kv_heads.full;
  if (kv_heads.windowed > 0) config["swa_num_key_value_heads"] = kv_heads.windowed;
  ASSIGN_OR_RETURN(const auto theta, keys.optional_number(".rope.freq_base_swa"));
  config["swa_rope_theta"] = theta.value_or(10000.0);  // llama.cpp's default.
  ASSIGN_OR_RETURN(const auto scale, keys.optional_number(".attention.value_scale"));
  config["attention_value_scale"] = scale.value_or(1.0);
  RETURN_IF_ERROR(draft.require_sigmoid_scores());
  RETURN_IF_ERROR(draft.add_routed_experts("n_routed_experts"));
  config["norm_topk_prob"] = true;  // As in llama.cpp, which has no key for it here.
  config["moe_layer_freq"] = nlohmann::json::array();
  for (const bool sparse : draft.layers_with("ffn_gate_inp.weight"))
    config["moe_layer_freq"].push_back(sparse ? 1 : 0);
  draft.add(kGgufStacks);
  draft.add(kGgufSelectionBias);
  draft.add(kMimo2Sinks);
  return absl::OkStatus();
}

namespace {

constexpr std::string_view kStepHeads = ".attention.head_count";

/// What Step 3.5 has for each kind of layer: heads, thetas, and rotated shares.
absl::Status AddStepLayers(GgufDraft& draft) {
  const GgufKeys& keys = draft.keys;
  nlohmann::json& config = draft.config;
  ASSIGN_OR_RETURN(const std::vector<bool> windowed, draft.add_windows(4));
  ASSIGN_OR_RETURN(const KindNumbers heads, NumbersOfKinds(draft, kStepHeads, windowed));
  ASSIGN_OR_RETURN(const auto local, keys.optional_number(".rope.freq_base_swa"));
  const nlohmann::json theta = config["rope_theta"];
  config["num_attention_groups"] = config["num_key_value_heads"];
  config["rope_theta"] = config["partial_rotary_factors"] = nlohmann::json::array();
  for (size_t i = 0; i < windowed.size(); ++i) {
    config["rope_theta"].push_back(windowed[i] ? nlohmann::json(local.value_or(10000.0)) : theta);
    config["partial_rotary_factors"].push_back(windowed[i] ? 1.0 : 0.5);
  }
  if (heads.full > 0) config["num_attention_heads"] = heads.full;
  if (heads.windowed > 0) config["attention_other_setting"]["num_attention_heads"] = heads.windowed;
  config["yarn_only_types"] = {"full_attention"};
  return absl::OkStatus();
}

}  // namespace

/// Step 3.5. Layers that see everything rotate half of a head, as in every released model and in llama.cpp.
absl::Status BuildStep35(GgufDraft& draft) {
  const GgufKeys& keys = draft.keys;
  nlohmann::json& config = draft.config;
  draft.norms_plus_one = true;
  draft.own_keys = {kStepHeads};
  RETURN_IF_ERROR(draft.require_sigmoid_scores());
  ASSIGN_OR_RETURN(const int64_t head_dim, keys.required_int(".attention.key_length"));
  draft.scaled_pairs = head_dim / 4;
  RETURN_IF_ERROR(draft.add_dense("step3p5"));
  RETURN_IF_ERROR(AddStepLayers(draft));
  ASSIGN_OR_RETURN(config["moe_num_experts"], keys.required_int(".expert_count"));
  ASSIGN_OR_RETURN(config["moe_top_k"], keys.required_int(".expert_used_count"));
  ASSIGN_OR_RETURN(config["moe_intermediate_size"], keys.required_int(".expert_feed_forward_length"));
  ASSIGN_OR_RETURN(config["share_expert_dim"], keys.required_int(".expert_shared_feed_forward_length"));
  ASSIGN_OR_RETURN(const auto scale, keys.optional_number(".expert_weights_scale"));
  config["moe_router_scaling_factor"] = scale.value_or(1.0);
  ASSIGN_OR_RETURN(const auto normalized, keys.optional_bool(".expert_weights_norm"));
  config["norm_expert_weight"] = normalized.value_or(true);
  config["moe_layers_enum"] = PositionsOf(draft.layers_with("ffn_gate_inp.weight"));
  for (const auto& [key, name] : {std::pair(".swiglu_clamp_exp", "swiglu_limits"),
                                  std::pair(".swiglu_clamp_shexp", "swiglu_limits_shared")}) {
    const GgufValue* limits = keys.find(key);
    if (limits == nullptr) continue;
    const std::optional<std::vector<double>> numbers = limits->as_numbers();
    if (!numbers) return keys.refuse(key, "a number for each layer");
    config[name] = *numbers;
  }
  draft.add(kGgufHeadNorms);
  draft.add(kStep35);
  return absl::OkStatus();
}

/// Three of four layers have rope and attend within chunks of 8192 positions, unless the file has no window; queries of
/// the others grow with the context. All of it as llama.cpp has it: the format has no keys for it.
absl::Status BuildLlama4(GgufDraft& draft) {
  constexpr int64_t kMaverickExperts = 128;
  const GgufKeys& keys = draft.keys;
  nlohmann::json& config = draft.config;
  RETURN_IF_ERROR(draft.add_decoder());
  ASSIGN_OR_RETURN(const auto window, keys.optional_int(".attention.sliding_window", kAnyCount));
  draft.wrapper = "llama4";
  config["model_type"] = "llama4_text";
  config["attention_bias"] = draft.has("blk.0.attn_q.bias");
  config["intermediate_size_mlp"] = config["intermediate_size"];
  ASSIGN_OR_RETURN(config["intermediate_size"], keys.required_int(".expert_feed_forward_length"));
  ASSIGN_OR_RETURN(config["interleave_moe_layer_step"],
                   keys.required_int(".interleave_moe_layer_step", kAnyCount));
  RETURN_IF_ERROR(draft.add_experts("num_local_experts"));
  config["use_qk_norm"] = config["num_local_experts"] != kMaverickExperts;
  config["no_rope_layer_interval"] = window == 0 ? draft.layers + 1 : 4;
  if (window != 0) config["attention_chunk_size"] = 8192;
  config["attn_temperature_tuning"] = window != 0;
  draft.add(kGgufProjections);
  draft.add(kLlama4);
  return absl::OkStatus();
}

}  // namespace shoal
