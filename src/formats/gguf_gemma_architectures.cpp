// The versions of Gemma. Names and keys as in gguf_architectures.cpp.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <optional>
#include <string>
#include <utility>
#include <vector>

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

constexpr GgufStem kLayerInputs[] = {{"per_layer_token_embd", "model.embed_tokens_per_layer"},
                                     {"per_layer_model_proj", "model.per_layer_model_projection"},
                                     {"per_layer_proj_norm", "model.per_layer_projection_norm"}};
constexpr GgufStem kLayerInput[] = {{"inp_gate", "per_layer_input_gate"},
                                    {"proj", "per_layer_projection"},
                                    {"post_norm", "post_per_layer_input_norm"}};
constexpr GgufStem kAltUpStreams[] = {{"altup_proj", "model.altup_projections"},
                                      {"altup_unembd_proj", "model.altup_unembed_projections"}};
constexpr GgufStem kAltUp[] = {{"altup_router", "altup.modality_router"},
                               {"altup_router_norm", "altup.router_norm"},
                               {"altup_predict_coef", "altup.prediction_coefs"},
                               {"altup_correct_coef", "altup.correction_coefs"},
                               {"altup_correct_scale", "altup.correct_output_scale", StemKind::kWholeName},
                               {"laurel_l", "laurel.linear_left"},
                               {"laurel_r", "laurel.linear_right"},
                               {"laurel_post_norm", "laurel.post_laurel_norm"}};
constexpr GgufStem kGemma4[] = {{"layer_output_scale", "layer_scalar", StemKind::kWholeName}};
// Gate and up as one, as the hub has them; or apart.
constexpr GgufStem kGemma4Experts[] = {
    {"pre_ffw_norm_2", "pre_feedforward_layernorm_2"},
    {"post_ffw_norm_1", "post_feedforward_layernorm_1"},
    {"post_ffw_norm_2", "post_feedforward_layernorm_2"},
    {"ffn_gate_inp", "router.proj"},
    {"ffn_gate_inp.scale", "router.scale", StemKind::kWholeName},
    {"ffn_down_exps.scale", "router.per_expert_scale", StemKind::kWholeName},
    {"ffn_gate_up_exps", "experts.gate_up_proj", StemKind::kWholeName},
    {"ffn_gate_exps", "experts.switch_glu.gate_proj"},
    {"ffn_up_exps", "experts.switch_glu.up_proj"},
};
constexpr GgufStem kGemma4FusedDown[] = {{"ffn_down_exps", "experts.down_proj", StemKind::kWholeName}};
constexpr GgufStem kGemma4StackedDown[] = {{"ffn_down_exps", "experts.switch_glu.down_proj"}};

/// What Gemma 3n and 4 have: norms as they are, an input for each layer, windows, and layers that take the keys and values
/// of others. The pattern of windows and the number of such layers are in every file of today's converter; `usual` and
/// `own_kv`, layers with keys and values of their own, are llama.cpp's for older ones. Returns which layers have a window.
absl::StatusOr<std::vector<bool>> AddGemmaWithLayerInputs(GgufDraft& draft, const char* model_type,
                                                          int64_t usual, std::optional<int64_t> own_kv) {
  const GgufKeys& keys = draft.keys;
  nlohmann::json& config = draft.config;
  // Widths may differ from layer to layer; shapes of tensors are held to them.
  draft.own_keys.insert(draft.own_keys.end(), {".final_logit_softcapping", ".feed_forward_length"});
  RETURN_IF_ERROR(draft.add_dense(model_type));
  config["hidden_activation"] = "gelu_pytorch_tanh";
  ASSIGN_OR_RETURN(const auto width, keys.optional_int(".embedding_length_per_layer_input", kAnyCount));
  config["hidden_size_per_layer_input"] = width.value_or(0);
  const GgufTensor* const table = draft.tensor("per_layer_token_embd.weight");
  if (table != nullptr && table->shape.size() == 2) config["vocab_size_per_layer_input"] = table->shape[0];
  ASSIGN_OR_RETURN(const auto sharing, keys.optional_int(".attention.shared_kv_layers", kAnyCount));
  const int64_t unsaid = std::max<int64_t>(0, draft.layers - own_kv.value_or(draft.layers));
  config["num_kv_shared_layers"] = sharing.value_or(unsaid);
  ASSIGN_OR_RETURN(const auto logit_cap, keys.optional_number(".final_logit_softcapping"));
  config["final_logit_softcapping"] = nullptr;
  if (logit_cap.value_or(0) != 0) config["final_logit_softcapping"] = *logit_cap;
  draft.stems.erase(draft.stems.begin(), draft.stems.begin() + std::ssize(kGgufNorms));
  draft.add(kGemmaNorms);
  draft.add(kGgufOutputNorms);
  draft.add(kGgufHeadNorms);
  if (width.value_or(0) > 0) {  // Else such tensors are refused, and not ignored.
    draft.add(kLayerInput);
    draft.outside.insert(draft.outside.end(), std::begin(kLayerInputs), std::end(kLayerInputs));
  }
  return draft.add_windows(usual);
}

