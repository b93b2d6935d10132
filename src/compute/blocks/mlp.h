// down(gating(gate x, up x)): the dense feed-forward, and one expert.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compute/blocks/linear.h"
#include "models/spec.h"

namespace shoal {

struct MlpTask;

/// What makes hidden values of what the first matrices give.
struct GatingRule {
  Gating gating = Gating::kSilu;
  float limit = 0;
  float gate_scale = 1;
  float gate_cutoff = 0;                 ///< As DenseSpec.
  std::optional<Activation> activation;  ///< There is no gate.
  XieluShape xielu;

  /// Errors of WeightLoader.
  static absl::StatusOr<GatingRule> Load(const WeightLoader& loader, const DenseSpec& spec);
  bool has_gate() const { return !activation.has_value(); }
  /// Packed bytes of the weights that it was made of.
  int64_t bytes() const { return activation == Activation::kXielu ? int64_t{sizeof(XieluShape)} : 0; }
  /// hidden = gating(hidden, up), or without a gate activation(hidden), of a range of rows.
  /// `up` may change.
  void apply(const ComputeContext& context, MatView<float> hidden, MatView<float> up, Range rows) const;
};

class Mlp {
 public:
  Mlp() = default;
  static absl::StatusOr<Mlp> Load(const WeightLoader& loader, const DenseSpec& spec, ThreadPool& pool);
  /// Experts of one layer, in that order. Threads share them out as a whole: which of them will run one is
  /// only known when rows arrive, and matrices of some hundred KB each would have them meet for every one.
  static absl::StatusOr<std::vector<Mlp>> LoadExperts(const WeightLoader& loader,
                                                      const std::vector<const DenseSpec*>& specs,
                                                      ThreadPool& pool);

  /// Experts whose weights are not in memory: place() says where they are.
  static absl::StatusOr<std::vector<Mlp>> LoadWithoutWeights(const WeightLoader& loader,
                                                             const std::vector<const DenseSpec*>& specs);
  /// Where the packed weights are from now on: `offsets` of gate (where there is one), up and down in
  /// `memory`.
  void place(const std::shared_ptr<std::byte>& memory, const std::array<int64_t, 3>& offsets);

  int64_t bytes() const { return gate_.bytes() + up_.bytes() + down_.bytes() + gating_.bytes(); }
  /// Columns per scale of the codes that it asks of its input; 0: none.
  int input_group(ActivationMode mode) const {
    return (gating_.has_gate() ? gate_ : up_).activation_group(mode);
  }

  /// y [T, D] = the block of the input [T, D]. OutOfRange for a non-finite activation.
  absl::Status forward(const ComputeContext& context, LinearInput& input, MatView<float> y) const;

 private:
  friend absl::Status RunMlps(const ComputeContext&, LinearInput&, std::span<const MlpTask>, MatView<float>);
  /// linears: gate (where there is one), up and down of each.
  static absl::StatusOr<std::vector<Mlp>> Join(const WeightLoader& loader,
                                               const std::vector<const DenseSpec*>& specs,
                                               std::vector<Linear> linears);

  Linear gate_, up_, down_;  // gate_ is empty where there is none.
  GatingRule gating_;
};

/// A block and the rows that it is applied to.
struct MlpTask {
  const Mlp* mlp = nullptr;
  Range rows;
};

/// y[r, :] = block(input row r) for the rows of every task, which are disjoint. The blocks (experts of one
/// layer) have one hidden width and one gating. All of them run as one piece of work: every weight is read
/// once for all its rows, and threads meet three times however many blocks there are. OutOfRange for a
/// non-finite activation.
absl::Status RunMlps(const ComputeContext& context, LinearInput& input, std::span<const MlpTask> tasks,
                     MatView<float> y);

}  // namespace shoal
