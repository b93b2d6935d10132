// One function per architecture. Names and keys are those that llama.cpp's converter writes and its loader
// reads (https://github.com/ggml-org/llama.cpp, conversion/ and src/models/).
#include "formats/gguf_architectures.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/status.h"

namespace shoal {
namespace {

constexpr GgufStem kProjections[] = {{"attn_q", "self_attn.q_proj"},
                                     {"attn_k", "self_attn.k_proj"},
                                     {"attn_v", "self_attn.v_proj"},
                                     {"attn_output", "self_attn.o_proj"}};
constexpr GgufStem kNorms[] = {{"attn_norm", "input_layernorm"}, {"ffn_norm", "post_attention_layernorm"}};
constexpr GgufStem kHeadNorms[] = {{"attn_q_norm", "self_attn.q_norm"}, {"attn_k_norm", "self_attn.k_norm"}};
constexpr GgufStem kDense[] = {
    {"ffn_gate", "mlp.gate_proj"}, {"ffn_up", "mlp.up_proj"}, {"ffn_down", "mlp.down_proj"}};
constexpr GgufStem kExperts[] = {{"ffn_gate_inp", "mlp.gate"},
                                 {"ffn_gate_exps", "mlp.switch_mlp.gate_proj"},
                                 {"ffn_up_exps", "mlp.switch_mlp.up_proj"},
                                 {"ffn_down_exps", "mlp.switch_mlp.down_proj"}};
constexpr GgufStem kMixtralExperts[] = {
    {"ffn_gate_inp", "block_sparse_moe.gate"},
    {"ffn_gate_exps", "block_sparse_moe.switch_mlp.gate_proj"},
    {"ffn_up_exps", "block_sparse_moe.switch_mlp.up_proj"},
    {"ffn_down_exps", "block_sparse_moe.switch_mlp.down_proj"},
    // Before the format had stacks (April 2024):
    {"ffn_gate", "block_sparse_moe.experts.*.w1", StemKind::kEach},
    {"ffn_up", "block_sparse_moe.experts.*.w3", StemKind::kEach},
    {"ffn_down", "block_sparse_moe.experts.*.w2", StemKind::kEach},
};
constexpr GgufStem kQwen2MoeShared[] = {
    {"ffn_gate_inp_shexp", "mlp.shared_expert_gate", StemKind::kPlain, StemShape::kRow},
    {"ffn_gate_shexp", "mlp.shared_expert.gate_proj"},
    {"ffn_up_shexp", "mlp.shared_expert.up_proj"},
    {"ffn_down_shexp", "mlp.shared_expert.down_proj"},
};
constexpr GgufStem kDeepseekShared[] = {
    {"ffn_gate_shexp", "mlp.shared_experts.gate_proj"},
    {"ffn_up_shexp", "mlp.shared_experts.up_proj"},
    {"ffn_down_shexp", "mlp.shared_experts.down_proj"},
};
constexpr GgufStem kLatentAttention[] = {
    {"attn_q", "self_attn.q_proj"},
    {"attn_q_a", "self_attn.q_a_proj"},
    {"attn_q_a_norm", "self_attn.q_a_layernorm"},
    {"attn_q_b", "self_attn.q_b_proj"},
    {"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"},
    {"attn_kv_a_norm", "self_attn.kv_a_layernorm"},
    // Either as on the hub, or (since April 2025) per head with keys transposed, as MLX stores them.
    {"attn_kv_b", "self_attn.kv_b_proj"},
    {"attn_k_b", "self_attn.embed_q"},
    {"attn_v_b", "self_attn.unembed_out"},
    {"attn_output", "self_attn.o_proj"},
};
constexpr GgufStem kSelectionBias[] = {
    {"exp_probs_b", "mlp.gate.e_score_correction_bias", StemKind::kWholeName}};
constexpr GgufStem kFused[] = {{"attn_qkv", "self_attn.qkv_proj"},
                               {"attn_output", "self_attn.o_proj"},
                               {"ffn_up", "mlp.gate_up_proj"},
                               {"ffn_down", "mlp.down_proj"}};
constexpr GgufStem kGptOss[] = {{"attn_norm", "input_layernorm"},
                                {"post_attention_norm", "post_attention_layernorm"},
                                {"attn_sinks", "self_attn.sinks", StemKind::kWholeName},
                                {"ffn_gate_inp", "mlp.router"},
                                {"ffn_gate_exps", "mlp.experts.gate_proj"},
                                {"ffn_up_exps", "mlp.experts.up_proj"},
                                {"ffn_down_exps", "mlp.experts.down_proj"}};

/// Keys that change the arithmetic unless they are neutral; none of them is built, so other values are
/// refused.
struct NeutralKey {
  std::string_view key;
  double neutral;
};
constexpr NeutralKey kNeutralKeys[] = {{".attention.temperature_scale", 0},
                                       {".attn_logit_softcapping", 0},
                                       {".final_logit_softcapping", 0},
                                       {".router_logit_softcapping", 0},
                                       {".attention.clamp_kqv", 0},
                                       {".attention.max_alibi_bias", 0},
                                       {".logit_scale", 1},
                                       {".residual_scale", 1},
                                       {".embedding_scale", 1},
                                       {".rope.scaling.yarn_ext_factor", 1},
                                       {".rope.scaling.yarn_attn_factor", 1}};

absl::Status RefuseOtherArithmetic(const GgufDraft& draft) {
  const GgufKeys& keys = draft.keys;
  for (const NeutralKey& each : kNeutralKeys) {
    if (std::ranges::count(draft.own_keys, each.key) > 0) continue;
    ASSIGN_OR_RETURN(const auto value, keys.optional_number(each.key));
    if (value && *value != each.neutral) {
      return Unimplemented("checkpoint: {}: key '{}': expected none, or {}, found {}; this is not built",
                           keys.file(), keys.full(each.key), each.neutral, *value);
    }
  }
  return absl::OkStatus();
}

/// The keys that every decoder has, except those of its heads.
absl::Status AddSizes(GgufDraft& draft) {
  const GgufKeys& keys = draft.keys;
  nlohmann::json& config = draft.config;
  RETURN_IF_ERROR(RefuseOtherArithmetic(draft));
  const GgufTensor* embedding = draft.tensor("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    return InvalidArgument(
        "checkpoint: {}: expected a tensor 'token_embd.weight' of two dimensions, found {}", keys.file(),
        embedding == nullptr ? "none" : "another shape");
  }
  config["vocab_size"] = embedding->shape[0];
  config["tie_word_embeddings"] = !draft.has("output.weight");
  config["hidden_act"] = "silu";
  ASSIGN_OR_RETURN(config["hidden_size"], keys.required_int(".embedding_length"));
  constexpr int64_t kBlocksMax = 4096;  // More than any model has; bounds what is allocated per layer.
  ASSIGN_OR_RETURN(draft.blocks, keys.required_int(".block_count", {1, kBlocksMax}));
  ASSIGN_OR_RETURN(const auto further, keys.optional_int(".nextn_predict_layers", kAnyCount));
  draft.layers = draft.blocks - further.value_or(0);
  if (draft.layers < 1) return keys.refuse(".nextn_predict_layers", "fewer than there are blocks");
  config["num_hidden_layers"] = draft.layers;
  ASSIGN_OR_RETURN(config["max_position_embeddings"], keys.required_int(".context_length"));
  ASSIGN_OR_RETURN(const auto centered_eps, keys.optional_number(".attention.layer_norm_epsilon"));
  if (centered_eps) {  // Layer norms, under the names of two families.
    config["layer_norm_eps"] = config["norm_epsilon"] = *centered_eps;
  } else {
    ASSIGN_OR_RETURN(config["rms_norm_eps"], keys.required_number(".attention.layer_norm_rms_epsilon"));
  }
  constexpr std::string_view kHeads = ".attention.head_count";
  if (keys.find(kHeads) == nullptr) return keys.refuse(kHeads, "an integer");
  ASSIGN_OR_RETURN(const int64_t heads, draft.of_all_layers(kHeads));
  config["num_attention_heads"] = std::max<int64_t>(1, heads);  // Models without attention have none.
  ASSIGN_OR_RETURN(const int64_t ffn, draft.of_all_layers(".feed_forward_length"));
  if (ffn > 0) config["intermediate_size"] = ffn;
  draft.add(kNorms);
  return absl::OkStatus();
}

/// The keys that every decoder has, and those of grouped-query attention.
absl::Status AddDecoder(GgufDraft& draft) {
  const GgufKeys& keys = draft.keys;
  RETURN_IF_ERROR(AddSizes(draft));
  const auto heads = draft.config["num_attention_heads"].get<int64_t>();
  constexpr std::string_view kKvHeads = ".attention.head_count_kv";
  ASSIGN_OR_RETURN(const int64_t kv_heads, draft.of_all_layers(kKvHeads));
  draft.config["num_key_value_heads"] =
      keys.find(kKvHeads) == nullptr ? heads : std::max<int64_t>(1, kv_heads);
  ASSIGN_OR_RETURN(const auto key_length, keys.optional_int(".attention.key_length"));
  ASSIGN_OR_RETURN(const auto value_length, keys.optional_int(".attention.value_length"));
  const int64_t head_dim = key_length.value_or(draft.config["hidden_size"].get<int64_t>() / heads);
  if (head_dim < 1 || (!draft.narrow_values && value_length.value_or(head_dim) != head_dim)) {
    return keys.refuse(".attention.value_length", fmt::format("the key length {}", head_dim));
  }
  if (draft.narrow_values) draft.config["v_head_dim"] = value_length.value_or(head_dim);
  draft.config["head_dim"] = head_dim;
  return AddGgufRope(draft, head_dim);
}

absl::Status AddExperts(GgufDraft& draft, const char* count_key) {
  ASSIGN_OR_RETURN(draft.config[count_key], draft.keys.required_int(".expert_count"));
  ASSIGN_OR_RETURN(draft.config["num_experts_per_tok"], draft.keys.required_int(".expert_used_count"));
  return absl::OkStatus();
}

void PermuteHeads(GgufDraft& draft) {
  draft.permuted_q = draft.config["num_attention_heads"].get<int64_t>();
  draft.permuted_k = draft.config["num_key_value_heads"].get<int64_t>();
}

absl::Status BuildLlama(GgufDraft& draft) {
  RETURN_IF_ERROR(AddDecoder(draft));
  draft.add(kProjections);
  PermuteHeads(draft);
  draft.config["attention_bias"] = draft.has("blk.0.attn_q.bias");
  ASSIGN_OR_RETURN(const auto experts, draft.keys.optional_int(".expert_count", kAnyCount));
  if (experts.value_or(0) > 0) {
    draft.config["model_type"] = "mixtral";
    draft.add(kMixtralExperts);
    return AddExperts(draft, "num_local_experts");
  }
  draft.config["model_type"] = "llama";
  draft.config["mlp_bias"] = draft.has("blk.0.ffn_up.bias");
  draft.add(kDense);
  return absl::OkStatus();
}

absl::Status BuildQwen(GgufDraft& draft, const char* model_type, bool head_norms) {
  RETURN_IF_ERROR(AddDecoder(draft));
  draft.config["model_type"] = model_type;
  draft.config["use_sliding_window"] = false;
  draft.add(kProjections);
  draft.add(kDense);
  if (head_norms) draft.add(kHeadNorms);
  return absl::OkStatus();
}

absl::Status BuildQwen2(GgufDraft& draft) { return BuildQwen(draft, "qwen2", false); }
absl::Status BuildQwen3(GgufDraft& draft) { return BuildQwen(draft, "qwen3", true); }

absl::Status AddQwenExperts(GgufDraft& draft, bool normalized) {
  RETURN_IF_ERROR(AddExperts(draft, "num_experts"));
  ASSIGN_OR_RETURN(draft.config["moe_intermediate_size"],
                   draft.keys.required_int(".expert_feed_forward_length"));
  if (!draft.config.contains("intermediate_size")) draft.config["intermediate_size"] = 1;  // No dense layer.
  draft.config["norm_topk_prob"] = normalized;
  draft.config["decoder_sparse_step"] = 1;
  draft.config["mlp_only_layers"] = nlohmann::json::array();
  draft.add(kExperts);
  return absl::OkStatus();
}

absl::Status BuildQwen2Moe(GgufDraft& draft) {
  RETURN_IF_ERROR(BuildQwen(draft, "qwen2_moe", false));
  draft.add(kQwen2MoeShared);
  ASSIGN_OR_RETURN(draft.config["shared_expert_intermediate_size"],
                   draft.keys.required_int(".expert_shared_feed_forward_length"));
  return AddQwenExperts(draft, false);
}

absl::Status BuildQwen3Moe(GgufDraft& draft) {
  RETURN_IF_ERROR(BuildQwen(draft, "qwen3_moe", true));
  return AddQwenExperts(draft, true);
}

absl::Status BuildPhi3(GgufDraft& draft) {
  RETURN_IF_ERROR(AddDecoder(draft));
  draft.config["model_type"] = "phi3";
  ASSIGN_OR_RETURN(const auto window, draft.keys.optional_int(".attention.sliding_window", kAnyCount));
  if (window.value_or(0) > 0) draft.config["sliding_window"] = *window;
  draft.add(kFused);
  return absl::OkStatus();
}

absl::Status BuildGptOss(GgufDraft& draft) {
  RETURN_IF_ERROR(AddDecoder(draft));
  nlohmann::json& config = draft.config;
  config["model_type"] = "gpt_oss";
  config["attention_bias"] = draft.has("blk.0.attn_q.bias");
  RETURN_IF_ERROR(AddExperts(draft, "num_local_experts"));
  ASSIGN_OR_RETURN(config["intermediate_size"], draft.keys.required_int(".expert_feed_forward_length"));
  ASSIGN_OR_RETURN(config["sliding_window"], draft.keys.required_int(".attention.sliding_window"));
  config["layer_types"] = nlohmann::json::array();
  for (int64_t i = 0; i < draft.layers; ++i) {
    config["layer_types"].push_back(i % 2 == 0 ? "sliding_attention" : "full_attention");
  }
  // Both models have these; the format has no keys for them.
  config["swiglu_limit"] = 7.0;
  if (config.contains("rope_scaling")) config["rope_scaling"]["truncate"] = false;
  std::erase_if(draft.stems, [](const GgufStem& stem) { return stem.gguf == "ffn_norm"; });
  draft.add(kProjections);
  draft.add(kGptOss);
  return absl::OkStatus();
}

/// Latent attention: heads' sizes, and yarn as DeepSeek has it.
absl::Status AddLatentAttention(GgufDraft& draft) {
  const GgufKeys& keys = draft.keys;
  nlohmann::json& config = draft.config;
  RETURN_IF_ERROR(AddSizes(draft));
  config["num_key_value_heads"] = config["num_attention_heads"];
  ASSIGN_OR_RETURN(config["kv_lora_rank"], keys.required_int(".attention.kv_lora_rank"));
  ASSIGN_OR_RETURN(const auto q_rank, keys.optional_int(".attention.q_lora_rank", kAnyCount));
  if (q_rank.value_or(0) > 0) config["q_lora_rank"] = *q_rank;
  // Files with keys and values apart describe their attention over the latent by the names without _mla.
  const bool apart = keys.find(".attention.key_length_mla") != nullptr;
  const std::string key = apart ? ".attention.key_length_mla" : ".attention.key_length";
  ASSIGN_OR_RETURN(const int64_t key_dim, keys.required_int(key));
  ASSIGN_OR_RETURN(config["v_head_dim"],
                   keys.required_int(apart ? ".attention.value_length_mla" : ".attention.value_length"));
  ASSIGN_OR_RETURN(const int64_t rope_dim, keys.required_int(".rope.dimension_count"));
  if (rope_dim >= key_dim)
    return keys.refuse(key, fmt::format("more than the {} that are rotated", rope_dim));
  config["qk_rope_head_dim"] = rope_dim;
  config["qk_nope_head_dim"] = key_dim - rope_dim;
  RETURN_IF_ERROR(AddGgufRope(draft, rope_dim));
  ASSIGN_OR_RETURN(const auto tenth, keys.optional_number(".rope.scaling.yarn_log_multiplier"));
  if (tenth.value_or(0) != 0 && config.contains("rope_scaling")) {
    // The converter writes a tenth of mscale_all_dim. It has no key for mscale, which is the same number in
    // every released model.
    config["rope_scaling"]["mscale"] = 10 * *tenth;
    config["rope_scaling"]["mscale_all_dim"] = 10 * *tenth;
  }
  draft.add(kLatentAttention);
  return absl::OkStatus();
}

/// n_group and topk_group of files from before October 2025, which have no keys for them: the sizes of the two
/// released models with groups identify them, and a model of other sizes has no groups, as in llama.cpp.
void AddGroupsOfReleased(nlohmann::json& config) {
  struct Grouped {
    int64_t width, layers, experts;
    int64_t groups, topk_group;
  };
  constexpr Grouped kGrouped[] = {{5120, 60, 160, 8, 3},   // DeepSeek-V2, V2.5
                                  {7168, 61, 256, 8, 4}};  // DeepSeek-V3, R1
  for (const Grouped& each : kGrouped) {
    if (config["hidden_size"] != each.width || config["num_hidden_layers"] != each.layers ||
        config["n_routed_experts"] != each.experts) {
      continue;
    }
    config["n_group"] = each.groups;
    config["topk_group"] = each.topk_group;
  }
}

}  // namespace

