#include "models/blocks/norm_rope.h"

#include <numbers>

#include "base/status.h"
#include "numeric/rope_table.h"

namespace shoal {
namespace {

void Scale(const RopeUnscaled&, std::vector<float>&) {}

/// As transformers' `_compute_llama3_parameters`, in f32 as there: wavelengths beyond the original context
/// are stretched by `factor`, short ones stay, those between are blended.
void Scale(const RopeLlama3& llama3, std::vector<float>& inverse_frequencies) {
  const auto original = static_cast<float>(llama3.original_positions);
  const auto low = static_cast<float>(llama3.low_freq_factor);
  const auto high = static_cast<float>(llama3.high_freq_factor);
  const auto factor = static_cast<float>(llama3.factor);
  for (float& frequency : inverse_frequencies) {
    const float wavelength = static_cast<float>(2 * std::numbers::pi) / frequency;
    if (wavelength > original / low) {
      frequency = frequency / factor;
    } else if (wavelength >= original / high) {
      const float smooth = (original / wavelength - low) / (high - low);
      frequency = (1 - smooth) * frequency / factor + smooth * frequency;
    }
  }
}

}  // namespace

absl::StatusOr<Norm> Norm::Load(const WeightReader& reader, const NormSpec& spec) {
  Norm norm;
  ASSIGN_OR_RETURN(norm.weight_, reader.read_vector(spec.weight));
  norm.eps_ = spec.eps;
  return norm;
}

void Norm::apply(const Kernels& kernels, MatView<const float> x, MatView<float> y, Range rows) const {
  SHOAL_CHECK(x.cols == static_cast<int64_t>(weight_.size()) && y.cols == x.cols);
  kernels.rms_norm({.x = x, .weight = weight_.data(), .eps = eps_, .y = y, .rows = rows});
}

std::vector<float> InverseFrequencies(const RopeSpec& spec) {
  std::vector<float> frequencies = RopeInverseFrequencies(spec.theta, spec.dims);
  std::visit([&](const auto& scaling) { Scale(scaling, frequencies); }, spec.scaling);
  return frequencies;
}

RopeRows MakeRopeRows(const ComputeContext& context, std::span<const float> inverse_frequencies,
                      std::span<const int64_t> positions) {
  const auto rows = static_cast<int64_t>(positions.size());
  const auto half = static_cast<int64_t>(inverse_frequencies.size());
  const RopeRows table{context.arena->allocate_rows<float>(rows, half),
                       context.arena->allocate_rows<float>(rows, half)};
  constexpr int64_t kCostOfSine = 32;  // Of a pair, in values that a plain pass would handle.
  context.for_rows(rows, half * kCostOfSine, [&](Range part) {
    for (int64_t t = part.begin; t < part.end; ++t) {
      RopeRow(inverse_frequencies, positions[static_cast<size_t>(t)], 1.0f, table.cosine.row(t),
              table.sine.row(t));
    }
  });
  return table;
}

}  // namespace shoal
