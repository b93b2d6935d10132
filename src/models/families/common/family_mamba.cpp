#include "models/families/common/family_mamba.h"

#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/stored_form.h"

namespace shoal {
namespace {

/// time_step_limit: [least, most] step; unbounded where absent.
absl::Status ReadStepLimit(const ModelConfig& config, Mamba2Spec& spec) {
  constexpr char kKey[] = "time_step_limit";
  ASSIGN_OR_RETURN(const std::vector<double> limit, config.number_list(kKey, {0.0, spec.step_max}));
  if (limit.empty()) return absl::OkStatus();
  if (limit.size() != 2 || limit[0] > limit[1]) {
    return InvalidArgument("{}: expected two numbers in ascending order, found {}", config.where(kKey),
                           config.excerpt(kKey));
  }
  spec.step_min = limit[0];
  spec.step_max = limit[1];
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Mamba2Settings> ReadMamba2(const ModelConfig& config, const Mamba2Keys& keys) {
  constexpr Bounds<int64_t> kHeads{1, 1 << 12};
  constexpr Bounds<int64_t> kDims{1, 1 << 12};
  constexpr Bounds<int64_t> kTaps{1, 64};
  ASSIGN_OR_RETURN(const int64_t heads, config.required_int(keys.heads, kHeads));
  ASSIGN_OR_RETURN(const int64_t head_dim, config.required_int(keys.head_dim, kDims));
  ASSIGN_OR_RETURN(const int64_t groups, config.required_int(keys.groups, kHeads));
  ASSIGN_OR_RETURN(const int64_t state_dim, config.required_int(keys.state_dim, kDims));
  ASSIGN_OR_RETURN(const int64_t taps, config.required_int(keys.taps, kTaps));
  if (heads % groups != 0) {
    return InvalidArgument("{}: expected a divisor of {} = {}, found {}", config.where(keys.groups),
                           keys.heads, heads, groups);
  }
  Mamba2Settings settings;
  settings.sizes.heads = static_cast<int>(heads);
  settings.sizes.head_dim = static_cast<int>(head_dim);
  settings.sizes.groups = static_cast<int>(groups);
  settings.sizes.state_dim = static_cast<int>(state_dim);
  settings.sizes.conv_width = static_cast<int>(taps);
  RETURN_IF_ERROR(ReadStepLimit(config, settings.sizes));
  ASSIGN_OR_RETURN(const std::optional<bool> conv_bias, config.optional_bool(keys.conv_bias));
  settings.conv_bias = conv_bias.value_or(true);  // As in the references.
  ASSIGN_OR_RETURN(settings.projection_bias, ReadLateFlag(config, keys.projection_bias));
  return settings;
}

WeightRef DecayLogAt(const std::string& base, int64_t heads) {
  WeightRef logs{.shape = {heads}, .sources = {{.base = base, .suffix = "A_log"}}};
  logs.sources.push_back({.base = base, .suffix = std::string(kMinusExpSuffix), .written = false});
  return logs;
}

LinearSpec InProjectionPart(const std::string& base, int64_t stored, Range rows, int64_t width, bool bias) {
  LinearSpec part = PartOf(base, stored, rows.begin, rows.size(), width);
  if (!bias) return part;
  WeightSource source = ReshapedAt(base, "bias", {stored});
  source.strided->offset = rows.begin;
  part.bias = WeightRef{.shape = {rows.size()}, .sources = {std::move(source)}};
  return part;
}

WeightRef ConvTapsAt(const std::string& base, int64_t channels, int64_t width) {
  WeightSource mlx = ReshapedAt(base, "weight", {channels, width, 1});
  mlx.mlx = width != 1;
  return {.shape = {channels * width},
          .sources = {ReshapedAt(base, "weight", {channels, 1, width}), std::move(mlx)}};
}

Mamba2Spec Mamba2At(const std::string& base, int64_t width, float eps, const Mamba2Settings& settings) {
  Mamba2Spec mamba = settings.sizes;
  const int64_t inner = mamba.inner();
  const int64_t channels = mamba.channels();
  const int64_t stored = inner + channels + mamba.heads;
  const auto part = [&](int64_t begin, int64_t rows) {
    return InProjectionPart(base + ".in_proj", stored, {begin, begin + rows}, width,
                            settings.projection_bias);
  };
  mamba.gate = part(0, inner);
  mamba.xbc = part(inner, channels);
  mamba.step = part(inner + channels, mamba.heads);
  const auto vector = [&](const std::string& of, const char* suffix, int64_t size) {
    return WeightRef{.shape = {size}, .sources = {{.base = of, .suffix = suffix}}};
  };
  mamba.conv = ConvTapsAt(base + ".conv1d", channels, mamba.conv_width);
  if (settings.conv_bias) mamba.conv_bias = vector(base + ".conv1d", "bias", channels);
  mamba.decay_log = DecayLogAt(base, mamba.heads);
  mamba.step_bias = vector(base, "dt_bias", mamba.heads);
  mamba.skip = vector(base, "D", mamba.heads);
  mamba.norm = NormAt(base + ".norm", inner, eps);
  mamba.o = LinearAt(base + ".out_proj", width, inner, settings.projection_bias);
  return mamba;
}

void NameAsBackbone(ModelSpec& spec) {
  constexpr std::pair<std::string_view, std::string_view> kNames[] = {
      {"model.embed_tokens", "backbone.embeddings"}, {"model.norm", "backbone.norm_f"}};
  EditWeights(spec, [&](WeightRef& ref) {
    for (WeightSource& source : ref.sources) {
      for (const auto& [from, to] : kNames) {
        if (source.base == from) source.base = to;
      }
      constexpr std::string_view kLayers = "model.layers.";
      if (source.base.starts_with(kLayers)) {
        source.base = "backbone.layers." + source.base.substr(kLayers.size());
      }
      constexpr std::string_view kNorm = ".input_layernorm";
      if (source.base.ends_with(kNorm)) {
        source.base = source.base.substr(0, source.base.size() - kNorm.size()) + ".norm";
      }
    }
  });
}

}  // namespace shoal
