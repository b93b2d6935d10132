#include "compute/blocks/conv_state.h"

#include <cstring>

#include "base/status.h"

namespace shoal {

absl::StatusOr<StateConvolution> StateConvolution::Load(const WeightLoader& loader, const Weights& weights,
                                                        int64_t channels, ConvActivation activation) {
  StateConvolution conv;
  std::vector<float> taps;
  for (const WeightRef& part : weights.taps) {
    ASSIGN_OR_RETURN(const std::vector<float> values, loader.read_vector(part));
    taps.insert(taps.end(), values.begin(), values.end());
  }
  const int64_t width = std::ssize(taps) / channels;
  conv.channels_ = channels;
  conv.before_rows_ = width - 1;
  conv.activation_ = activation;
  conv.taps_.resize(taps.size());
  for (int64_t c = 0; c < channels; ++c) {
    const float factor = weights.factors.empty() ? 1.0f : weights.factors[static_cast<size_t>(c)];
    for (int64_t j = 0; j < width; ++j) {
      conv.taps_[static_cast<size_t>(j * channels + c)] = taps[static_cast<size_t>(c * width + j)] * factor;
    }
  }
  if (weights.bias) {
    ASSIGN_OR_RETURN(conv.bias_, loader.read_vector(*weights.bias));
  }
  return conv;
}

void StateConvolution::run(const Kernels& kernels, const Span& span, Range cols) const {
  const auto bytes = static_cast<size_t>(cols.size()) * sizeof(float);
  const MatView<float> next(span.to, before_rows_, channels_);
  // Where nothing came before, the slot's own rows serve as zeros until they are written below.
  if (span.from == nullptr) {
    for (int64_t j = 0; j < before_rows_; ++j) std::memset(next.row(j) + cols.begin, 0, bytes);
  }
  const MatView<const float> before(span.from == nullptr ? span.to : span.from, before_rows_, channels_);
  kernels.causal_conv({.x = span.x,
                       .before = before,
                       .weight = taps_.data(),
                       .bias = bias_.empty() ? nullptr : bias_.data(),
                       .activation = activation_,
                       .out = span.out,
                       .cols = cols});
  for (int64_t j = 0; j < before_rows_; ++j) {
    const int64_t row = span.x.rows - before_rows_ + j;  // Of the rows; before them where negative.
    const float* last = row >= 0 ? span.x.row(row) : before.row(before_rows_ + row);
    std::memmove(next.row(j) + cols.begin, last + cols.begin, bytes);
  }
}

void StateConvolution::run_spans(const Kernels& kernels, const MixerStep& step, MatView<const float> x,
                                 MatView<float> out, Range cols) const {
  for (const StateSpan& span : step.states) {
    const int64_t end = span.row_begin + span.rows;
    run(kernels,
        {.x = x.rows_between(span.row_begin, end),
         .out = out.rows_between(span.row_begin, end),
         .from = span.from == kNoState ? nullptr : step.cache.state(step.layer, span.from),
         .to = step.cache.state(step.layer, span.to)},
        cols);
  }
}

}  // namespace shoal
