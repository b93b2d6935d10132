#include "models/family_parts.h"

#include <optional>
#include <utility>
#include <vector>

#include "base/status.h"

namespace shoal {
namespace {

// Beyond any model, and small enough that a spec of this size fits in memory.
constexpr Bounds<int64_t> kLayerBounds{1, 4096};
constexpr Bounds<int64_t> kHeadBounds{1, 1 << 16};
constexpr Bounds<int64_t> kWidthBounds{1, 1 << 24};

/// "default", "llama3", ...: new configs say rope_type, old ones type; neither means no scaling.
absl::StatusOr<std::string> RopeType(const ModelConfig& rope) {
  for (const char* key : {"rope_type", "type"}) {
    ASSIGN_OR_RETURN(const std::optional<std::string> name, rope.optional_string(key));
    if (name) return *name;
  }
  return std::string("default");
}

absl::StatusOr<RopeLlama3> ReadLlama3(const ModelConfig& rope) {
  RopeLlama3 scaling;
  ASSIGN_OR_RETURN(scaling.factor, rope.required_number("factor", {1.0, 1e6}));
  ASSIGN_OR_RETURN(scaling.low_freq_factor, rope.required_number("low_freq_factor", {1e-3, 1e6}));
  ASSIGN_OR_RETURN(scaling.high_freq_factor, rope.required_number("high_freq_factor", {1e-3, 1e6}));
  ASSIGN_OR_RETURN(const int64_t original, rope.required_int("original_max_position_embeddings"));
  scaling.original_positions = static_cast<double>(original);
  if (scaling.high_freq_factor <= scaling.low_freq_factor) {
    return InvalidArgument("{}: expected more than low_freq_factor = {}, found {}",
                           rope.where("high_freq_factor"), scaling.low_freq_factor, scaling.high_freq_factor);
  }
  return scaling;
}

}  // namespace

absl::StatusOr<DecoderSizes> ReadDecoderSizes(const ModelConfig& config) {
  DecoderSizes sizes;
  ASSIGN_OR_RETURN(sizes.width, config.required_int("hidden_size", kWidthBounds));
  ASSIGN_OR_RETURN(sizes.vocabulary, config.required_int("vocab_size"));
  ASSIGN_OR_RETURN(sizes.layers, config.required_int("num_hidden_layers", kLayerBounds));
  ASSIGN_OR_RETURN(sizes.max_positions, config.required_int("max_position_embeddings"));
  ASSIGN_OR_RETURN(const int64_t heads, config.required_int("num_attention_heads", kHeadBounds));
  ASSIGN_OR_RETURN(const int64_t kv_heads, config.required_int("num_key_value_heads", kHeadBounds));
  ASSIGN_OR_RETURN(const double eps, config.required_number("rms_norm_eps", {1e-20, 1.0}));
  ASSIGN_OR_RETURN(sizes.tied_head, config.required_bool("tie_word_embeddings"));
  if (heads % kv_heads != 0) {
    return InvalidArgument("{}: expected a divisor of num_attention_heads = {}, found {}",
                           config.where("num_key_value_heads"), heads, kv_heads);
  }
  sizes.heads = static_cast<int>(heads);
  sizes.kv_heads = static_cast<int>(kv_heads);
  sizes.eps = static_cast<float>(eps);
  return sizes;
}

absl::StatusOr<RopeSpec> ReadRope(const ModelConfig& config, int head_dim) {
  RopeSpec spec;
  spec.dims = head_dim;
  ASSIGN_OR_RETURN(std::optional<ModelConfig> rope, config.optional_object("rope_parameters"));
  if (!rope) {
    ASSIGN_OR_RETURN(rope, config.optional_object("rope_scaling"));
  }
  constexpr Bounds<double> kThetaBounds{1.0, 1e15};
  if (!rope) {
    ASSIGN_OR_RETURN(spec.theta, config.required_number("rope_theta", kThetaBounds));
    return spec;
  }
  ASSIGN_OR_RETURN(const std::optional<double> inner, rope->optional_number("rope_theta", kThetaBounds));
  ASSIGN_OR_RETURN(const std::optional<double> outer, config.optional_number("rope_theta", kThetaBounds));
  if (inner && outer && *inner != *outer) {  // Versions of the reference differ in which one they read.
    return InvalidArgument("{}: expected the same as '{}' = {}, found {}", rope->where("rope_theta"),
                           "rope_theta", *outer, *inner);
  }
  ASSIGN_OR_RETURN(spec.theta, (inner ? *rope : config).required_number("rope_theta", kThetaBounds));
  ASSIGN_OR_RETURN(const std::string type, RopeType(*rope));
  if (type == "llama3") {
    ASSIGN_OR_RETURN(spec.scaling, ReadLlama3(*rope));
  } else if (type != "default") {
    return Unimplemented(
        "{}: expected \"default\" or \"llama3\", found \"{}\"; this rope scaling is not built",
        rope->where("rope_type"), type);
  }
  return spec;
}

absl::Status RefuseUnbuiltFeatures(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const std::string act, config.required_string("hidden_act"));
  if (act != "silu") {
    return Unimplemented("{}: expected \"silu\", found \"{}\"; no other activation is built",
                         config.where("hidden_act"), act);
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> types, config.string_list("layer_types"));
  for (const std::string& type : types) {
    if (type == "full_attention") continue;
    return Unimplemented("{}: expected only \"full_attention\", found \"{}\"; no other layer type is built",
                         config.where("layer_types"), type);
  }
  // Qwen configs keep a sliding_window beside use_sliding_window = false.
  ASSIGN_OR_RETURN(const std::optional<bool> window_used, config.optional_bool("use_sliding_window"));
  if (window_used.value_or(config.has("sliding_window"))) {
    const char* key = window_used ? "use_sliding_window" : "sliding_window";
    return Unimplemented("{}: expected {}, found {}; sliding windows are not built", config.where(key),
                         window_used ? "false" : "null", config.excerpt(key));
  }
  ASSIGN_OR_RETURN(const std::optional<double> partial, config.optional_number("partial_rotary_factor"));
  if (partial.value_or(1.0) != 1.0) {
    return Unimplemented("{}: expected 1, found {}; partial rope is not built here",
                         config.where("partial_rotary_factor"), *partial);
  }
  return absl::OkStatus();
}

