#include "compute/blocks/norm_rope.h"

#include <algorithm>
#include <numbers>
#include <utility>

#include "base/status.h"
#include "numeric/rope_table.h"
#include "numeric/transcendental.h"

namespace shoal {
namespace {

void Scale(const RopeUnscaled&, const RopeSpec&, std::vector<float>&) {}

/// Its factors are in the frequencies: rounded as in the reference, once with the power of theta.
void Scale(const RopeLong&, const RopeSpec&, std::vector<float>&) {}

void Scale(const RopeLinear& linear, const RopeSpec&, std::vector<float>& inverse_frequencies) {
  for (float& frequency : inverse_frequencies) frequency = frequency / static_cast<float>(linear.factor);
}

void Scale(const RopeProportional& proportional, const RopeSpec&, std::vector<float>& inverse_frequencies) {
  for (size_t i = 0; i < inverse_frequencies.size(); ++i) {
    const bool rotates = i < static_cast<size_t>(proportional.rotary_dim / 2);
    inverse_frequencies[i] =
        rotates ? inverse_frequencies[i] / static_cast<float>(proportional.factor) : 0.0f;
  }
}

/// As transformers' `_compute_llama3_parameters`, in f32 as there: wavelengths beyond the original context
/// are stretched by `factor`, short ones stay, those between are blended.
void Scale(const RopeLlama3& llama3, const RopeSpec&, std::vector<float>& inverse_frequencies) {
  const auto original = static_cast<float>(llama3.original_positions);
  const auto low = static_cast<float>(llama3.low_freq_factor);
  const auto high = static_cast<float>(llama3.high_freq_factor);
  const auto factor = static_cast<float>(llama3.factor);
  for (float& frequency : inverse_frequencies) {
    const float wavelength = static_cast<float>(2 * std::numbers::pi) / frequency;
    if (wavelength > original / low) {
      frequency = frequency / factor;
    } else if (wavelength >= original / high && high > low) {
      const float smooth = (original / wavelength - low) / (high - low);
      frequency = (1 - smooth) * frequency / factor + smooth * frequency;
    }
  }
}

double Floor(double x) {
  const auto whole = static_cast<double>(static_cast<int64_t>(x));
  return x < whole ? whole - 1 : whole;
}

/// Which dimension rotates `rotations` times over the original context (a fraction between two of them).
double YarnDimension(const RopeYarn& yarn, const RopeSpec& rope, double rotations) {
  return rope.dims * Log(yarn.original_positions / (rotations * 2 * std::numbers::pi)) /
         (2 * Log(rope.theta));
}

/// As transformers' `_compute_yarn_parameters`: its bounds in double, its ramp and blend in f32.
void Scale(const RopeYarn& yarn, const RopeSpec& rope, std::vector<float>& inverse_frequencies) {
  double low = YarnDimension(yarn, rope, yarn.beta_fast);
  double high = YarnDimension(yarn, rope, yarn.beta_slow);
  if (yarn.truncate) {
    low = Floor(low);
    high = -Floor(-high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, rope.dims - 1.0);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < inverse_frequencies.size(); ++i) {
    const float ramp = (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low);
    const float stretched = std::clamp(ramp, 0.0f, 1.0f);
    const float kept = 1 - stretched;
    const float frequency = inverse_frequencies[i];
    inverse_frequencies[i] = frequency / static_cast<float>(yarn.factor) * (1 - kept) + frequency * kept;
  }
}

}  // namespace

absl::StatusOr<Norm> Norm::Load(const WeightLoader& loader, const NormSpec& spec) {
  Norm norm = Weightless(spec.weight.shape.front(), spec.eps);
  if (!spec.weight.sources.empty()) {
    ASSIGN_OR_RETURN(norm.weight_, loader.read_vector(spec.weight));
    norm.weightless_ = false;
  }
  if (spec.bias) {
    ASSIGN_OR_RETURN(norm.bias_, loader.read_vector(*spec.bias));
  }
  for (float& weight : norm.weight_) weight *= spec.factor;
  norm.centered_ = spec.centered;
  return norm;
}

absl::StatusOr<std::optional<Norm>> Norm::LoadIfAny(const WeightLoader& loader,
                                                    const std::optional<NormSpec>& spec) {
  if (!spec) return std::optional<Norm>();
  ASSIGN_OR_RETURN(Norm norm, Load(loader, *spec));
  return std::optional<Norm>(std::move(norm));
}

Norm Norm::Weightless(int64_t size, float eps) {
  Norm norm;
  norm.weight_.assign(static_cast<size_t>(size), 1.0f);
  norm.weightless_ = true;
  norm.eps_ = eps;
  return norm;
}

void Norm::apply(const Kernels& kernels, MatView<const float> x, MatView<float> y, Range rows) const {
  SHOAL_CHECK(x.cols == static_cast<int64_t>(weight_.size()) && y.cols == x.cols);
  if (!centered_) {
    return kernels.rms_norm({.x = x, .weight = weight_.data(), .eps = eps_, .y = y, .rows = rows});
  }
  kernels.layer_norm({.x = x,
                      .weight = weight_.data(),
                      .bias = bias_.empty() ? nullptr : bias_.data(),
                      .eps = eps_,
                      .y = y,
                      .rows = rows});
}

void NormOrCopy(const Kernels& kernels, const std::optional<Norm>& norm, MatView<const float> x,
                MatView<float> y, Range rows) {
  if (norm) return norm->apply(kernels, x, y, rows);
  for (int64_t r = rows.begin; r < rows.end; ++r) std::copy_n(x.row(r), x.cols, y.row(r));
}

std::vector<float> InverseFrequencies(const RopeSpec& spec) {
  const auto* both = std::get_if<RopeLong>(&spec.scaling);
  std::vector<float> frequencies = RopeInverseFrequencies(
      spec.theta, spec.dims, both != nullptr ? std::span(both->short_factors) : std::span<const double>());
  std::visit([&](const auto& scaling) { Scale(scaling, spec, frequencies); }, spec.scaling);
  return frequencies;
}

RopeTable MakeRopeTable(const RopeSpec& spec) {
  RopeTable table{.inverse_frequencies = InverseFrequencies(spec),
                  .of_long_sequences = {},
                  .magnitude = static_cast<float>(spec.magnitude)};
  if (const auto* both = std::get_if<RopeLong>(&spec.scaling)) {
    table.of_long_sequences = RopeInverseFrequencies(spec.theta, spec.dims, both->long_factors);
    table.magnitude_of_long = static_cast<float>(both->long_magnitude.value_or(spec.magnitude));
  }
  if (spec.backwards) {  // The sine is odd, the cosine even.
    for (auto* frequencies : {&table.inverse_frequencies, &table.of_long_sequences}) {
      for (float& frequency : *frequencies) frequency = -frequency;
    }
  }
  return table;
}

RopeRows MakeRopeRows(const ComputeContext& context, const RopeTable& table,
                      std::span<const int64_t> positions, std::span<const bool> long_rope) {
  const auto rows = static_cast<int64_t>(positions.size());
  const auto half = static_cast<int64_t>(table.inverse_frequencies.size());
  const RopeRows tables{context.arena->allocate_rows<float>(rows, half),
                        context.arena->allocate_rows<float>(rows, half)};
  constexpr int64_t kCostOfSine = 32;  // Of a pair, in values that a plain pass would handle.
  context.for_rows(rows, half * kCostOfSine, [&](Range part) {
    for (int64_t t = part.begin; t < part.end; ++t) {
      const auto i = static_cast<size_t>(t);
      const bool other = long_rope[i] && !table.of_long_sequences.empty();
      RopeRow(other ? table.of_long_sequences : table.inverse_frequencies, positions[i],
              other ? table.magnitude_of_long : table.magnitude, tables.cosine.row(t), tables.sine.row(t));
    }
  });
  return tables;
}

}  // namespace shoal
