// Causal convolutions along a sequence, which keep the rows that they will see again in a state.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "compute/blocks/mixer_step.h"
#include "kernels/kernels.h"
#include "loading/weight_loader.h"
#include "models/weights.h"
#include "numeric/view.h"

namespace shoal {

class StateConvolution {
 public:
  StateConvolution() = default;
  /// taps: [channels * width] in one or several parts, of each channel its taps, the oldest position first. bias:
  /// [channels]. factors: [channels] on the rows that it sees, or empty.
  struct Weights {
    std::span<const WeightRef> taps;
    const std::optional<WeightRef>& bias;
    std::span<const float> factors = {};
  };
  static absl::StatusOr<StateConvolution> Load(const WeightLoader& loader, const Weights& weights,
                                               int64_t channels, ConvActivation activation);

  int64_t channels() const { return channels_; }
  /// Rows of the past that it sees, [before_rows(), channels()] at the beginning of a state.
  int64_t before_rows() const { return before_rows_; }
  int64_t bytes() const { return static_cast<int64_t>((taps_.size() + bias_.size()) * sizeof(float)); }

  /// The rows of a span, and the states around them. `from` nullptr: nothing came before, all is zero.
  struct Span {
    MatView<const float> x;  ///< [T, channels]
    MatView<float> out;      ///< [T, channels], not x.
    const float* from = nullptr;
    float* to = nullptr;  ///< Not `from`.
  };
  /// out = the convolution of x, and the rows that the next span will see to `to`; of channels `cols` alone.
  void run(const Kernels& kernels, const Span& span, Range cols) const;
  /// The same of all rows [T, channels] of a step, span by span, from and to the layer's states.
  void run_spans(const Kernels& kernels, const MixerStep& step, MatView<const float> x, MatView<float> out,
                 Range cols) const;

 private:
  int64_t channels_ = 0, before_rows_ = 0;
  ConvActivation activation_ = ConvActivation::kSilu;
  std::vector<float> taps_;  // [before_rows + 1, channels]
  std::vector<float> bias_;  // [channels] or empty.
};

}  // namespace shoal