absl::StatusOr<int> ReadHeadDim(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const int64_t head_dim, config.required_int("head_dim", kHeadBounds));
  if (head_dim % 2 != 0) {
    return InvalidArgument("{}: expected an even number (rope turns pairs), found {}",
                           config.where("head_dim"), head_dim);
  }
  return static_cast<int>(head_dim);
}

absl::StatusOr<bool> ReadLateFlag(const ModelConfig& config, const char* key) {
  ASSIGN_OR_RETURN(const std::optional<bool> flag, config.optional_bool(key));
  return flag.value_or(false);
}

WeightRef MatrixAt(const std::string& base, int64_t rows, int64_t cols) {
  return {.shape = {rows, cols}, .sources = {{.base = base}}};
}

NormSpec NormAt(const std::string& base, int64_t size, float eps) {
  return {.weight = {.shape = {size}, .sources = {{.base = base}}}, .eps = eps};
}

LinearSpec LinearAt(const std::string& base, int64_t rows, int64_t cols, bool bias) {
  LinearSpec linear{.weight = MatrixAt(base, rows, cols), .bias = std::nullopt};
  if (bias) linear.bias = WeightRef{.shape = {rows}, .sources = {{.base = base, .suffix = "bias"}}};
  return linear;
}

DenseSpec DenseAt(const std::string& base, int64_t width, int64_t ffn, bool bias) {
  return {.width = ffn,
          .gate = LinearAt(base + ".gate_proj", ffn, width, bias),
          .up = LinearAt(base + ".up_proj", ffn, width, bias),
          .down = LinearAt(base + ".down_proj", width, ffn, bias)};
}

DenseSpec ExpertAt(const std::string& base, int64_t expert, int64_t experts, int64_t width, int64_t ffn) {
  DenseSpec dense = DenseAt(fmt::format("{}.experts.{}", base, expert), width, ffn, false);
  const std::pair<LinearSpec*, const char*> parts[] = {
      {&dense.gate, "gate_proj"}, {&dense.up, "up_proj"}, {&dense.down, "down_proj"}};
  for (const auto& [linear, name] : parts) {
    linear->weight.sources.push_back(
        {.base = fmt::format("{}.switch_mlp.{}", base, name), .stack = experts, .index = expert});
  }
  return dense;
}

GqaSpec GqaAt(const std::string& base, const DecoderSizes& sizes, int head_dim, bool bias) {
  const int64_t q_rows = int64_t{sizes.heads} * head_dim;
  const int64_t kv_rows = int64_t{sizes.kv_heads} * head_dim;
  GqaSpec gqa;
  gqa.heads = sizes.heads;
  gqa.kv_heads = sizes.kv_heads;
  gqa.head_dim = head_dim;
  gqa.q = LinearAt(base + ".q_proj", q_rows, sizes.width, bias);
  gqa.k = LinearAt(base + ".k_proj", kv_rows, sizes.width, bias);
  gqa.v = LinearAt(base + ".v_proj", kv_rows, sizes.width, bias);
  gqa.o = LinearAt(base + ".o_proj", sizes.width, q_rows, bias);
  return gqa;
}

ModelSpec DecoderAround(std::string model_type, const DecoderSizes& sizes) {
  ModelSpec spec;
  spec.model_type = std::move(model_type);
  spec.width = sizes.width;
  spec.vocabulary = sizes.vocabulary;
  spec.max_positions = sizes.max_positions;
  spec.embedding = MatrixAt("model.embed_tokens", sizes.vocabulary, sizes.width);
  spec.final_norm = NormAt("model.norm", sizes.width, sizes.eps);
  spec.tied_head = sizes.tied_head;
  spec.head = sizes.tied_head ? LinearSpec{.weight = spec.embedding, .bias = std::nullopt}
                              : LinearAt("lm_head", sizes.vocabulary, sizes.width, false);
  return spec;
}

std::string LayerBase(int64_t layer) { return fmt::format("model.layers.{}", layer); }

}  // namespace shoal
