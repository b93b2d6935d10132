#include "compute/blocks/gated_delta_net.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/status.h"
#include "compute/blocks/softplus.h"
#include "compute/step_profile.h"
#include "numeric/transcendental.h"

namespace shoal {
namespace {

/// What the reference adds to the sum of squares of a query or key.
constexpr double kLengthEps = 1e-6;

}  // namespace

absl::StatusOr<GatedDeltaNet> GatedDeltaNet::Load(const WeightLoader& loader, const GatedDeltaNetSpec& spec,
                                                  ThreadPool& pool) {
  GatedDeltaNet delta;
  delta.key_heads_ = spec.key_heads;
  delta.value_heads_ = spec.value_heads;
  delta.key_dim_ = spec.key_dim;
  delta.value_dim_ = spec.value_dim;
  delta.conv_values_ = spec.conv_values();
  delta.decays_each_ = spec.decays_by_channel ? spec.key_dim : 1;
  delta.decay_bound_ = spec.decay_bound;
  delta.sigmoid_gate_ = spec.sigmoid_gate;
  ASSIGN_OR_RETURN(
      std::vector<Linear> in,
      Linear::LoadTogether(loader, {&spec.q, &spec.k, &spec.v, &spec.z, &spec.b, &spec.a}, pool));
  Linear* const parts[] = {&delta.q_, &delta.k_, &delta.v_, &delta.z_, &delta.b_, &delta.a_};
  for (size_t i = 0; i < in.size(); ++i) *parts[i] = std::move(in[i]);
  if (spec.z_in) {
    ASSIGN_OR_RETURN(delta.z_in_, Linear::Load(loader, *spec.z_in, pool));
  }
  if (spec.a_in) {
    ASSIGN_OR_RETURN(delta.a_in_, Linear::Load(loader, *spec.a_in, pool));
  }
  ASSIGN_OR_RETURN(delta.o_, Linear::Load(loader, spec.o, pool));
  ASSIGN_OR_RETURN(delta.norm_, Norm::Load(loader, spec.norm));
  ASSIGN_OR_RETURN(delta.conv_, StateConvolution::Load(loader, {.taps = spec.conv, .bias = std::nullopt},
                                                       spec.channels(), ConvActivation::kSilu));
  ASSIGN_OR_RETURN(delta.step_bias_, loader.read_vector(spec.step_bias));
  ASSIGN_OR_RETURN(delta.rate_, loader.read_exp(spec.decay_log));
  // rms_norm divides by the root of the mean square: 1 / sqrt(key_dim) makes that the length, and a query is
  // divided by sqrt(key_dim) once more.
  const double dim = spec.key_dim;
  delta.query_scale_.assign(static_cast<size_t>(spec.key_dim), static_cast<float>(1 / dim));
  delta.key_scale_.assign(static_cast<size_t>(spec.key_dim), static_cast<float>(1 / std::sqrt(dim)));
  return delta;
}

int64_t GatedDeltaNet::bytes() const {
  const size_t vectors = rate_.size() + step_bias_.size();
  int64_t bytes = norm_.bytes() + conv_.bytes() + static_cast<int64_t>(vectors * sizeof(float));
  for (const Linear* linear : {&q_, &k_, &v_, &z_, &b_, &a_, &o_}) bytes += linear->bytes();
  return bytes + (z_in_ ? z_in_->bytes() : 0) + (a_in_ ? a_in_->bytes() : 0);
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
  const int64_t channels = conv_.channels();
  const Rows rows{
      arena.allocate_rows<float>(tokens, channels),  arena.allocate_rows<float>(tokens, channels),
      arena.allocate_rows<float>(tokens, z_.rows()), arena.allocate_rows<float>(tokens, value_heads_),
      arena.allocate_rows<float>(tokens, a_.rows()), arena.allocate_rows<float>(tokens, z_.rows())};
  PhaseTimer timer(context, StepPhase::kQkv);
  RETURN_IF_ERROR(project(context, input, rows));

  timer.next(StepPhase::kAttention);
  // Heads are independent from the convolution on, spans of a sequence are not: threads share out the heads.
  const int64_t multiplies =
      tokens * (4 * value_heads_ * key_dim_ * value_dim_ + (conv_.before_rows() + 1) * channels);
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
    if (sigmoid_gate_) {
      context.kernels->sigmoid_mul({.gate = rows.z, .up = rows.out, .out = rows.out, .rows = part});
    } else {
      context.kernels->silu_mul({.gate = rows.z, .up = rows.out, .out = rows.out, .rows = part});
    }
  }));
  const LinearTask output[] = {{&o_, y, gated.all_rows()}};
  return RunLinears(context, gated, output);
}