/// DeepSeek-V2 and the models with its attention: V3 and R1, Kimi K2, GLM-4.7-Flash. They differ in how
/// experts are scored.
absl::Status BuildDeepseek2(GgufDraft& draft) {
  const GgufKeys& keys = draft.keys;
  nlohmann::json& config = draft.config;
  RETURN_IF_ERROR(AddLatentAttention(draft));
  RETURN_IF_ERROR(draft.add_routed_experts("n_routed_experts"));
  RETURN_IF_ERROR(draft.add_shared_experts("n_shared_experts"));
  config["moe_layer_freq"] = 1;
  if (keys.find(".expert_group_count") == nullptr) AddGroupsOfReleased(config);
  // Absent in files of DeepSeek-V2 and of the first GLM: only sigmoid scores have a selection bias.
  enum Gating : int64_t { kUnsaid = 0, kSoftmax = 1, kSigmoid = 2 };
  ASSIGN_OR_RETURN(const auto said, keys.optional_int(".expert_gating_func", {kUnsaid, kSigmoid}));
  const auto first = config["first_k_dense_replace"].get<int64_t>();
  const bool corrected = draft.has(fmt::format("blk.{}.exp_probs_b.bias", first));
  const int64_t gating = said.value_or(kUnsaid) != kUnsaid ? *said : corrected ? kSigmoid : kSoftmax;
  config["scoring_func"] = gating == kSigmoid ? "sigmoid" : "softmax";
  draft.add(kDense);
  draft.add(kExperts);
  draft.add(kDeepseekShared);
  if (gating == kSigmoid) {
    config["model_type"] = "deepseek_v3";
    config["topk_method"] = "noaux_tc";
    draft.add(kSelectionBias);
    return absl::OkStatus();
  }
  config["model_type"] = "deepseek_v2";
  config["topk_method"] = config["n_group"] > 1 ? "group_limited_greedy" : "greedy";
  if (!config["norm_topk_prob"].get<bool>()) return absl::OkStatus();
  return Unimplemented(
      "checkpoint: {}: key '{}': expected false where experts are scored by softmax, found true", keys.file(),
      keys.full(".expert_weights_norm"));
}

