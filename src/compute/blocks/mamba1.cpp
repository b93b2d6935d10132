#include "compute/blocks/mamba1.h"

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "compute/blocks/softplus.h"
#include "compute/step_profile.h"

namespace shoal {
namespace {

/// Channels that a thread scans between two notes of progress.
constexpr int64_t kChannelsPerPass = 64;

}  // namespace

absl::StatusOr<Mamba1> Mamba1::Load(const WeightLoader& loader, const Mamba1Spec& spec, ThreadPool& pool) {
  Mamba1 mamba;
  mamba.state_dim_ = spec.state_dim;
  mamba.conv_values_ = spec.conv_values();
  ASSIGN_OR_RETURN(std::vector<Linear> in, Linear::LoadTogether(loader, {&spec.x, &spec.gate}, pool));
  mamba.x_ = std::move(in[0]);
  mamba.gate_ = std::move(in[1]);
  ASSIGN_OR_RETURN(mamba.inputs_, Linear::Load(loader, spec.inputs, pool));
  ASSIGN_OR_RETURN(mamba.steps_, Linear::Load(loader, spec.steps, pool));
  ASSIGN_OR_RETURN(mamba.o_, Linear::Load(loader, spec.o, pool));
  ASSIGN_OR_RETURN(mamba.conv_,
                   StateConvolution::Load(loader, {.taps = {&spec.conv, 1}, .bias = spec.conv_bias},
                                          spec.channels, ConvActivation::kSilu));
  ASSIGN_OR_RETURN(mamba.step_norm_, Norm::Load(loader, spec.step_norm));
  ASSIGN_OR_RETURN(mamba.key_norm_, Norm::Load(loader, spec.key_norm));
  ASSIGN_OR_RETURN(mamba.query_norm_, Norm::Load(loader, spec.query_norm));
  ASSIGN_OR_RETURN(mamba.skip_, loader.read_vector(spec.skip));
  ASSIGN_OR_RETURN(const std::vector<float> rates, loader.read_exp(spec.decay_log));
  mamba.rate_.resize(rates.size());
  for (int64_t c = 0; c < spec.channels; ++c) {
    for (int64_t n = 0; n < spec.state_dim; ++n) {
      mamba.rate_[static_cast<size_t>(n * spec.channels + c)] =
          -rates[static_cast<size_t>(c * spec.state_dim + n)];
    }
  }
  return mamba;
}

int64_t Mamba1::bytes() const {
  const size_t vectors = rate_.size() + skip_.size();
  int64_t bytes = conv_.bytes() + static_cast<int64_t>(vectors * sizeof(float));
  for (const Linear* linear : {&x_, &gate_, &inputs_, &steps_, &o_}) bytes += linear->bytes();
  return bytes + step_norm_.bytes() + key_norm_.bytes() + query_norm_.bytes();
}

absl::Status Mamba1::forward(const ComputeContext& context, LinearInput& input, const MixerStep& step,
                             MatView<float> y) const {
  const ArenaScope scope(*context.arena);
  Arena& arena = *context.arena;
  const int64_t tokens = input.rows();
  const int64_t channels = conv_.channels();
  const Rows rows{arena.allocate_rows<float>(tokens, channels), arena.allocate_rows<float>(tokens, channels),
                  arena.allocate_rows<float>(tokens, channels),
                  arena.allocate_rows<float>(tokens, inputs_.rows()),
                  arena.allocate_rows<float>(tokens, channels)};
  PhaseTimer timer(context, StepPhase::kQkv);
  const LinearTask projections[] = {{&x_, rows.x, input.all_rows()}, {&gate_, rows.gate, input.all_rows()}};
  RETURN_IF_ERROR(RunLinears(context, input, projections));

  timer.next(StepPhase::kAttention);
  convolve(context, step, rows);
  RETURN_IF_ERROR(make_inputs(context, rows));
  scan(context, step, rows);

  timer.next(StepPhase::kAttentionOut);
  LinearInput gated(rows.out);
  RETURN_IF_ERROR(gated.fill(context, o_.activation_group(context.activations), [&](Range part) {
    context.kernels->silu_mul({.gate = rows.gate, .up = rows.out, .out = rows.out, .rows = part});
  }));
  const LinearTask output[] = {{&o_, y, gated.all_rows()}};
  return RunLinears(context, gated, output);
}

/// Channels are independent; spans of a sequence are not.
void Mamba1::convolve(const ComputeContext& context, const MixerStep& step, const Rows& rows) const {
  const int64_t channels = conv_.channels();
  context.for_ranges(channels, rows.x.rows * channels * (conv_.before_rows() + 1),
                     [&](Range cols) { conv_.run_spans(*context.kernels, step, rows.x, rows.mixed, cols); });
}

absl::Status Mamba1::make_inputs(const ComputeContext& context, const Rows& rows) const {
  const ArenaScope scope(*context.arena);
  const Kernels& kernels = *context.kernels;
  LinearInput mixed(rows.mixed);
  const LinearTask all[] = {{&inputs_, rows.low, mixed.all_rows()}};
  RETURN_IF_ERROR(RunLinears(context, mixed, all));
  const int64_t rank = steps_.cols();
  const MatView<float> low = rows.low.cols_between(0, rank);
  const MatView<float> key = rows.low.cols_between(rank, rank + state_dim_);
  const MatView<float> query = rows.low.cols_between(rank + state_dim_, rank + 2 * state_dim_);
  LinearInput normed(low);
  RETURN_IF_ERROR(normed.fill(context, steps_.activation_group(context.activations), [&](Range part) {
    step_norm_.apply(kernels, low, low, part);
    key_norm_.apply(kernels, key, key, part);
    query_norm_.apply(kernels, query, query, part);
  }));
  const LinearTask steps[] = {{&steps_, rows.out, normed.all_rows()}};
  return RunLinears(context, normed, steps);
}

void Mamba1::scan(const ComputeContext& context, const MixerStep& step, const Rows& rows) const {
  const int64_t channels = conv_.channels();
  const int64_t multiplies = Mamba1Spec::kMultipliesPerValue * rows.x.rows * channels * state_dim_;
  context.for_ranges(channels, multiplies, [&](Range cols) {
    for (int64_t begin = cols.begin; begin < cols.end; begin += kChannelsPerPass) {
      scan_channels(*context.kernels, step, rows, {begin, std::min(begin + kChannelsPerPass, cols.end)});
      context.pool->note_progress();
    }
  });
}

void Mamba1::scan_channels(const Kernels& kernels, const MixerStep& step, const Rows& rows,
                           Range cols) const {
  const int64_t channels = conv_.channels();
  const int64_t rank = steps_.cols();
  // In double, as for all states: decays are powers of the step.
  for (int64_t t = 0; t < rows.out.rows; ++t) {
    for (int64_t c = cols.begin; c < cols.end; ++c) {
      float& dt = rows.out.at(t, c);
      dt = static_cast<float>(Softplus(double{dt}));
    }
  }
  for (const StateSpan& span : step.states) {
    const int64_t end = span.row_begin + span.rows;
    float* const to = step.cache.state(step.layer, span.to) + conv_values_;
    for (int64_t n = 0; span.from == kNoState && n < state_dim_; ++n) {
      std::fill(to + n * channels + cols.begin, to + n * channels + cols.end, 0.0f);
    }
    const MatView<float> low = rows.low.rows_between(span.row_begin, end);
    const MatView<float> out = rows.out.rows_between(span.row_begin, end);
    kernels.selective_scan(
        {.x = rows.mixed.rows_between(span.row_begin, end),
         .step = out,
         .key = low.cols_between(rank, rank + state_dim_),
         .query = low.cols_between(rank + state_dim_, rank + 2 * state_dim_),
         .rate = rate_.data(),
         .skip = skip_.data(),
         .state_in = span.from == kNoState ? to : step.cache.state(step.layer, span.from) + conv_values_,
         .state_out = to,
         .out = out,
         .cols = cols});
  }
}

}  // namespace shoal
