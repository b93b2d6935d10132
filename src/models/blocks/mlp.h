// down(silu(gate x) * up x): the dense feed-forward, and one expert.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/blocks/linear.h"
#include "models/spec.h"

namespace shoal {

class Mlp {
 public:
  Mlp() = default;
  static absl::StatusOr<Mlp> Load(const WeightReader& reader, const DenseSpec& spec, ThreadPool& pool);

  int64_t bytes() const { return gate_.bytes() + up_.bytes() + down_.bytes(); }
  const Linear& gate() const { return gate_; }
  const Linear& up() const { return up_; }

  /// y [T, D] = the block of the input [T, D]. OutOfRange for a non-finite activation.
  absl::Status forward(const ComputeContext& context, LinearInput& input, MatView<float> y) const;

 private:
  Linear gate_, up_, down_;
};

}  // namespace shoal