/// activation_sparsity_pattern. The file has quantiles of the normal distribution, computed in f32: of shares near one the
/// decimal of at most five digits was meant.
absl::Status AddSparsity(GgufDraft& draft) {
  constexpr std::string_view kKey = ".activation_sparsity_scale";
  const GgufValue* const value = draft.keys.find(kKey);
  if (value == nullptr) return absl::OkStatus();
  const std::optional<std::vector<double>> quantiles = value->as_numbers();
  if (!quantiles || std::ssize(*quantiles) < draft.layers)
    return draft.keys.refuse(kKey, fmt::format("a number for each of {} layers", draft.layers));
  nlohmann::json shares = nlohmann::json::array();
  for (int64_t i = 0; i < draft.layers; ++i) {
    const double quantile = (*quantiles)[static_cast<size_t>(i)];
    if (std::isinf(quantile) && quantile < 0) {  // Of 0.
      shares.push_back(0.0);
      continue;
    }
    const double share = 0.5 * std::erfc(-quantile / std::numbers::sqrt2);
    const double decimal = std::round(share * 1e5) / 1e5;
    shares.push_back(std::abs(decimal - share) < 1e-6 ? decimal : share);
  }
  draft.config["activation_sparsity_pattern"] = std::move(shares);
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

absl::Status BuildGemma3n(GgufDraft& draft) {
  const GgufKeys& keys = draft.keys;
  nlohmann::json& config = draft.config;
  RETURN_IF_ERROR(AddGemmaWithLayerInputs(draft, "gemma3n_text", 5, 20).status());
  ASSIGN_OR_RETURN(config["intermediate_size"], draft.per_layer(".feed_forward_length", kPositive));
  ASSIGN_OR_RETURN(const auto local, keys.optional_number(".rope.freq_base_swa"));
  config["rope_local_base_freq"] = local.value_or(10000.0);
  ASSIGN_OR_RETURN(config["altup_num_inputs"], keys.required_int(".altup.num_inputs"));
  ASSIGN_OR_RETURN(config["altup_active_idx"], keys.required_int(".altup.active_idx", kAnyCount));
  config["altup_correct_scale"] = draft.has("blk.0.altup_correct_scale.weight");
  const GgufTensor* const bypass = draft.tensor("blk.0.laurel_l.weight");
  if (bypass != nullptr && bypass->shape.size() == 2) config["laurel_rank"] = bypass->shape[0];
  draft.add(kAltUp);
  draft.outside.insert(draft.outside.end(), std::begin(kAltUpStreams), std::end(kAltUpStreams));
  return AddSparsity(draft);
}

namespace {

/// Heads and ropes of Gemma 4's two kinds of layers. The file's sizes are those of layers that see everything, with the
/// others' beside them.
absl::Status AddGemma4Attention(GgufDraft& draft, const std::vector<bool>& windowed) {
  const GgufKeys& keys = draft.keys;
  nlohmann::json& config = draft.config;
  const auto full_dim = config["head_dim"].get<int64_t>();
  for (const char* key :
       {".attention.key_length_swa", ".attention.value_length_swa", ".rope.dimension_count_swa"}) {
    ASSIGN_OR_RETURN(const int64_t dim, keys.required_int(key));
    if (key == std::string_view(".attention.key_length_swa")) config["head_dim"] = dim;
    if (config["head_dim"] != dim) return keys.refuse(key, "the key length of layers with a window");
  }
  if (config.contains("rope_scaling")) return keys.refuse(".rope.scaling.type", "nothing");
  if (config.contains("partial_rotary_factor")) return keys.refuse(".rope.dimension_count", "the key length");
  ASSIGN_OR_RETURN(const auto local, keys.optional_number(".rope.freq_base_swa"));
  config["rope_parameters"] = {
      {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", local.value_or(10000.0)}}},
      {"full_attention",
       {{"rope_type", "proportional"},
        {"rope_theta", config["rope_theta"]},
        {"partial_rotary_factor", GgufShareOf(draft.rotating_pairs, full_dim / 2)}}}};
  config.erase("rope_theta");
  ASSIGN_OR_RETURN(const std::vector<int64_t> kv_heads,
                   draft.per_layer(".attention.head_count_kv", kPositive));
  const int64_t own_kv = draft.layers - config["num_kv_shared_layers"].get<int64_t>();
  config["attention_k_eq_v"] = false;
  bool first_full = true;
  for (size_t i = 0; i < windowed.size(); ++i) {
    const int64_t heads = kv_heads.empty() ? config["num_attention_heads"].get<int64_t>() : kv_heads[i];
    if (windowed[i]) {
      config["num_key_value_heads"] = heads;
      continue;
    }
    config["per_layer_config"][fmt::format("{}", i)] = {{"head_dim", full_dim},
                                                        {"num_key_value_heads", heads}};
    if (static_cast<int64_t>(i) >= own_kv) continue;
    const bool from_keys = !draft.has(fmt::format("blk.{}.attn_v.weight", i));
    if (std::exchange(first_full, false)) config["attention_k_eq_v"] = from_keys;
    if (config["attention_k_eq_v"] != from_keys) {
      return Unimplemented(
          "checkpoint: {}: layer {}: expected 'attn_v' in all layers with full attention or in none",
          keys.file(), i);
    }
  }
  return absl::OkStatus();
}

}  // namespace

/// Text alone: towers are files of their own, and so are heads for further tokens.
absl::Status BuildGemma4(GgufDraft& draft) {
  const GgufKeys& keys = draft.keys;
  nlohmann::json& config = draft.config;
  draft.stops_pairs = true;
  draft.own_keys = {".attention.head_count_kv"};
  ASSIGN_OR_RETURN(const std::vector<bool> windowed,
                   AddGemmaWithLayerInputs(draft, "gemma4_text", 6, std::nullopt));
  RETURN_IF_ERROR(AddGemma4Attention(draft, windowed));
  ASSIGN_OR_RETURN(const std::vector<int64_t> ffns, draft.per_layer(".feed_forward_length", kPositive));
  if (ffns.empty()) return keys.refuse(".feed_forward_length", "an integer");
  config["intermediate_size"] = ffns.front();
  config["use_double_wide_mlp"] = ffns.back() == 2 * ffns.front();
  draft.add(kGemma4);
  ASSIGN_OR_RETURN(const auto experts, keys.optional_int(".expert_count", kAnyCount));
  config["enable_moe_block"] = experts.value_or(0) > 0;
  if (experts.value_or(0) == 0) return absl::OkStatus();
  RETURN_IF_ERROR(draft.add_experts("num_experts"));
  config["top_k_experts"] = config["num_experts_per_tok"];
  ASSIGN_OR_RETURN(config["moe_intermediate_size"], keys.required_int(".expert_feed_forward_length"));
  draft.add(kGemma4Experts);
  draft.add(draft.has("blk.0.ffn_gate_up_exps.weight") ? std::span<const GgufStem>(kGemma4FusedDown)
                                                       : kGemma4StackedDown);
  return absl::OkStatus();
}

}  // namespace shoal
