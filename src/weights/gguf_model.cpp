#include "weights/gguf_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numbers>

#include "base/status.h"
#include "weights/gguf_reader.h"
#include "weights/gguf_text.h"
#include "weights/strict_json.h"

namespace shoal {
namespace {

using Json = nlohmann::json;

/// "attn_q" of a GGUF is "self_attn.q_proj" of Hugging Face; ".weight" and ".bias" stay.
struct Stem {
  std::string_view gguf;
  std::string_view hub;
};

constexpr Stem kAttention[] = {
    {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
};
constexpr Stem kHeadNorms[] = {{"attn_q_norm", "self_attn.q_norm"}, {"attn_k_norm", "self_attn.k_norm"}};
constexpr Stem kDense[] = {
    {"ffn_gate", "mlp.gate_proj"}, {"ffn_up", "mlp.up_proj"}, {"ffn_down", "mlp.down_proj"}};
constexpr Stem kExperts[] = {{"ffn_gate_inp", "mlp.gate"},
                             {"ffn_gate_exps", "mlp.switch_mlp.gate_proj"},
                             {"ffn_up_exps", "mlp.switch_mlp.up_proj"},
                             {"ffn_down_exps", "mlp.switch_mlp.down_proj"}};
constexpr Stem kMixtralExperts[] = {{"ffn_gate_inp", "block_sparse_moe.gate"},
                                    {"ffn_gate_exps", "block_sparse_moe.switch_mlp.gate_proj"},
                                    {"ffn_up_exps", "block_sparse_moe.switch_mlp.up_proj"},
                                    {"ffn_down_exps", "block_sparse_moe.switch_mlp.down_proj"}};
constexpr Stem kFused[] = {{"attn_qkv", "self_attn.qkv_proj"}, {"ffn_up", "mlp.gate_up_proj"}};
constexpr Stem kOutside[] = {
    {"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm"}, {"output", "lm_head"}};

/// What a tensor table of an architecture may hold beside the stems: they go into the config.
constexpr std::string_view kRopeFactors = "rope_freqs.weight";
constexpr std::string_view kRopeLong = "rope_factors_long.weight";
constexpr std::string_view kRopeShort = "rope_factors_short.weight";

/// Reads one model. Each architecture below adds its own keys to `config` and its own stems.
struct Builder {
  GgufKeys keys;
  const GgufSource& source;
  Json config;
  std::vector<Stem> stems;
  int64_t permuted_q = 0;  ///< Heads; 0: none.
  int64_t permuted_k = 0;

  const GgufTensor* tensor(std::string_view name) const {
    const auto found = std::ranges::find(source.tensors, name, &GgufTensor::name);
    return found == source.tensors.end() ? nullptr : &*found;
  }
  bool has(std::string_view name) const { return tensor(name) != nullptr; }
  void add(std::span<const Stem> more) { stems.insert(stems.end(), more.begin(), more.end()); }
};

/// A table of f32 rope factors in the first file; empty where there is none.
absl::StatusOr<std::vector<float>> RopeTable(const Builder& builder, std::string_view name, int64_t size) {
  std::vector<float> factors;
  const GgufTensor* tensor = builder.tensor(name);
  if (tensor == nullptr) return factors;
  if (tensor->dtype != DType::kF32 || tensor->shape != std::vector{size} || tensor->file != 0) {
    return InvalidArgument("checkpoint: tensor '{}' in {}: expected f32 [{}] in the first file, found [{}]",
                           name, builder.keys.file(), size, fmt::join(tensor->shape, ", "));
  }
  factors.resize(static_cast<size_t>(size));
  std::memcpy(factors.data(), builder.source.first_file.data() + tensor->bytes.begin, factors.size() * 4);
  return factors;
}

/// Llama 3's law (transformers `_compute_llama3_parameters`) with the constants of every released model; the
/// converter that wrote the table knew the law, the file has only its values.
absl::Status AddLlama3Rope(Builder& builder, std::span<const float> factors, double theta) {
  constexpr double kLow = 1;
  constexpr double kHigh = 4;
  constexpr double kOriginal = 8192;
  const double factor = *std::ranges::max_element(factors);
  if (std::ranges::all_of(factors, [](float f) { return f == 1; })) return absl::OkStatus();
  const double pairs = static_cast<double>(factors.size());
  for (size_t i = 0; i < factors.size(); ++i) {
    const double wavelength = 2 * std::numbers::pi * std::pow(theta, static_cast<double>(i) / pairs);
    double expected = 1;
    if (wavelength > kOriginal / kLow) {
      expected = factor;
    } else if (wavelength >= kOriginal / kHigh) {
      const double smooth = (kOriginal / wavelength - kLow) / (kHigh - kLow);
      expected = 1 / ((1 - smooth) / factor + smooth);
    }
    if (!(std::abs(factors[i] - expected) <= 1e-4 * expected)) {
      return Unimplemented(
          "checkpoint: tensor '{}' in {}: factor {}: expected {} as Llama 3 stretches frequencies (low 1, "
          "high 4, "
          "original context 8192), found {}; no other law is built",
          kRopeFactors, builder.keys.file(), i, expected, factors[i]);
    }
  }
  builder.config["rope_scaling"] = {{"rope_type", "llama3"},
                                    {"factor", factor},
                                    {"low_freq_factor", kLow},
                                    {"high_freq_factor", kHigh},
                                    {"original_max_position_embeddings", static_cast<int64_t>(kOriginal)}};
  return absl::OkStatus();
}

absl::Status AddLongRope(Builder& builder, int64_t pairs) {
  ASSIGN_OR_RETURN(const std::vector<float> longs, RopeTable(builder, kRopeLong, pairs));
  ASSIGN_OR_RETURN(const std::vector<float> shorts, RopeTable(builder, kRopeShort, pairs));
  if (longs.empty() && shorts.empty()) return absl::OkStatus();
  if (longs.empty() || shorts.empty()) {
    return InvalidArgument("checkpoint: {}: expected both {} and {}, found one of them", builder.keys.file(),
                           kRopeLong, kRopeShort);
  }
  ASSIGN_OR_RETURN(const int64_t original,
                   builder.keys.required_int(".rope.scaling.original_context_length"));
  builder.config["original_max_position_embeddings"] = original;
  builder.config["rope_scaling"] = {
      {"rope_type", "longrope"}, {"long_factor", longs}, {"short_factor", shorts}};
  return absl::OkStatus();
}

absl::Status AddRope(Builder& builder, int64_t head_dim) {
  ASSIGN_OR_RETURN(const std::optional<double> theta, builder.keys.optional_number(".rope.freq_base"));
  builder.config["rope_theta"] =
      theta.value_or(10000.0);  // What the format's readers take where it is left out.
  ASSIGN_OR_RETURN(const auto turning, builder.keys.optional_int(".rope.dimension_count"));
  const int64_t dims = turning.value_or(head_dim);
  if (dims != head_dim) {
    builder.config["partial_rotary_factor"] = static_cast<double>(dims) / static_cast<double>(head_dim);
  }
  ASSIGN_OR_RETURN(const std::vector<float> factors, RopeTable(builder, kRopeFactors, dims / 2));
  if (!factors.empty())
    RETURN_IF_ERROR(AddLlama3Rope(builder, factors, builder.config["rope_theta"].get<double>()));
  RETURN_IF_ERROR(AddLongRope(builder, dims / 2));
  ASSIGN_OR_RETURN(const auto type, builder.keys.optional_string(".rope.scaling.type"));
  if (!type || *type == "none" || builder.config.contains("rope_scaling")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const double factor, builder.keys.required_number(".rope.scaling.factor"));
  Json scaling = {{"rope_type", Printable(*type, 40)}, {"factor", factor}};
  ASSIGN_OR_RETURN(const auto original, builder.keys.optional_int(".rope.scaling.original_context_length"));
  if (original) scaling["original_max_position_embeddings"] = *original;
  builder.config["rope_scaling"] = std::move(scaling);  // A family refuses the kinds that it does not build.
  return absl::OkStatus();
}

/// The keys that every decoder has.
absl::Status AddSizes(Builder& builder) {
  const GgufKeys& keys = builder.keys;
  Json& config = builder.config;
  const GgufTensor* embedding = builder.tensor("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    return InvalidArgument(
        "checkpoint: {}: expected a tensor 'token_embd.weight' of two dimensions, found {}", keys.file(),
        embedding == nullptr ? "none" : "another shape");
  }
  config["vocab_size"] = embedding->shape[0];
  config["tie_word_embeddings"] = !builder.has("output.weight");
  config["hidden_act"] = "silu";
  ASSIGN_OR_RETURN(const int64_t width, keys.required_int(".embedding_length"));
  config["hidden_size"] = width;
  ASSIGN_OR_RETURN(config["num_hidden_layers"], keys.required_int(".block_count"));
  ASSIGN_OR_RETURN(config["max_position_embeddings"], keys.required_int(".context_length"));
  ASSIGN_OR_RETURN(config["rms_norm_eps"], keys.required_number(".attention.layer_norm_rms_epsilon"));
  ASSIGN_OR_RETURN(const int64_t heads, keys.required_int(".attention.head_count"));
  ASSIGN_OR_RETURN(const auto kv_heads, keys.optional_int(".attention.head_count_kv"));
  config["num_attention_heads"] = heads;
  config["num_key_value_heads"] = kv_heads.value_or(heads);
  ASSIGN_OR_RETURN(const auto key_length, keys.optional_int(".attention.key_length"));
  ASSIGN_OR_RETURN(const auto value_length, keys.optional_int(".attention.value_length"));
  const int64_t head_dim = key_length.value_or(width / heads);
  if (head_dim < 1 || value_length.value_or(head_dim) != head_dim) {
    return keys.refuse(".attention.value_length", fmt::format("the key length {}", head_dim));
  }
  config["head_dim"] = head_dim;
  ASSIGN_OR_RETURN(const auto ffn, keys.optional_int(".feed_forward_length"));
  if (ffn) config["intermediate_size"] = *ffn;
  return AddRope(builder, head_dim);
}

absl::Status AddExperts(Builder& builder, const char* count_key) {
  ASSIGN_OR_RETURN(builder.config[count_key], builder.keys.required_int(".expert_count"));
  ASSIGN_OR_RETURN(builder.config["num_experts_per_tok"], builder.keys.required_int(".expert_used_count"));
  return absl::OkStatus();
}

absl::Status BuildLlama(Builder& builder) {
  RETURN_IF_ERROR(AddSizes(builder));
  builder.add(kAttention);
  builder.permuted_q = builder.config["num_attention_heads"].get<int64_t>();
  builder.permuted_k = builder.config["num_key_value_heads"].get<int64_t>();
  builder.config["attention_bias"] = builder.has("blk.0.attn_q.bias");
  ASSIGN_OR_RETURN(const auto experts, builder.keys.optional_int(".expert_count", kAnyCount));
  if (experts.value_or(0) > 0) {
    builder.config["model_type"] = "mixtral";
    builder.add(kMixtralExperts);
    return AddExperts(builder, "num_local_experts");
  }
  builder.config["model_type"] = "llama";
  builder.config["mlp_bias"] = builder.has("blk.0.ffn_up.bias");
  builder.add(kDense);
  return absl::OkStatus();
}

absl::Status BuildQwen(Builder& builder, const char* model_type, bool head_norms) {
  RETURN_IF_ERROR(AddSizes(builder));
  builder.config["model_type"] = model_type;
  builder.config["use_sliding_window"] = false;
  builder.add(kAttention);
  builder.add(kDense);
  if (head_norms) builder.add(kHeadNorms);
  return absl::OkStatus();
}

absl::Status BuildQwen2(Builder& builder) { return BuildQwen(builder, "qwen2", false); }
absl::Status BuildQwen3(Builder& builder) { return BuildQwen(builder, "qwen3", true); }

absl::Status BuildQwen3Moe(Builder& builder) {
  RETURN_IF_ERROR(BuildQwen(builder, "qwen3_moe", true));
  RETURN_IF_ERROR(AddExperts(builder, "num_experts"));
  ASSIGN_OR_RETURN(builder.config["moe_intermediate_size"],
                   builder.keys.required_int(".expert_feed_forward_length"));
  if (!builder.config.contains("intermediate_size"))
    builder.config["intermediate_size"] = 1;  // No dense layer.
  // The format has no keys for these three: every released model, and the format's own readers, do so.
  builder.config["norm_topk_prob"] = true;
  builder.config["decoder_sparse_step"] = 1;
  builder.config["mlp_only_layers"] = Json::array();
  builder.add(kExperts);
  return absl::OkStatus();
}

absl::Status BuildPhi3(Builder& builder) {
  RETURN_IF_ERROR(AddSizes(builder));
  builder.config["model_type"] = "phi3";
  ASSIGN_OR_RETURN(const auto window, builder.keys.optional_int(".attention.sliding_window", kAnyCount));
  if (window.value_or(0) > 0) builder.config["sliding_window"] = *window;
  builder.add(kAttention);
  builder.add(kFused);
  builder.stems.push_back({"ffn_down", "mlp.down_proj"});
  return absl::OkStatus();
}

struct Architecture {
  std::string_view name;
  absl::Status (*build)(Builder& builder);
};
constexpr Architecture kArchitectures[] = {{"llama", &BuildLlama},
                                           {"qwen2", &BuildQwen2},
                                           {"qwen3", &BuildQwen3},
                                           {"qwen3moe", &BuildQwen3Moe},
                                           {"phi3", &BuildPhi3}};

/// "blk.7.attn_q.weight" -> 7, "attn_q", ".weight".
struct SplitName {
  int64_t layer = -1;
  std::string_view stem;
  std::string_view suffix;
};

std::optional<SplitName> SplitTensorName(std::string_view name) {
  SplitName split;
  const size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  split.suffix = name.substr(dot);
  split.stem = name.substr(0, dot);
  if (!split.stem.starts_with("blk.")) return split;
  split.stem.remove_prefix(4);
  const size_t end = split.stem.find('.');
  const std::string_view digits = split.stem.substr(0, end);
  if (end == std::string_view::npos || digits.empty() || digits.size() > 6) return std::nullopt;
  split.layer = 0;
  for (const char c : digits) {
    if (c < '0' || c > '9') return std::nullopt;
    split.layer = 10 * split.layer + (c - '0');
  }
  split.stem.remove_prefix(end + 1);
  return split;
}

absl::StatusOr<GgufName> HubName(const Builder& builder, std::string_view architecture,
                                 const GgufTensor& tensor) {
  if (tensor.name == kRopeFactors || tensor.name == kRopeLong || tensor.name == kRopeShort) return GgufName{};
  const std::optional<SplitName> split = SplitTensorName(tensor.name);
  const std::span<const Stem> stems =
      split && split->layer >= 0 ? std::span<const Stem>(builder.stems) : kOutside;
  const auto stem = split ? std::ranges::find(stems, split->stem, &Stem::gguf) : stems.end();
  if (stem == stems.end() || (split->suffix != ".weight" && split->suffix != ".bias")) {
    // What is not understood might change the arithmetic: it is not left out silently.
    return Unimplemented(
        "checkpoint: tensor '{}' in {}: expected the tensors of architecture '{}', found one that "
        "is not built",
        Printable(tensor.name, 200), builder.keys.file(), architecture);
  }
  GgufName result;
  const std::string layer = split->layer >= 0 ? fmt::format("model.layers.{}.", split->layer) : "";
  result.name = fmt::format("{}{}{}", layer, stem->hub, split->suffix);
  if (split->stem == "attn_q") result.permuted_heads = builder.permuted_q;
  if (split->stem == "attn_k") result.permuted_heads = builder.permuted_k;
  if (result.permuted_heads > 0 && tensor.shape[0] % (2 * result.permuted_heads) != 0) {
    return InvalidArgument(
        "checkpoint: tensor '{}' in {}: expected a multiple of {} rows for {} heads, found [{}]", tensor.name,
        builder.keys.file(), 2 * result.permuted_heads, result.permuted_heads, fmt::join(tensor.shape, ", "));
  }
  return result;
}

}  // namespace

absl::StatusOr<GgufModel> ModelOfGguf(const GgufSource& source, std::string_view file_name) {
  const GgufKeys general(source.metadata, "", file_name);
  ASSIGN_OR_RETURN(const std::string_view architecture, general.required_string("general.architecture"));
  const auto* known = std::ranges::find(kArchitectures, architecture, &Architecture::name);
  if (known == std::end(kArchitectures)) {
    std::vector<std::string_view> names;
    for (const Architecture& each : kArchitectures) names.push_back(each.name);
    return Unimplemented("checkpoint: {}: architecture '{}' is not built for GGUF; known: {}", file_name,
                         Printable(architecture, 60), fmt::join(names, ", "));
  }
  Builder builder{.keys = GgufKeys(source.metadata, std::string(architecture), file_name), .source = source};
  RETURN_IF_ERROR(known->build(builder));
  RETURN_IF_ERROR(AddTokenIds(general, &builder.config));
  GgufModel model;
  model.config_json = builder.config.dump();
  for (const GgufTensor& tensor : source.tensors) {
    ASSIGN_OR_RETURN(GgufName name, HubName(builder, architecture, tensor));
    model.names.push_back(std::move(name));
  }
  return model;
}

}  // namespace shoal