namespace {

/// Norms of what attention and feed-forward add, beside or instead of kNorms.
constexpr GgufStem kOutputNorms[] = {{"post_attention_norm", "post_attention_layernorm"},
                                     {"post_ffw_norm", "post_feedforward_layernorm"}};
constexpr GgufStem kSeedOssNorms[] = {{"attn_norm", "input_layernorm"},
                                      {"post_attention_norm", "post_attention_layernorm"}};
constexpr GgufStem kGlm4[] = {{"post_attention_norm", "post_self_attn_layernorm"},
                              {"post_ffw_norm", "post_mlp_layernorm"},
                              {"ffn_up", "mlp.gate_up_proj"},
                              {"ffn_down", "mlp.down_proj"}};

/// A dense decoder of the usual projections, under that model_type.
absl::Status AddDense(GgufDraft& draft, const char* model_type) {
  RETURN_IF_ERROR(AddDecoder(draft));
  draft.config["model_type"] = model_type;
  draft.config["attention_bias"] = draft.has("blk.0.attn_q.bias");
  draft.add(kProjections);
  draft.add(kDense);
  return absl::OkStatus();
}

absl::Status BuildSmolLm3(GgufDraft& draft) {
  RETURN_IF_ERROR(AddDense(draft, "smollm3"));
  draft.config["no_rope_layer_interval"] = 4;  // Of every released model, and of llama.cpp.
  PermuteHeads(draft);
  return absl::OkStatus();
}

/// OLMo 3 is the same architecture with windows in three of four layers, and yarn in the others.
absl::Status BuildOlmo2(GgufDraft& draft) {
  ASSIGN_OR_RETURN(const auto window, draft.keys.optional_int(".attention.sliding_window", kAnyCount));
  const bool third = window.value_or(0) > 0;
  if (third) draft.own_keys = {".rope.scaling.yarn_attn_factor"};
  RETURN_IF_ERROR(AddDense(draft, third ? "olmo3" : "olmo2"));
  draft.add(kHeadNorms);
  draft.add(kOutputNorms);
  if (!third) return absl::OkStatus();
  // The converter writes the config's attention_factor as it is.
  ASSIGN_OR_RETURN(const auto factor, draft.keys.optional_number(".rope.scaling.yarn_attn_factor"));
  if (factor && draft.config.contains("rope_scaling"))
    draft.config["rope_scaling"]["attention_factor"] = *factor;
  return draft.add_windows(4).status();
}

absl::Status BuildSeedOss(GgufDraft& draft) {
  RETURN_IF_ERROR(AddDense(draft, "seed_oss"));
  draft.config["attention_out_bias"] = draft.has("blk.0.attn_output.bias");
  draft.add(kSeedOssNorms);
  return absl::OkStatus();
}

absl::Status BuildGlm4(GgufDraft& draft) {
  constexpr std::string_view kSections =
      ".rope.dimension_sections";  // Of models with images: rows are permuted.
  if (draft.keys.find(kSections) != nullptr) {
    return Unimplemented("checkpoint: {}: key '{}': expected none; GLM with images is not built",
                         draft.keys.file(), draft.keys.full(kSections));
  }
  RETURN_IF_ERROR(AddDecoder(draft));
  draft.config["model_type"] = "glm4";
  draft.config["attention_bias"] = draft.has("blk.0.attn_q.bias");
  draft.add(kProjections);
  draft.add(kGlm4);
  return absl::OkStatus();
}

/// Mistral Small 3.1, and Ministral 3, which has temperatures of queries.
absl::Status BuildMistral3(GgufDraft& draft) {
  draft.own_keys = {".attention.temperature_scale"};
  RETURN_IF_ERROR(AddDense(draft, "mistral"));
  PermuteHeads(draft);
  nlohmann::json& config = draft.config;
  ASSIGN_OR_RETURN(const auto beta, draft.keys.optional_number(".attention.temperature_scale"));
  if (beta.value_or(0) == 0) return absl::OkStatus();
  config["model_type"] = "ministral3";
  // The converter writes mscale_all_dim; mscale is the same number in every released model.
  ASSIGN_OR_RETURN(const auto mscale, draft.keys.optional_number(".rope.scaling.yarn_log_multiplier"));
  nlohmann::json rope = config.value("rope_scaling", nlohmann::json::object());
  config.erase("rope_scaling");
  rope["rope_theta"] = config["rope_theta"];
  rope["llama_4_scaling_beta"] = *beta;
  for (const char* key : {"mscale", "mscale_all_dim"}) {
    if (mscale.value_or(0) != 0) rope[key] = *mscale;
  }
  config["rope_parameters"] = std::move(rope);
  return absl::OkStatus();
}

constexpr GgufStem kDotsExperts[] = {{"ffn_gate_inp", "mlp.gate"},
                                     {"ffn_gate_exps", "mlp.experts.gate_proj"},
                                     {"ffn_up_exps", "mlp.experts.up_proj"},
                                     {"ffn_down_exps", "mlp.experts.down_proj"}};

absl::Status BuildDots1(GgufDraft& draft) {
  RETURN_IF_ERROR(AddDense(draft, "dots1"));
  RETURN_IF_ERROR(draft.add_routed_experts("n_routed_experts"));
  ASSIGN_OR_RETURN(draft.config["n_shared_experts"], draft.keys.required_int(".expert_shared_count"));
  draft.config["n_group"] = draft.config["topk_group"] = 1;
  draft.add(kHeadNorms);
  draft.add(kDotsExperts);
  draft.add(kDeepseekShared);
  draft.add(kSelectionBias);
  return absl::OkStatus();
}

/// Models with images are read as text: their towers are files of their own.
constexpr GgufArchitecture kArchitectures[] = {{"llama", &BuildLlama},
                                               {"qwen2", &BuildQwen2},
                                               {"qwen2moe", &BuildQwen2Moe},
                                               {"qwen2vl", &BuildQwen2},
                                               {"qwen3", &BuildQwen3},
                                               {"qwen3moe", &BuildQwen3Moe},
                                               {"qwen3vl", &BuildQwen3},
                                               {"qwen3vlmoe", &BuildQwen3Moe},
                                               {"phi3", &BuildPhi3},
                                               {"deepseek2", &BuildDeepseek2},
                                               {"gpt-oss", &BuildGptOss},
                                               {"gemma", &BuildGemma},
                                               {"gemma2", &BuildGemma2},
                                               {"gemma3", &BuildGemma3},
                                               {"gemma3n", &BuildGemma3n},
                                               {"gemma4", &BuildGemma4},
                                               {"smollm3", &BuildSmolLm3},
                                               {"olmo2", &BuildOlmo2},
                                               {"seed_oss", &BuildSeedOss},
                                               {"glm4", &BuildGlm4},
                                               {"mistral3", &BuildMistral3},
                                               {"granite", &BuildGranite},
                                               {"granitemoe", &BuildGranite},
                                               {"ernie4_5", &BuildErnie45},
                                               {"hunyuan-dense", &BuildHunyuanDense},
                                               {"hunyuan-moe", &BuildHunyuanMoe},
                                               {"starcoder2", &BuildStarcoder2},
                                               {"cohere2", &BuildCohere2},
                                               {"dots1", &BuildDots1},
                                               {"exaone4", &BuildExaone4},
                                               {"stablelm", &BuildStableLm},
                                               {"apertus", &BuildApertus},
                                               {"deepseek", &BuildDeepseek},
                                               {"olmoe", &BuildOlmoe},
                                               {"minimax-m2", &BuildMinimaxM2},
                                               {"glm4moe", &BuildGlm4Moe},
                                               {"ernie4_5-moe", &BuildErnie45Moe},
                                               {"exaone-moe", &BuildExaoneMoe},
                                               {"afmoe", &BuildAfmoe},
                                               {"phimoe", &BuildPhimoe},
                                               {"mistral4", &BuildMistral4},
                                               {"mimo2", &BuildMimo2},
                                               {"step35", &BuildStep35},
                                               {"llama4", &BuildLlama4},
                                               {"lfm2", &BuildLfm2},
                                               {"lfm2moe", &BuildLfm2Moe},
                                               {"mamba2", &BuildMamba2},
                                               {"nemotron_h", &BuildNemotronH},
                                               {"nemotron_h_moe", &BuildNemotronH},
                                               {"granitehybrid", &BuildGraniteHybrid},
                                               {"jamba", &BuildJamba},
                                               {"falcon-h1", &BuildFalconH1},
                                               {"qwen35", &BuildQwen35},
                                               {"qwen35moe", &BuildQwen35Moe},
                                               {"qwen3next", &BuildQwen3Next},
                                               {"kimi-linear", &BuildKimiLinear}};

}  // namespace

