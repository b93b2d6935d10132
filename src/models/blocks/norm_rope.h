// Norm weights and the tables of rotary position embeddings.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/kernels.h"
#include "models/compute_context.h"
#include "models/spec.h"
#include "models/weight_reader.h"
#include "numeric/view.h"

namespace shoal {

class Norm {
 public:
  Norm() = default;
  static absl::StatusOr<Norm> Load(const WeightReader& reader, const NormSpec& spec);

  int64_t bytes() const { return static_cast<int64_t>(weight_.size() * sizeof(float)); }

  /// y[r, :] = norm(x[r, :]) for r in rows; y may be x. On this thread.
  void apply(const Kernels& kernels, MatView<const float> x, MatView<float> y, Range rows) const;

 private:
  std::vector<float> weight_;
  float eps_ = 0;
};

/// f32 inverse frequencies of a RopeSpec, dims / 2 of them, scaled as it says.
std::vector<float> InverseFrequencies(const RopeSpec& spec);

/// Cosines and sines of the rows of a step.
struct RopeRows {
  MatView<float> cosine;  ///< [T, dims / 2]
  MatView<float> sine;    ///< [T, dims / 2]
};

/// In the context's arena. positions: [T].
RopeRows MakeRopeRows(const ComputeContext& context, std::span<const float> inverse_frequencies,
                      std::span<const int64_t> positions);

}  // namespace shoal
