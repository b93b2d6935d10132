// y = x W^T + b over packed weights of any format.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compute/compute_context.h"
#include "cpu/pool.h"
#include "kernels/kernels.h"
#include "loading/weight_loader.h"
#include "numeric/view.h"

namespace shoal {

class Linear {
 public:
  Linear() = default;
  /// Errors of WeightLoader.
  static absl::StatusOr<Linear> Load(const WeightLoader& loader, const LinearSpec& spec, ThreadPool& pool);
  /// One without a bias.
  static absl::StatusOr<Linear> Load(const WeightLoader& loader, const WeightRef& weight, ThreadPool& pool);
  /// Those that RunLinears will run as one piece of work, in that order; or the many of a layer's experts.
  static absl::StatusOr<std::vector<Linear>> LoadTogether(const WeightLoader& loader,
                                                          const std::vector<const LinearSpec*>& specs,
                                                          ThreadPool& pool);

  /// Rows of a linear: output values that are computed apart from the others.
  struct Rows {
    const LinearSpec* spec = nullptr;
    Range rows;
  };
  /// As LoadTogether, of these rows alone. unit: what of the packed cache they are kept with. Unimplemented: a weight whose
  /// rows do not lie one behind the other.
  static absl::StatusOr<std::vector<Linear>> LoadRows(const WeightLoader& loader, std::span<const Rows> parts,
                                                      const PackedUnit& unit, ThreadPool& pool);

  /// Those of experts that are not in memory: without weights, which place() gives them. Errors as Load().
  static absl::StatusOr<std::vector<Linear>> LoadWithoutWeights(const WeightLoader& loader,
                                                                const std::vector<const LinearSpec*>& specs);
  /// The packed weight lies at `memory` from now on.
  void place(std::shared_ptr<std::byte> memory) {
    weight_ = PackedMatrix::In(std::move(memory), weight_.format(), weight_.rows(), weight_.cols());
  }

  int64_t rows() const { return weight_.rows(); }  ///< N
  int64_t cols() const { return weight_.cols(); }  ///< K
  int64_t bytes() const { return weight_.bytes() + static_cast<int64_t>(bias_.size() * sizeof(float)); }
  const PackedMatrix& weight() const { return weight_; }

  /// Columns per activation scale under `mode`; 0 where the rows enter as f32.
  int activation_group(ActivationMode mode) const {
    return mode == ActivationMode::kInt8 && weight_.format().affine() ? weight_.format().group : 0;
  }

 private:
  friend class LinearBatch;
  PackedMatrix weight_;
  std::vector<float> bias_;  ///< [N] or empty.
};

/// Rows on their way into linears, quantized at most once per group size. The codes live in the arena scope
/// in which they were first asked for: all uses of an input stand in one scope.
class LinearInput {
 public:
  explicit LinearInput(MatView<const float> x) : x_(x) {}
  /// Rows of which the codes are known already; x may be without data where only these are used.
  LinearInput(MatView<const float> x, const QuantizedRows& known);

  int64_t rows() const { return x_.rows; }
  Range all_rows() const { return {0, x_.rows}; }
  MatView<const float> x() const { return x_; }
  /// The codes in groups of `group`. OutOfRange for NaN and infinity.
  absl::StatusOr<QuantizedRows> quantized(const ComputeContext& context, int group);
  /// Has `make_rows` write x, part by part, and quantizes each part while it is in the cache; group 0: no
  /// linear will ask for codes. OutOfRange as above.
  absl::Status fill(const ComputeContext& context, int group, absl::FunctionRef<void(Range rows)> make_rows);
  /// What fill() or quantized() made before.
  const QuantizedRows& known(int group) const;

 private:
  static constexpr int kGroups = 4;  // 16, 32, 64, 128
  MatView<const float> x_;
  std::array<std::optional<QuantizedRows>, kGroups> known_;
};

/// One product of a batch: y [rows.size(), N] = linear(rows of the input).
struct LinearTask {
  const Linear* linear = nullptr;
  MatView<float> y;
  Range rows;
};

/// Runs products that share an input as one piece of work: q, k and v of all rows, or the experts of a layer,
/// each of its own rows. Threads meet once, and each has the same amount to do. OutOfRange for a non-finite
/// activation.
absl::Status RunLinears(const ComputeContext& context, LinearInput& input, std::span<const LinearTask> tasks);

/// The same for a weight that always meets f32 rows (routers).
void RunExactLinear(const ComputeContext& context, MatView<const float> x, const Linear& linear,
                    MatView<float> y);

}  // namespace shoal
