// Gemma 3n, text only. Reference: transformers models/gemma3n/modeling_gemma3n.py.
#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_gemma.h"
#include "models/family.h"
#include "numeric/transcendental.h"

namespace shoal::families {
namespace {

/// Of Gemma3nTextConfig: what the hub's configs leave out.
constexpr char kDefaults[] = R"({"hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": true,
  "attention_bias": false, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0,
  "final_logit_softcapping": 30.0, "altup_active_idx": 0, "altup_correct_scale": true,
  "vocab_size_per_layer_input": 262144})";

/// The quantile of the standard normal distribution, for 0.5 <= p < 1 - 1e-9.
/// Source: Wichura 1988, algorithm AS 241 (PPND16), without its far tails.
double NormalQuantile(double p) {
  const auto ratio = [](double r, const std::array<double, 8>& above, const std::array<double, 8>& below) {
    double num = 0, den = 0;
    for (size_t i = 8; i-- > 0;) {
      num = num * r + above[i];
      den = den * r + below[i];
    }
    return num / den;
  };
  const double q = p - 0.5;
  if (q <= 0.425) {
    return q * ratio(0.180625 - q * q,
                     {3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
                      1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
                      3.3430575583588128105e4, 2.5090809287301226727e3},
                     {1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
                      2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4,
                      5.2264952788528545610e3});
  }
  return ratio(std::sqrt(-Log(1 - p)) - 1.6,
               {1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0,
                3.64784832476320460504e0, 1.27045825245236838258e0, 2.41780725177450611770e-1,
                2.27238449892691845833e-2, 7.74545014278341407640e-4},
               {1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
                1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4,
                1.05075007164441684324e-9});
}

/// A list with one value for each layer, or one value for all.
template <class T>
absl::StatusOr<std::vector<T>> ForEachLayer(const ModelConfig& config, const char* key, std::vector<T> values,
                                            int64_t layers) {
  if (values.size() == 1) values.resize(static_cast<size_t>(layers), values[0]);
  if (std::ssize(values) == layers) return values;
  return InvalidArgument("{}: expected one for each of {} layers, found {}", config.where(key), layers,
                         values.size());
}

absl::StatusOr<std::vector<int64_t>> ReadFfns(const ModelConfig& config, int64_t layers) {
  ASSIGN_OR_RETURN(std::vector<int64_t> ffns, config.int_list("intermediate_size", {1, 1 << 24}));
  return ForEachLayer(config, "intermediate_size", std::move(ffns), layers);
}

/// By how many standard deviations above its mean a gate must be, for each layer; 0: all of it counts.
absl::StatusOr<std::vector<float>> ReadCutoffs(const ModelConfig& config, int64_t layers) {
  constexpr char kKey[] = "activation_sparsity_pattern";
  ASSIGN_OR_RETURN(std::vector<double> shares, config.number_list(kKey, {0.0, 0.999}));
  if (shares.empty()) {  // As in the reference.
    shares.assign(static_cast<size_t>(layers), 0.0);
    if (layers > 10) std::fill_n(shares.begin(), 10, 0.95);
  }
  ASSIGN_OR_RETURN(shares, ForEachLayer(config, kKey, std::move(shares), layers));
  std::vector<float> cutoffs;
  for (const double share : shares) {
    if (share > 0 && share <= 0.5) {
      return Unimplemented("{}: expected 0 or more than 0.5, found {}; no other cutoff is built",
                           config.where(kKey), share);
    }
    cutoffs.push_back(share > 0 ? static_cast<float>(NormalQuantile(share)) : 0.0f);
  }
  return cutoffs;
}

WeightRef VectorAt(const std::string& base, const char* suffix, int64_t size) {
  return {.shape = {size}, .sources = {{.base = base, .suffix = suffix}}};
}

/// A small matrix, which is read as a vector.
WeightRef CoefficientsAt(const std::string& base, int64_t rows, int64_t cols) {
  return {.shape = {rows * cols}, .sources = {ReshapedAt(base, "weight", {rows, cols})}};
}

struct Gemma3nSizes {
  DecoderSizes usual;
  int64_t streams = 0, layer_width = 0, layer_vocabulary = 0, bypass_rank = 0;
  bool scales_output = false;
};

absl::StatusOr<Gemma3nSizes> ReadSizes(const ModelConfig& config) {
  Gemma3nSizes sizes;
  ASSIGN_OR_RETURN(sizes.usual, ReadDecoderSizes(config));
  ASSIGN_OR_RETURN(sizes.streams, config.required_int("altup_num_inputs", {1, 16}));
  ASSIGN_OR_RETURN(sizes.layer_width, config.required_int("hidden_size_per_layer_input", {1, 1 << 16}));
  ASSIGN_OR_RETURN(sizes.layer_vocabulary, config.required_int("vocab_size_per_layer_input"));
  ASSIGN_OR_RETURN(sizes.bypass_rank, config.required_int("laurel_rank", {1, 1 << 16}));
  ASSIGN_OR_RETURN(sizes.scales_output, config.required_bool("altup_correct_scale"));
  ASSIGN_OR_RETURN(const int64_t active, config.required_int("altup_active_idx", kAnyCount));
  if (active == 0) return sizes;
  return Unimplemented("{}: expected 0, found {}; another active stream is not built",
                       config.where("altup_active_idx"), active);
}

/// `<base>.<index>`, or one of a stack, as a GGUF has it.
LinearSpec StreamMatrixAt(const char* base, int64_t index, const Gemma3nSizes& sizes) {
  const int64_t width = sizes.usual.width;
  LinearSpec linear = LinearAt(fmt::format("{}.{}", base, index), width, width, false);
  linear.weight.sources.push_back(
      {.base = base, .stack = sizes.streams - 1, .index = index, .written = false});
  return linear;
}