absl::Status GatedDeltaNet::project(const ComputeContext& context, LinearInput& input,
                                    const Rows& rows) const {
  Arena& arena = *context.arena;
  const ArenaScope scope(arena);
  const Range all = input.all_rows();
  const int64_t keys_at = q_.rows();
  const int64_t values_at = 2 * keys_at;
  MatView<float> z = rows.z, a = rows.decay;
  if (z_in_) z = arena.allocate_rows<float>(input.rows(), z_in_->rows());
  if (a_in_) a = arena.allocate_rows<float>(input.rows(), a_in_->rows());
  const LinearTask projections[] = {{&q_, rows.qkv.cols_between(0, keys_at), all},
                                    {&k_, rows.qkv.cols_between(keys_at, values_at), all},
                                    {&v_, rows.qkv.cols_between(values_at, rows.qkv.cols), all},
                                    {&b_, rows.beta, all},
                                    {z_in_ ? &*z_in_ : &z_, z, all},
                                    {a_in_ ? &*a_in_ : &a_, a, all}};
  RETURN_IF_ERROR(RunLinears(context, input, projections));
  if (z_in_) {
    LinearInput low(z);
    const LinearTask task[] = {{&z_, rows.z, all}};
    RETURN_IF_ERROR(RunLinears(context, low, task));
  }
  if (a_in_) {
    LinearInput low(a);
    const LinearTask task[] = {{&a_, rows.decay, all}};
    RETURN_IF_ERROR(RunLinears(context, low, task));
  }
  return absl::OkStatus();
}

void GatedDeltaNet::run_head(const Kernels& kernels, const Rows& rows, int64_t head, const float* from,
                             float* to) const {
  const int64_t tokens = rows.qkv.rows;
  const int64_t per_key = value_heads_ / key_heads_;
  const int64_t keys_at = key_heads_ * key_dim_;
  const Range query{head * key_dim_, (head + 1) * key_dim_};
  const Range key{keys_at + query.begin, keys_at + query.end};
  const Range values{2 * keys_at + head * per_key * value_dim_,
                     2 * keys_at + (head + 1) * per_key * value_dim_};
  for (const Range& cols : {query, key, values}) {
    conv_.run(kernels, {.x = rows.qkv, .out = rows.mixed, .from = from, .to = to}, cols);
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
                        .decay = rows.decay.cols_between(h * decays_each_, (h + 1) * decays_each_),
                        .beta = rows.beta.cols_between(h, h + 1),
                        .state_in = from == nullptr ? to + at : from + at,
                        .state_out = to + at,
                        .out = rows.out.cols_between(h * value_dim_, (h + 1) * value_dim_)});
  }
}

/// In double: a few values per head and row, and a state remembers every error of its decay.
void GatedDeltaNet::open_gates(const Rows& rows, int64_t value_head) const {
  const auto h = static_cast<size_t>(value_head);
  for (int64_t t = 0; t < rows.beta.rows; ++t) {
    float& beta = rows.beta.at(t, value_head);
    beta = static_cast<float>(1 / (1 + Exp(-double{beta})));
    for (int64_t i = value_head * decays_each_; i < (value_head + 1) * decays_each_; ++i) {
      float& decay = rows.decay.at(t, i);
      const double step = double{decay} + step_bias_[static_cast<size_t>(i)];
      const double rate = rate_[h];
      const double log = decay_bound_ ? *decay_bound_ / (1 + Exp(-rate * step)) : -rate * Softplus(step);
      decay = static_cast<float>(Exp(log));
    }
  }
}

}  // namespace shoal
