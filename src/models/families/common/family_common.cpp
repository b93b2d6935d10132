#include "models/families/common/family_common.h"

#include <algorithm>
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

}  // namespace

absl::StatusOr<DecoderSizes> ReadDecoderSizes(const ModelConfig& config, std::optional<bool> tied_when_silent,
                                              const SizeKeys& keys) {
  DecoderSizes sizes;
  ASSIGN_OR_RETURN(sizes.width, config.required_int("hidden_size", kWidthBounds));
  ASSIGN_OR_RETURN(sizes.vocabulary, config.required_int("vocab_size"));
  ASSIGN_OR_RETURN(sizes.layers, config.required_int("num_hidden_layers", kLayerBounds));
  ASSIGN_OR_RETURN(sizes.max_positions, config.required_int("max_position_embeddings"));
  ASSIGN_OR_RETURN(const int64_t heads, config.required_int("num_attention_heads", kHeadBounds));
  ASSIGN_OR_RETURN(const int64_t kv_heads, config.required_int(keys.kv_heads, kHeadBounds));
  ASSIGN_OR_RETURN(const double eps, config.required_number(keys.eps, {1e-20, 1.0}));
  if (tied_when_silent && !config.has("tie_word_embeddings")) {
    sizes.tied_head = *tied_when_silent;
  } else {
    ASSIGN_OR_RETURN(sizes.tied_head, config.required_bool("tie_word_embeddings"));
  }
  if (heads % kv_heads != 0) {
    return InvalidArgument("{}: expected a divisor of num_attention_heads = {}, found {}",
                           config.where(keys.kv_heads), heads, kv_heads);
  }
  sizes.heads = static_cast<int>(heads);
  sizes.kv_heads = static_cast<int>(kv_heads);
  sizes.eps = static_cast<float>(eps);
  return sizes;
}

absl::Status RequireActivation(const ModelConfig& config, const char* key, std::string_view expected) {
  ASSIGN_OR_RETURN(const std::string act, config.required_string(key));
  if (act == expected) return absl::OkStatus();
  return Unimplemented("{}: expected \"{}\", found \"{}\"; no other activation is built here",
                       config.where(key), expected, act);
}

absl::Status RequireFlag(const ModelConfig& config, const char* key, bool expected) {
  ASSIGN_OR_RETURN(const std::optional<bool> flag, config.optional_bool(key));
  if (flag.value_or(expected) == expected) return absl::OkStatus();
  return Unimplemented("{}: expected {}, found {}; not built", config.where(key), expected, !expected);
}

absl::StatusOr<int> ReadRotaryDims(const ModelConfig& config, int head_dim) {
  ASSIGN_OR_RETURN(const std::optional<ModelConfig> rope, config.optional_object("rope_parameters"));
  const ModelConfig& from = rope && rope->has("partial_rotary_factor") ? *rope : config;
  ASSIGN_OR_RETURN(const std::optional<double> share, from.optional_number("partial_rotary_factor", {0, 1}));
  const auto dims = static_cast<int>(head_dim * share.value_or(1.0));
  if (dims < 2 || dims % 2 != 0) {
    return InvalidArgument(
        "{}: expected a share of {} dimensions that is even (rope rotates pairs), found {}",
        from.where("partial_rotary_factor"), head_dim, dims);
  }
  return dims;
}

absl::Status RefuseUnbuiltFeatures(const ModelConfig& config) {
  RETURN_IF_ERROR(RequireActivation(config, "hidden_act", "silu"));
  ASSIGN_OR_RETURN(const std::optional<double> partial, config.optional_number("partial_rotary_factor"));
  if (partial.value_or(1.0) != 1.0) {
    return Unimplemented("{}: expected 1, found {}; partial rope is not built here",
                         config.where("partial_rotary_factor"), *partial);
  }
  // In latent attention, and in MiniMax-M2, the share says what another key does.
  ASSIGN_OR_RETURN(const std::optional<ModelConfig> rope, config.optional_object("rope_parameters"));
  if (!rope || config.has("qk_rope_head_dim") || config.has("rotary_dim")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::optional<double> inner, rope->optional_number("partial_rotary_factor"));
  if (inner.value_or(1.0) == 1.0) return absl::OkStatus();
  return Unimplemented("{}: expected 1, found {}; partial rope is not built here",
                       rope->where("partial_rotary_factor"), *inner);
}

