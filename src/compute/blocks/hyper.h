// Hyper-connections (HyperSpec): how a layer reads and writes several residual streams.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "compute/blocks/linear.h"
#include "compute/blocks/norm_rope.h"
#include "compute/compute_context.h"
#include "models/spec.h"
#include "numeric/view.h"

namespace shoal {

/// What all of a model's have in common.
struct HyperRule {
  int64_t width = 0;  ///< D
  int64_t streams = 0;
  int rounds = 0;
  float eps = 0;
  float norm_eps = 0;
};

/// One place where streams are read, and maybe written: in a layer, or before the output head.
class HyperMix {
 public:
  HyperMix() = default;
  static absl::StatusOr<HyperMix> Load(const WeightLoader& loader, const HyperRule& rule,
                                       const HyperMixSpec& spec, ThreadPool& pool);

  int64_t bytes() const;
  int64_t coefficients() const { return matrix_.rows(); }  ///< N

  /// x [T, D] = the sum of what is read of the streams [T, S * D]. coefficients [T, N]: what write() takes.
  void read(const ComputeContext& context, MatView<const float> streams, MatView<float> coefficients,
            MatView<float> x) const;
  /// Adds y [T, D] to what is kept of the streams. Not of the output head's.
  void write(const ComputeContext& context, MatView<const float> y, MatView<const float> coefficients,
             MatView<float> streams) const;

 private:
  void finish(float* row) const;
  void make_keep(float* keep) const;

  HyperRule rule_;
  Norm norm_;
  Linear matrix_;
  std::vector<float> base_, scale_;
};

}  // namespace shoal
