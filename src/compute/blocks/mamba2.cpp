#include "compute/blocks/mamba2.h"

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "compute/blocks/softplus.h"
#include "compute/row_ops.h"
#include "compute/step_profile.h"
#include "numeric/transcendental.h"

namespace shoal {
namespace {

/// Of each channel of the convolution; empty: all are 1.
std::vector<float> ChannelFactors(const Mamba2Spec& spec) {
  const auto& [gate, x, b, c, step] = spec.factors;
  if (x == 1 && b == 1 && c == 1) return {};
  std::vector<float> factors(static_cast<size_t>(spec.inner()), x);
  const auto shared = static_cast<size_t>(spec.groups) * static_cast<size_t>(spec.state_dim);
  factors.insert(factors.end(), shared, b);
  factors.insert(factors.end(), shared, c);
  return factors;
}

}  // namespace

absl::StatusOr<Mamba2> Mamba2::Load(const WeightLoader& loader, const Mamba2Spec& spec, ThreadPool& pool) {
  Mamba2 mamba;
  mamba.heads_ = spec.heads;
  mamba.head_dim_ = spec.head_dim;
  mamba.groups_ = spec.groups;
  mamba.state_dim_ = spec.state_dim;
  mamba.conv_values_ = spec.conv_values();
  mamba.step_min_ = spec.step_min;
  mamba.step_max_ = spec.step_max;
  mamba.step_factor_ = spec.factors.step;
  mamba.gate_factor_ = spec.factors.gate;
  ASSIGN_OR_RETURN(std::vector<Linear> in,
                   Linear::LoadTogether(loader, {&spec.gate, &spec.xbc, &spec.step}, pool));
  mamba.gate_ = std::move(in[0]);
  mamba.xbc_ = std::move(in[1]);
  mamba.step_ = std::move(in[2]);
  ASSIGN_OR_RETURN(mamba.o_, Linear::Load(loader, spec.o, pool));
  const std::vector<float> factors = ChannelFactors(spec);
  ASSIGN_OR_RETURN(
      mamba.conv_,
      StateConvolution::Load(loader, {.taps = {&spec.conv, 1}, .bias = spec.conv_bias, .factors = factors},
                             spec.channels(), ConvActivation::kSilu));
  ASSIGN_OR_RETURN(mamba.rate_, loader.read_exp(spec.decay_log));
  ASSIGN_OR_RETURN(mamba.step_bias_, loader.read_vector(spec.step_bias));
  ASSIGN_OR_RETURN(mamba.skip_, loader.read_vector(spec.skip));
  if (!spec.norm) return mamba;
  ASSIGN_OR_RETURN(mamba.norm_, loader.read_vector(spec.norm->weight));
  mamba.norm_eps_ = spec.norm->eps;
  mamba.norm_before_gate_ = spec.norm_before_gate;
  return mamba;
}

int64_t Mamba2::bytes() const {
  const size_t vectors = rate_.size() + step_bias_.size() + skip_.size() + norm_.size();
  return gate_.bytes() + xbc_.bytes() + step_.bytes() + o_.bytes() + conv_.bytes() +
         static_cast<int64_t>(vectors * sizeof(float));
}

absl::Status Mamba2::forward(const ComputeContext& context, LinearInput& input, const MixerStep& step,
                             MatView<float> y) const {
  const ArenaScope scope(*context.arena);
  Arena& arena = *context.arena;
  const int64_t tokens = input.rows();
  const int64_t channels = conv_.channels();
  const int64_t inner = gate_.rows();
  const Rows rows{arena.allocate_rows<float>(tokens, inner),    arena.allocate_rows<float>(tokens, channels),
                  arena.allocate_rows<float>(tokens, channels), arena.allocate_rows<float>(tokens, heads_),
                  arena.allocate_rows<float>(tokens, heads_),   arena.allocate_rows<float>(tokens, inner)};
  PhaseTimer timer(context, StepPhase::kQkv);
  const Range all = input.all_rows();
  const LinearTask projections[] = {
      {&gate_, rows.gate, all}, {&xbc_, rows.xbc, all}, {&step_, rows.step, all}};
  RETURN_IF_ERROR(RunLinears(context, input, projections));

  timer.next(StepPhase::kAttention);
  // Channels are independent, and then heads are; spans of a sequence are not.
  context.for_ranges(channels, tokens * channels * (conv_.before_rows() + 1), [&](Range cols) {
    conv_.run_spans(*context.kernels, step, rows.xbc, rows.mixed, cols);
  });
  context.for_ranges(heads_, 3 * tokens * inner * state_dim_, [&](Range heads) {
    for (int64_t head = heads.begin; head < heads.end; ++head) {
      run_head(context, step, rows, head);
      context.pool->note_progress();
    }
  });

  timer.next(StepPhase::kAttentionOut);
  LinearInput gated(rows.out);
  RETURN_IF_ERROR(gated.fill(context, o_.activation_group(context.activations),
                             [&](Range part) { finish(*context.kernels, rows, part); }));
  const LinearTask output[] = {{&o_, y, gated.all_rows()}};
  return RunLinears(context, gated, output);
}

void Mamba2::run_head(const ComputeContext& context, const MixerStep& step, const Rows& rows,
                      int64_t head) const {
  const auto h = static_cast<size_t>(head);
  // In double: one value per head and row, and a state remembers every error of its decay.
  for (int64_t t = 0; t < rows.step.rows; ++t) {
    float& dt = rows.step.at(t, head);
    dt = static_cast<float>(
        std::clamp(Softplus(double{dt} * step_factor_ + step_bias_[h]), step_min_, step_max_));
    rows.decay.at(t, head) = static_cast<float>(Exp(-double{rate_[h]} * dt));
  }
  const int64_t inner = heads_ * head_dim_;
  const int64_t group = head / (heads_ / groups_);
  const Range x{head * head_dim_, (head + 1) * head_dim_};
  const int64_t b = inner + group * state_dim_;
  const int64_t c = b + groups_ * state_dim_;
  const int64_t matrix = state_dim_ * head_dim_;
  const int64_t at = conv_values_ + head * matrix;
  for (const StateSpan& span : step.states) {
    const int64_t end = span.row_begin + span.rows;
    const MatView<float> mixed = rows.mixed.rows_between(span.row_begin, end);
    float* const to = step.cache.state(step.layer, span.to) + at;
    if (span.from == kNoState) std::fill_n(to, matrix, 0.0f);
    const float* const from = span.from == kNoState ? to : step.cache.state(step.layer, span.from) + at;
    context.kernels->delta_rule(
        {.query = mixed.cols_between(c, c + state_dim_),
         .key = mixed.cols_between(b, b + state_dim_),
         .value = mixed.cols_between(x.begin, x.end),
         .decay = rows.decay.rows_between(span.row_begin, end).cols_between(head, head + 1),
         .beta = rows.step.rows_between(span.row_begin, end).cols_between(head, head + 1),
         .state_in = from,
         .state_out = to,
         .out = rows.out.rows_between(span.row_begin, end).cols_between(x.begin, x.end),
         .rule = StateRule::kAdd});
  }
  for (int64_t t = 0; t < rows.out.rows; ++t) {
    const float* const value = rows.mixed.row(t) + x.begin;
    float* const out = rows.out.row(t) + x.begin;
    for (int64_t j = 0; j < head_dim_; ++j) out[j] += skip_[h] * value[j];
  }
}

void Mamba2::finish(const Kernels& kernels, const Rows& rows, Range part) const {
  if (gate_factor_ != 1) Multiply(rows.gate, gate_factor_, part);
  const SiluMulArgs gating{.gate = rows.gate, .up = rows.out, .out = rows.out, .rows = part};
  if (!norm_before_gate_) kernels.silu_mul(gating);
  const int64_t size = rows.out.cols / groups_;
  for (int64_t g = 0; g < groups_ && !norm_.empty(); ++g) {
    const MatView<float> x = rows.out.cols_between(g * size, (g + 1) * size);
    kernels.rms_norm({.x = x, .weight = norm_.data() + g * size, .eps = norm_eps_, .y = x, .rows = part});
  }
  if (norm_before_gate_) kernels.silu_mul(gating);
}

}  // namespace shoal