absl::Status RefuseWindows(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const std::vector<std::string> types, config.string_list("layer_types"));
  ASSIGN_OR_RETURN(const std::optional<int64_t> layers,
                   config.optional_int("num_hidden_layers", kLayerBounds));
  ASSIGN_OR_RETURN(const auto windows,
                   ReadWindows(config, types.empty() ? layers.value_or(1) : std::ssize(types)));
  if (std::ranges::none_of(windows, [](const auto& window) { return window.has_value(); }))
    return absl::OkStatus();
  const char* key = config.has("layer_types") ? "layer_types" : "sliding_window";
  return Unimplemented("{}: expected no sliding window, found {}; the reference of this family has none",
                       config.where(key), config.excerpt(key));
}

namespace {

/// layer_types: one of the two kinds per layer.
absl::StatusOr<std::vector<std::optional<int64_t>>> WindowsByType(const ModelConfig& config, int64_t layers,
                                                                  const std::vector<std::string>& types) {
  std::vector<std::optional<int64_t>> windows(static_cast<size_t>(layers));
  if (types.size() < windows.size()) {
    return InvalidArgument("{}: expected one for each of {} layers, found {}", config.where("layer_types"),
                           layers, types.size());
  }
  for (size_t i = 0; i < windows.size(); ++i) {
    if (types[i] == "sliding_attention") {
      ASSIGN_OR_RETURN(windows[i], config.required_int("sliding_window"));
    } else if (types[i] != "full_attention") {
      return Unimplemented("{}: expected \"full_attention\" or \"sliding_attention\", found \"{}\"",
                           config.where("layer_types"), types[i]);
    }
  }
  return windows;
}

}  // namespace

absl::StatusOr<std::vector<std::optional<int64_t>>> ReadWindows(const ModelConfig& config, int64_t layers) {
  ASSIGN_OR_RETURN(const std::vector<std::string> types, config.string_list("layer_types"));
  if (!types.empty()) return WindowsByType(config, layers, types);
  std::vector<std::optional<int64_t>> windows(static_cast<size_t>(layers));
  ASSIGN_OR_RETURN(const std::optional<bool> used, config.optional_bool("use_sliding_window"));
  if (used.has_value() && !*used) return windows;  // Qwen configs keep a sliding_window that is not used.
  int64_t first = 0;
  if (used.has_value()) {
    ASSIGN_OR_RETURN(first, config.required_int("max_window_layers", kAnyCount));
  }
  ASSIGN_OR_RETURN(const std::optional<int64_t> window, config.optional_int("sliding_window"));
  for (int64_t i = first; i < layers; ++i) windows[static_cast<size_t>(i)] = window;
  return windows;
}

absl::StatusOr<std::vector<std::optional<int64_t>>> ReadWindowPattern(const ModelConfig& config,
                                                                      int64_t layers, const char* key,
                                                                      int64_t usual) {
  if (config.has("layer_types")) return ReadWindows(config, layers);
  ASSIGN_OR_RETURN(const int64_t window, config.required_int("sliding_window"));
  ASSIGN_OR_RETURN(const std::optional<int64_t> every, config.optional_int(key));
  std::vector<std::optional<int64_t>> windows(static_cast<size_t>(layers));
  for (int64_t i = 0; i < layers; ++i) {
    if ((i + 1) % every.value_or(usual) != 0) windows[static_cast<size_t>(i)] = window;
  }
  return windows;
}

absl::StatusOr<int> ReadHeadDim(const ModelConfig& config, const char* key) {
  ASSIGN_OR_RETURN(const int64_t head_dim, config.required_int(key, kHeadBounds));
  if (head_dim % 2 != 0) {
    return InvalidArgument("{}: expected an even number (rope rotates pairs), found {}", config.where(key),
                           head_dim);
  }
  return static_cast<int>(head_dim);
}

absl::StatusOr<int> ReadHeadDimOrShare(const ModelConfig& config, const DecoderSizes& sizes) {
  if (config.has("head_dim")) return ReadHeadDim(config);
  if (sizes.width % (2 * sizes.heads) != 0) {
    return InvalidArgument(
        "{}: expected this key, or a hidden_size that is an even multiple of num_attention_heads = {}; "
        "found hidden_size = {}",
        config.where("head_dim"), sizes.heads, sizes.width);
  }
  return static_cast<int>(sizes.width / sizes.heads);
}

absl::StatusOr<bool> ReadLateFlag(const ModelConfig& config, const char* key) {
  ASSIGN_OR_RETURN(const std::optional<bool> flag, config.optional_bool(key));
  return flag.value_or(false);
}

