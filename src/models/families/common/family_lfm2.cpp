#include "models/families/common/family_lfm2.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "base/status.h"

namespace shoal {
namespace {

/// Which layers attend: by layer_types, else those of full_attn_idxs, else all, as in the reference.
absl::StatusOr<std::vector<bool>> ReadLfm2Attending(const ModelConfig& config, int64_t layers) {
  std::vector<bool> attending(static_cast<size_t>(layers), true);
  ASSIGN_OR_RETURN(const std::vector<std::string> types, config.string_list("layer_types"));
  if (types.empty()) {
    if (!config.has("full_attn_idxs")) return attending;
    ASSIGN_OR_RETURN(const std::vector<int64_t> named, config.int_list("full_attn_idxs", {0, layers - 1}));
    for (int64_t i = 0; i < layers; ++i)
      attending[static_cast<size_t>(i)] = std::ranges::find(named, i) != named.end();
    return attending;
  }
  if (std::ssize(types) < layers) {
    return InvalidArgument("{}: expected one for each of {} layers, found {}", config.where("layer_types"),
                           layers, types.size());
  }
  for (size_t i = 0; i < attending.size(); ++i) {
    attending[i] = types[i] == "full_attention";
    if (attending[i] || types[i] == "conv") continue;
    return Unimplemented("{}: expected \"full_attention\" or \"conv\", found \"{}\"",
                         config.where("layer_types"), types[i]);
  }
  return attending;
}

ShortConvSpec Lfm2ConvAt(const std::string& base, int64_t width, int64_t taps, bool bias) {
  ShortConvSpec conv;
  conv.channels = width;
  conv.conv_width = static_cast<int>(taps);
  conv.in = LinearAt(base + ".in_proj", 3 * width, width, bias);
  conv.conv = {.shape = {width * taps}, .sources = {}};
  for (const std::vector<int64_t>& shape : {std::vector{width, int64_t{1}, taps},     // Of the hub.
                                            std::vector{width, taps, int64_t{1}}}) {  // Of MLX.
    WeightSource source{.base = base + ".conv", .mlx = shape[2] == 1 && taps != 1};
    source.strided =
        WeightSource::StridedView{.stored_shape = shape, .offset = 0, .row_stride = 0, .col_stride = 1};
    conv.conv.sources.push_back(source);
  }
  if (bias) conv.bias = WeightRef{.shape = {width}, .sources = {{.base = base + ".conv", .suffix = "bias"}}};
  conv.o = LinearAt(base + ".out_proj", width, width, bias);
  return conv;
}

GqaSpec Lfm2AttentionAt(const std::string& base, const DecoderSizes& sizes, const AttentionSettings& parts) {
  GqaSpec gqa = GqaAt(base, sizes, parts);
  gqa.o = LinearAt(base + ".out_proj", sizes.width, int64_t{sizes.heads} * parts.head_dim, false);
  gqa.q_norm = NormAt(base + ".q_layernorm", parts.head_dim, sizes.eps);
  gqa.k_norm = NormAt(base + ".k_layernorm", parts.head_dim, sizes.eps);
  return gqa;
}

/// LFM2 has norm_eps, and tie_embedding before tie_word_embeddings. The reference ties where nothing says.
absl::StatusOr<DecoderSizes> ReadLfm2Sizes(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const double eps, config.required_number("norm_eps", {1e-20, 1.0}));
  ASSIGN_OR_RETURN(const std::optional<bool> tied, config.optional_bool("tie_embedding"));
  ASSIGN_OR_RETURN(DecoderSizes sizes,
                   ReadDecoderSizes(config.with_defaults(R"({"rms_norm_eps": 1e-5})"), true));
  sizes.eps = static_cast<float>(eps);
  if (tied) sizes.tied_head = *tied;
  return sizes;
}

}  // namespace

absl::StatusOr<Lfm2Parts> ReadLfm2(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadLfm2Sizes(config));
  ASSIGN_OR_RETURN(std::vector<bool> attending, ReadLfm2Attending(config, sizes.layers));
  AttentionSettings attention;
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  ASSIGN_OR_RETURN(const int64_t taps, config.required_int("conv_L_cache", {1, 64}));
  ASSIGN_OR_RETURN(const bool bias, ReadLateFlag(config, "conv_bias"));
  MakeMixer mixer = [sizes, attention, taps, bias, attending = std::move(attending)](
                        int64_t layer, const std::string& base) -> MixerSpec {
    if (attending[static_cast<size_t>(layer)]) return Lfm2AttentionAt(base + ".self_attn", sizes, attention);
    return Lfm2ConvAt(base + ".conv", sizes.width, taps, bias);
  };
  return Lfm2Parts{.sizes = sizes, .mixer = std::move(mixer)};
}

DenseSpec Lfm2Mlp(const std::string& base, int64_t width, int64_t ffn) {
  const auto linear = [&](const char* name, const char* mlx, int64_t rows, int64_t cols) {
    LinearSpec made = LinearAt(base + name, rows, cols, false);
    made.weight.sources.push_back({.base = base + mlx, .mlx = true});
    return made;
  };
  return {.width = ffn,
          .gate = linear(".w1", ".gate_proj", ffn, width),
          .up = linear(".w3", ".up_proj", ffn, width),
          .down = linear(".w2", ".down_proj", width, ffn)};
}

ModelSpec MakeLfm2(std::string model_type, const Lfm2Parts& parts, const MakeFeedForward& feed_forward) {
  const DecoderSizes& sizes = parts.sizes;
  ModelSpec spec = DecoderOf(std::move(model_type), sizes, parts.mixer, feed_forward);
  spec.final_norm = NormAt("model.embedding_norm", sizes.width, sizes.eps);
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const std::string base = fmt::format("model.layers.{}", i);
    spec.layers[i].mixer_norm = NormAt(base + ".operator_norm", sizes.width, sizes.eps);
    spec.layers[i].feed_forward_norm = NormAt(base + ".ffn_norm", sizes.width, sizes.eps);
  }
  return spec;
}

std::string TinyLfm2(std::string_view model_type, std::string_view keys) {
  return TinyConfig(model_type, fmt::format(R"("norm_eps": 1e-05, "num_key_value_heads": 1,
  "rope_theta": 1000000.0, "conv_L_cache": 3, "tie_embedding": true, "layer_types": ["conv", "conv",
    "full_attention", "conv", "full_attention", "conv", "conv"], {})",
                                            keys));
}

}  // namespace shoal