AltUpSpec AltUpAt(const Gemma3nSizes& sizes) {
  AltUpSpec altup = GemmaLayerInputs(sizes.usual, sizes.layer_width, sizes.layer_vocabulary);
  altup.streams = static_cast<int>(sizes.streams);
  for (int64_t i = 0; i + 1 < sizes.streams; ++i) {
    altup.spread.push_back(StreamMatrixAt("model.altup_projections", i, sizes));
    altup.gather.push_back(StreamMatrixAt("model.altup_unembed_projections", i, sizes));
  }
  return altup;
}

AltUpLayerSpec AltUpLayerAt(const std::string& base, const Gemma3nSizes& sizes) {
  const int64_t width = sizes.usual.width;
  const int64_t streams = sizes.streams;
  const auto linear = [&](const char* name, int64_t rows, int64_t cols) {
    return LinearAt(base + name, rows, cols, false);
  };
  AltUpLayerSpec altup;
  altup.router_norm = NormAt(base + ".altup.router_norm", width, sizes.usual.eps);
  altup.router_norm.factor = static_cast<float>(1.0 / static_cast<double>(width));
  altup.router = linear(".altup.modality_router", streams, width);
  altup.prediction = CoefficientsAt(base + ".altup.prediction_coefs", streams * streams, streams);
  altup.correction = CoefficientsAt(base + ".altup.correction_coefs", streams, streams);
  if (sizes.scales_output) altup.output_scale = VectorAt(base + ".altup", "correct_output_scale", width);
  altup.bypass_down = linear(".laurel.linear_left", sizes.bypass_rank, width);
  altup.bypass_up = linear(".laurel.linear_right", width, sizes.bypass_rank);
  altup.bypass_norm = NormAt(base + ".laurel.post_laurel_norm", width, sizes.usual.eps);
  altup.input = GemmaLayerInputAt(base, sizes.usual, sizes.layer_width);
  return altup;
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& stated) {
  const ModelConfig config = stated.with_defaults(kDefaults);
  RETURN_IF_ERROR(RequireActivation(config, "hidden_activation", "gelu_pytorch_tanh"));
  ASSIGN_OR_RETURN(const Gemma3nSizes sizes, ReadSizes(config));
  AttentionSettings attention{.norm = QkNorm::kPerHead};
  ASSIGN_OR_RETURN(const std::vector<std::string> types, config.string_list("layer_types"));
  if (types.empty()) {
    return InvalidArgument("{}: expected one for each of {} layers, found nothing",
                           config.where("layer_types"), sizes.usual.layers);
  }
  ASSIGN_OR_RETURN(attention.windows, ReadWindows(config, sizes.usual.layers));
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDim(config));
  RopeSpec local;
  RETURN_IF_ERROR(ReadGemmaRopes(config, attention.head_dim, attention.rope, local));
  ASSIGN_OR_RETURN(attention.qkv_bias, config.required_bool("attention_bias"));
  attention.o_bias = attention.qkv_bias;
  ASSIGN_OR_RETURN(const std::vector<int64_t> ffns, ReadFfns(config, sizes.usual.layers));
  ASSIGN_OR_RETURN(const std::vector<float> cutoffs, ReadCutoffs(config, sizes.usual.layers));

  const auto feed_forward = [&](int64_t layer, const std::string& base) -> FeedForwardSpec {
    const auto at = static_cast<size_t>(layer);
    DenseSpec dense = DenseAt(base + ".mlp", sizes.usual.width, ffns[at], false);
    dense.gate_cutoff = cutoffs[at];
    return dense;
  };
  ModelSpec spec =
      DecoderOf("gemma3n_text", sizes.usual, UsualAttention(sizes.usual, attention), feed_forward);
  ASSIGN_OR_RETURN(spec.final_logit_softcap, ReadSoftcap(config, "final_logit_softcapping"));
  MakeGemma(sizes.usual, {.zero_centered = false, .of_outputs = true}, spec);
  spec.altup = AltUpAt(sizes);
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    GqaSpec& gqa = std::get<GqaSpec>(spec.layers[i].mixer);
    gqa.scale = 1.0;
    gqa.v_norm_eps = sizes.usual.eps;
    if (gqa.window) gqa.rope = local;
    spec.layers[i].altup = AltUpLayerAt(fmt::format("model.layers.{}", i), sizes);
  }
  RETURN_IF_ERROR(ShareGemmaKv(config, spec));
  return spec;
}

std::string Tiny() {
  return TinyConfig("gemma3n_text", R"("intermediate_size": [384, 320, 384, 384, 384, 384, 384],
  "num_key_value_heads": 2, "head_dim": 28, "hidden_activation": "gelu_pytorch_tanh", "sliding_window": 33,
  "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention",
    "sliding_attention", "sliding_attention", "full_attention"], "num_kv_shared_layers": 3,
  "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "rope_scaling": null,
  "hidden_size_per_layer_input": 320, "vocab_size_per_layer_input": 317, "altup_num_inputs": 3,
  "altup_active_idx": 0, "altup_correct_scale": true, "laurel_rank": 320,
  "activation_sparsity_pattern": [0.95, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0],
  "final_logit_softcapping": 30.0, "tie_word_embeddings": true)");
}

}  // namespace

extern const Family gemma3n_text;
constinit const Family gemma3n_text = {"gemma3n_text", &Spec, &Tiny, "gemma3n"};

}  // namespace shoal::families