absl::StatusOr<double> ReadFactor(const ModelConfig& config, const char* key) {
  ASSIGN_OR_RETURN(const std::optional<double> stated, config.optional_number(key, {1e-6, 1e6}));
  return stated.value_or(1.0);
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

WeightSource ReshapedAt(const std::string& base, const char* suffix, std::vector<int64_t> stored_shape) {
  WeightSource source{.base = base, .suffix = suffix};
  source.strided = WeightSource::StridedView{
      .stored_shape = std::move(stored_shape), .offset = 0, .row_stride = 0, .col_stride = 1};
  return source;
}

LinearSpec PartOf(const std::string& base, int64_t stored, int64_t begin, int64_t rows, int64_t cols) {
  LinearSpec part = LinearAt(base, rows, cols, false);
  part.weight.sources[0].rows = {begin, begin + rows};
  part.weight.sources[0].stored_rows = stored;
  return part;
}

DenseSpec DenseAt(const std::string& base, int64_t width, int64_t ffn, bool bias) {
  return {.width = ffn,
          .gate = LinearAt(base + ".gate_proj", ffn, width, bias),
          .up = LinearAt(base + ".up_proj", ffn, width, bias),
          .down = LinearAt(base + ".down_proj", width, ffn, bias)};
}

DenseSpec FusedDenseAt(const std::string& base, int64_t width, int64_t ffn) {
  return {.width = ffn,
          .gate = PartOf(base + ".gate_up_proj", 2 * ffn, 0, ffn, width),
          .up = PartOf(base + ".gate_up_proj", 2 * ffn, ffn, ffn, width),
          .down = LinearAt(base + ".down_proj", width, ffn, false)};
}

DenseSpec UngatedOf(LinearSpec up, LinearSpec down, Activation activation) {
  DenseSpec dense;
  dense.width = up.weight.shape.front();
  dense.up = std::move(up);
  dense.down = std::move(down);
  dense.activation = activation;
  return dense;
}

GqaSpec GqaAt(const std::string& base, const DecoderSizes& sizes, const AttentionSettings& parts) {
  const int64_t q_rows = int64_t{sizes.heads} * parts.head_dim;
  const int64_t kv_rows = int64_t{sizes.kv_heads} * parts.head_dim;
  GqaSpec gqa;
  gqa.heads = sizes.heads;
  gqa.kv_heads = sizes.kv_heads;
  gqa.head_dim = parts.head_dim;
  gqa.q = LinearAt(base + ".q_proj", q_rows, sizes.width, parts.qkv_bias);
  gqa.k = LinearAt(base + ".k_proj", kv_rows, sizes.width, parts.qkv_bias);
  gqa.v = LinearAt(base + ".v_proj", kv_rows, sizes.width, parts.qkv_bias);
  gqa.o = LinearAt(base + ".o_proj", sizes.width, q_rows, parts.o_bias);
  if (parts.norm != QkNorm::kNone) {
    const bool per_head = parts.norm == QkNorm::kPerHead;
    gqa.q_norm = NormAt(base + ".q_norm", per_head ? parts.head_dim : q_rows, sizes.eps);
    gqa.k_norm = NormAt(base + ".k_norm", per_head ? parts.head_dim : kv_rows, sizes.eps);
  }
  gqa.rope = parts.rope;
  gqa.temperature = parts.temperature;
  return gqa;
}

absl::StatusOr<AttentionSettings> ReadWindowedAttention(const ModelConfig& config,
                                                        const DecoderSizes& sizes) {
  AttentionSettings attention;
  ASSIGN_OR_RETURN(attention.windows, ReadWindows(config, sizes.layers));
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  return attention;
}

MakeMixer UsualAttention(const DecoderSizes& sizes, const AttentionSettings& parts) {
  return [sizes, parts](int64_t layer, const std::string& base) {
    GqaSpec gqa = GqaAt(base + ".self_attn", sizes, parts);
    if (!parts.windows.empty()) gqa.window = parts.windows[static_cast<size_t>(layer)];
    if (!parts.rotates.empty() && !parts.rotates[static_cast<size_t>(layer)]) gqa.rope = {};
    return gqa;
  };
}

MakeFeedForward UsualMlp(const DecoderSizes& sizes, int64_t ffn, bool bias) {
  return [width = sizes.width, ffn, bias](int64_t, const std::string& base) {
    return DenseAt(base + ".mlp", width, ffn, bias);
  };
}

LayerSpec LayerAt(int64_t index, const std::string& base, const DecoderSizes& sizes, const MakeMixer& mixer,
                  const MakeFeedForward& feed_forward) {
  LayerSpec layer;
  layer.mixer_norm = NormAt(base + ".input_layernorm", sizes.width, sizes.eps);
  layer.mixer = mixer(index, base);
  layer.feed_forward_norm = NormAt(base + ".post_attention_layernorm", sizes.width, sizes.eps);
  layer.feed_forward = feed_forward(index, base);
  return layer;
}

ModelSpec DecoderOf(std::string model_type, const DecoderSizes& sizes, const MakeMixer& mixer,
                    const MakeFeedForward& feed_forward) {
  ModelSpec spec;
  spec.model_type = std::move(model_type);
  spec.width = sizes.width;
  spec.vocabulary = sizes.vocabulary;
  spec.max_positions = sizes.max_positions;
  spec.embedding = MatrixAt("model.embed_tokens", sizes.vocabulary, sizes.width);
  for (int64_t i = 0; i < sizes.layers; ++i) {
    spec.layers.push_back(LayerAt(i, fmt::format("model.layers.{}", i), sizes, mixer, feed_forward));
  }
  spec.final_norm = NormAt("model.norm", sizes.width, sizes.eps);
  spec.tied_head = sizes.tied_head;
  spec.head = sizes.tied_head ? LinearSpec{.weight = spec.embedding, .bias = std::nullopt}
                              : LinearAt("lm_head", sizes.vocabulary, sizes.width, false);
  return spec;
}

void NormOutputsOnly(const DecoderSizes& sizes, ModelSpec& spec) {
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const std::string base = fmt::format("model.layers.{}", i);
    LayerSpec& layer = spec.layers[i];
    layer.mixer_norm.reset();
    layer.feed_forward_norm.reset();
    layer.mixer_out_norm = NormAt(base + ".post_attention_layernorm", sizes.width, sizes.eps);
    layer.feed_forward_out_norm = NormAt(base + ".post_feedforward_layernorm", sizes.width, sizes.eps);
  }
}

