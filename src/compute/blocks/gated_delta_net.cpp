#include "compute/blocks/gated_delta_net.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "base/status.h"
#include "compute/step_profile.h"
#include "numeric/transcendental.h"

namespace shoal {
namespace {

/// What the reference adds to the sum of squares of a query or key.
constexpr double kLengthEps = 1e-6;

/// The reference computes log(1 + e^x) in f32, and x itself above 20.
double Softplus(double x) { return x > 20 ? x : Log(1 + Exp(x)); }

}  // namespace

absl::StatusOr<GatedDeltaNet> GatedDeltaNet::Load(const WeightLoader& loader, const GatedDeltaNetSpec& spec,
                                                  ThreadPool& pool) {
  GatedDeltaNet delta;
  delta.key_heads_ = spec.key_heads;
  delta.value_heads_ = spec.value_heads;
  delta.key_dim_ = spec.key_dim;
  delta.value_dim_ = spec.value_dim;
  delta.conv_width_ = spec.conv_width;
  delta.channels_ = spec.channels();
  delta.conv_values_ = spec.conv_values();
  ASSIGN_OR_RETURN(std::vector<Linear> in,
                   Linear::LoadTogether(loader, {&spec.qkv, &spec.z, &spec.b, &spec.a}, pool));
  delta.qkv_ = std::move(in[0]);
  delta.z_ = std::move(in[1]);
  delta.b_ = std::move(in[2]);
  delta.a_ = std::move(in[3]);
  ASSIGN_OR_RETURN(delta.o_, Linear::Load(loader, spec.o, pool));
  ASSIGN_OR_RETURN(delta.norm_, Norm::Load(loader, spec.norm));
  ASSIGN_OR_RETURN(const std::vector<float> taps, loader.read_vector(spec.conv));
  delta.conv_.resize(taps.size());
  for (int64_t c = 0; c < delta.channels_; ++c) {
    for (int64_t j = 0; j < delta.conv_width_; ++j) {
      delta.conv_[static_cast<size_t>(j * delta.channels_ + c)] =
          taps[static_cast<size_t>(c * delta.conv_width_ + j)];
    }
  }
  ASSIGN_OR_RETURN(delta.step_bias_, loader.read_vector(spec.step_bias));
  ASSIGN_OR_RETURN(const std::vector<float> logs, loader.read_vector(spec.decay_log));
  for (const float log : logs) delta.rate_.push_back(static_cast<float>(Exp(log)));
  // rms_norm divides by the root of the mean square: 1 / sqrt(key_dim) makes that the length, and a query is
  // divided by sqrt(key_dim) once more.
  const double dim = spec.key_dim;
  delta.query_scale_.assign(static_cast<size_t>(spec.key_dim), static_cast<float>(1 / dim));
  delta.key_scale_.assign(static_cast<size_t>(spec.key_dim), static_cast<float>(1 / std::sqrt(dim)));
  return delta;
}

int64_t GatedDeltaNet::bytes() const {
  const size_t vectors = conv_.size() + rate_.size() + step_bias_.size();
  return qkv_.bytes() + z_.bytes() + b_.bytes() + a_.bytes() + o_.bytes() + norm_.bytes() +
         static_cast<int64_t>(vectors * sizeof(float));
}

GatedDeltaNet::Rows GatedDeltaNet::Rows::between(int64_t begin, int64_t end) const {
  return {qkv.rows_between(begin, end),  mixed.rows_between(begin, end), z.rows_between(begin, end),
          beta.rows_between(begin, end), decay.rows_between(begin, end), out.rows_between(begin, end)};
}

absl::Status GatedDeltaNet::forward(const ComputeContext& context, LinearInput& input, const MixerStep& step,
                                    MatView<float> y) const {
  const ArenaScope scope(*context.arena);
  Arena& arena = *context.arena;
  const int64_t tokens = input.rows();
  const Rows rows{
      arena.allocate_rows<float>(tokens, channels_),    arena.allocate_rows<float>(tokens, channels_),
      arena.allocate_rows<float>(tokens, z_.rows()),    arena.allocate_rows<float>(tokens, value_heads_),
      arena.allocate_rows<float>(tokens, value_heads_), arena.allocate_rows<float>(tokens, z_.rows())};
  PhaseTimer timer(context, StepPhase::kQkv);
  const Range all = input.all_rows();
  const LinearTask projections[] = {
      {&qkv_, rows.qkv, all}, {&z_, rows.z, all}, {&b_, rows.beta, all}, {&a_, rows.decay, all}};
  RETURN_IF_ERROR(RunLinears(context, input, projections));

  timer.next(StepPhase::kAttention);
  // Heads are independent from the convolution on, spans of a sequence are not: threads share out the heads.
  const int64_t multiplies = tokens * (4 * value_heads_ * key_dim_ * value_dim_ + conv_width_ * channels_);
  context.for_ranges(key_heads_, multiplies, [&](Range heads) {
    for (int64_t head = heads.begin; head < heads.end; ++head) {
      for (const StateSpan& span : step.states) {
        const float* from = span.from == kNoState ? nullptr : step.cache.state(step.layer, span.from);
        run_head(*context.kernels, rows.between(span.row_begin, span.row_begin + span.rows), head, from,
                 step.cache.state(step.layer, span.to));
      }
      context.pool->note_progress();
    }
  });

  timer.next(StepPhase::kAttentionOut);
  LinearInput gated(rows.out);
  RETURN_IF_ERROR(gated.fill(context, o_.activation_group(context.activations), [&](Range part) {
    const Range heads{part.begin * value_heads_, part.end * value_heads_};
    const MatView<float> outputs(rows.out.data, tokens * value_heads_, value_dim_);
    norm_.apply(*context.kernels, outputs, outputs, heads);
    context.kernels->silu_mul({.gate = rows.z, .up = rows.out, .out = rows.out, .rows = part});
  }));
  const LinearTask output[] = {{&o_, y, gated.all_rows()}};
  return RunLinears(context, gated, output);
}

void GatedDeltaNet::run_head(const Kernels& kernels, const Rows& rows, int64_t head, const float* from,
                             float* to) const {
  const int64_t tokens = rows.qkv.rows;
  const int64_t before_rows = conv_width_ - 1;
  const int64_t per_key = value_heads_ / key_heads_;
  const int64_t keys_at = key_heads_ * key_dim_;
  const Range query{head * key_dim_, (head + 1) * key_dim_};
  const Range key{keys_at + query.begin, keys_at + query.end};
  const Range values{2 * keys_at + head * per_key * value_dim_,
                     2 * keys_at + (head + 1) * per_key * value_dim_};
  const MatView<float> next_before(to, before_rows, channels_);
  for (const Range& cols : {query, key, values}) {
    const auto bytes = static_cast<size_t>(cols.size()) * sizeof(float);
    // Where nothing came before, the slot's own rows serve as zeros until they are written below.
    if (from == nullptr) {
      for (int64_t j = 0; j < before_rows; ++j) std::memset(next_before.row(j) + cols.begin, 0, bytes);
    }
    const MatView<const float> before(from == nullptr ? to : from, before_rows, channels_);
    kernels.causal_conv(
        {.x = rows.qkv, .before = before, .weight = conv_.data(), .out = rows.mixed, .cols = cols});
    for (int64_t j = 0; j < before_rows; ++j) {
      const int64_t row = tokens - before_rows + j;  // Of the rows; before them where negative.
      const float* last = row >= 0 ? rows.qkv.row(row) : before.row(before_rows + row);
      std::memmove(next_before.row(j) + cols.begin, last + cols.begin, bytes);
    }
  }
  const auto eps = static_cast<float>(kLengthEps / static_cast<double>(key_dim_));
  for (const auto& [cols, scale] : {std::pair(query, &query_scale_), std::pair(key, &key_scale_)}) {
    const MatView<float> x = rows.mixed.cols_between(cols.begin, cols.end);
    kernels.rms_norm({.x = x, .weight = scale->data(), .eps = eps, .y = x, .rows = {0, tokens}});
  }
  const int64_t matrix = key_dim_ * value_dim_;
  for (int64_t h = head * per_key; h < (head + 1) * per_key; ++h) {
    open_gates(rows, h);
    const int64_t at = conv_values_ + h * matrix;
    if (from == nullptr) std::fill_n(to + at, matrix, 0.0f);
    const int64_t value_at = 2 * keys_at + h * value_dim_;
    kernels.delta_rule({.query = rows.mixed.cols_between(query.begin, query.end),
                        .key = rows.mixed.cols_between(key.begin, key.end),
                        .value = rows.mixed.cols_between(value_at, value_at + value_dim_),
                        .decay = rows.decay.cols_between(h, h + 1),
                        .beta = rows.beta.cols_between(h, h + 1),
                        .state_in = from == nullptr ? to + at : from + at,
                        .state_out = to + at,
                        .out = rows.out.cols_between(h * value_dim_, (h + 1) * value_dim_)});
  }
}

/// In double: one value per head and row, and a state remembers every error of its decay.
void GatedDeltaNet::open_gates(const Rows& rows, int64_t value_head) const {
  const auto h = static_cast<size_t>(value_head);
  for (int64_t t = 0; t < rows.beta.rows; ++t) {
    float& beta = rows.beta.at(t, value_head);
    float& decay = rows.decay.at(t, value_head);
    beta = static_cast<float>(1 / (1 + Exp(-double{beta})));
    decay = static_cast<float>(Exp(-double{rate_[h]} * Softplus(double{decay} + step_bias_[h])));
  }
}

}  // namespace shoal