constinit const std::span<const GgufStem> kGgufNorms = kNorms;
constinit const std::span<const GgufStem> kGgufProjections = kProjections;
constinit const std::span<const GgufStem> kGgufHeadNorms = kHeadNorms;
constinit const std::span<const GgufStem> kGgufDense = kDense;
constinit const std::span<const GgufStem> kGgufOutputNorms = kOutputNorms;
constinit const std::span<const GgufStem> kGgufStacks = kExperts;
constinit const std::span<const GgufStem> kGgufMixtralStacks = kMixtralExperts;
constinit const std::span<const GgufStem> kGgufSharedExpert = kDeepseekShared;
constinit const std::span<const GgufStem> kGgufQwenShared = kQwen2MoeShared;
constinit const std::span<const GgufStem> kGgufSelectionBias = kSelectionBias;

absl::Status GgufDraft::add_sizes() { return AddSizes(*this); }
absl::Status GgufDraft::add_latent_attention() { return AddLatentAttention(*this); }
absl::Status GgufDraft::add_decoder() { return AddDecoder(*this); }
absl::Status GgufDraft::add_dense(const char* model_type) { return AddDense(*this, model_type); }
absl::Status GgufDraft::add_experts(const char* count_key) { return AddExperts(*this, count_key); }
absl::Status GgufDraft::add_qwen_experts(bool normalized) { return AddQwenExperts(*this, normalized); }
void GgufDraft::permute_heads() { PermuteHeads(*this); }

std::span<const GgufArchitecture> GgufArchitectures() { return kArchitectures; }

}  // namespace shoal