void NameAsFeedForward(ModelSpec& spec) {
  constexpr std::string_view kMlp = ".mlp";
  constexpr std::string_view kNorm = ".post_attention_layernorm";
  EditWeights(spec, [&](WeightRef& ref) {
    for (WeightSource& source : ref.sources) {
      if (source.base == "model.norm") source.base = "model.final_layernorm";
      if (!source.base.starts_with("model.layers.")) continue;
      if (const size_t at = source.base.find(kMlp); at != std::string::npos) {
        source.base.replace(at, kMlp.size(), ".feed_forward");
      }
      if (const size_t at = source.base.find(kNorm); at != std::string::npos) {
        source.base.replace(at, kNorm.size(), ".pre_ff_layernorm");
      }
    }
  });
}

void UseLayerNorms(LayerNormBias bias, ModelSpec& spec) {
  const auto edit = [bias](NormSpec& norm) {
    norm.centered = true;
    if (bias == LayerNormBias::kNone) return;
    norm.bias = norm.weight;
    for (WeightSource& source : norm.bias->sources) source.suffix = "bias";
  };
  for (LayerSpec& layer : spec.layers) {
    if (layer.mixer_norm) edit(*layer.mixer_norm);
    if (layer.feed_forward_norm) edit(*layer.feed_forward_norm);
  }
  edit(spec.final_norm);
}

void RotateOnlyWithWindow(ModelSpec& spec) {
  const auto has_window = [](const LayerSpec& layer) {
    return std::get<GqaSpec>(layer.mixer).window.has_value();
  };
  if (std::ranges::none_of(spec.layers, has_window)) return;
  for (LayerSpec& layer : spec.layers) {
    if (!has_window(layer)) std::get<GqaSpec>(layer.mixer).rope = {};
  }
}

absl::Status AddMtp(const ModelConfig& config, const DecoderSizes& sizes, const MakeMixer& mixer,
                    const MakeFeedForward& feed_forward, ModelSpec& spec) {
  ASSIGN_OR_RETURN(const std::optional<int64_t> layers,
                   config.optional_int("num_nextn_predict_layers", kAnyCount));
  if (layers.value_or(0) == 0) return absl::OkStatus();
  const std::string base = fmt::format("model.layers.{}", sizes.layers);
  MtpSpec& mtp = spec.mtp.emplace();
  mtp.embedding_norm = NormAt(base + ".enorm", sizes.width, sizes.eps);
  mtp.hidden_norm = NormAt(base + ".hnorm", sizes.width, sizes.eps);
  mtp.projection = LinearAt(base + ".eh_proj", sizes.width, 2 * sizes.width, false);
  mtp.layer = LayerAt(sizes.layers, base, sizes, mixer, feed_forward);
  mtp.norm = NormAt(base + ".shared_head.norm", sizes.width, sizes.eps);
  return absl::OkStatus();
}

std::string TinyConfig(std::string_view model_type, std::string_view keys, int layers) {
  return fmt::format(R"({{
  "model_type": "{}",
  "vocab_size": 331,
  "hidden_size": 320,
  "num_hidden_layers": {},
  "num_attention_heads": 16,
  "max_position_embeddings": 1024,
  "rms_norm_eps": 1e-06,
  "bos_token_id": 1,
  "eos_token_id": 2,
  {}
}})",
                     model_type, layers, keys);
}

}  // namespace shoal
