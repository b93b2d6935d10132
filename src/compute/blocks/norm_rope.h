// Norm weights and the tables of rotary position embeddings.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "compute/compute_context.h"
#include "kernels/kernels.h"
#include "loading/weight_loader.h"
#include "models/spec.h"
#include "numeric/view.h"

namespace shoal {

class Norm {
 public:
  Norm() = default;
  static absl::StatusOr<Norm> Load(const WeightLoader& loader, const NormSpec& spec);
  static absl::StatusOr<std::optional<Norm>> LoadIfAny(const WeightLoader& loader,
                                                       const std::optional<NormSpec>& spec);
  /// Without a weight: all are 1.
  static Norm Weightless(int64_t size, float eps);

  int64_t size() const { return static_cast<int64_t>(weight_.size()); }
  /// Without a norm's that has no weight in the model.
  int64_t bytes() const {
    return static_cast<int64_t>((weightless_ ? 0 : weight_.size() + bias_.size()) * sizeof(float));
  }

  /// y[r, :] = norm(x[r, :]) for r in rows; y may be x. On this thread.
  void apply(const Kernels& kernels, MatView<const float> x, MatView<float> y, Range rows) const;

 private:
  std::vector<float> weight_;
  std::vector<float> bias_;  // Empty: none.
  bool weightless_ = false;
  bool centered_ = false;
  float eps_ = 0;
};

/// y[r, :] = norm(x[r, :]), or x[r, :] where there is no norm.
void NormOrCopy(const Kernels& kernels, const std::optional<Norm>& norm, MatView<const float> x,
                MatView<float> y, Range rows);

/// f32 inverse frequencies of a RopeSpec, dims / 2 of them, scaled as it says; of RopeLong those of short
/// sequences.
std::vector<float> InverseFrequencies(const RopeSpec& spec);

/// What decides how positions rotate: layers for which this is equal share their cosines and sines.
struct RopeTable {
  std::vector<float> inverse_frequencies;
  std::vector<float> of_long_sequences;  ///< The same of RopeLong's long sequences; empty: no difference.
  float magnitude = 1;
  float magnitude_of_long = 1;  ///< Where of_long_sequences is not empty.
  bool operator==(const RopeTable&) const = default;
};
RopeTable MakeRopeTable(const RopeSpec& spec);

/// Cosines and sines of the rows of a step.
struct RopeRows {
  MatView<float> cosine;  ///< [T, dims / 2]
  MatView<float> sine;    ///< [T, dims / 2]
};

/// In the context's arena. positions, long_rope: [T], where each row stands and whether it is of a sequence
/// beyond ShortRopePositions.
RopeRows MakeRopeRows(const ComputeContext& context, const RopeTable& table,
                      std::span<const int64_t> positions, std::span<const bool> long_rope);

}  // namespace shoal
