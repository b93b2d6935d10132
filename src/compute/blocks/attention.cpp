#include "compute/blocks/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "base/status.h"
#include "compute/step_profile.h"

namespace shoal {
namespace {

/// Rows of `heads` heads as one row per head.
MatView<float> AsHeads(MatView<float> x, int heads) {
  SHOAL_CHECK(x.contiguous() && x.cols % heads == 0);
  return MatView<float>(x.data, x.rows * heads, x.cols / heads);
}

void CopyHeads(MatView<const float> from, MatView<float> to, Range heads) {
  const int64_t shared = std::min(from.cols, to.cols);
  for (int64_t h = heads.begin; h < heads.end; ++h) {
    std::copy_n(from.row(h), shared, to.row(h));
    std::fill(to.row(h) + shared, to.row(h) + to.cols, 0.0f);
  }
}

}  // namespace

absl::StatusOr<Attention> Attention::Load(const WeightLoader& loader, const GqaSpec& spec, ThreadPool& pool) {
  Attention attention;
  attention.heads_ = {
      .heads = spec.heads,
      .kv_heads = spec.kv_heads,
      .head_dim = CachedHeadDim(spec.head_dim),
      .scale = static_cast<float>(spec.scale.value_or(1.0 / std::sqrt(static_cast<double>(spec.head_dim)))),
      .softcap = spec.score_softcap,
      .sinks = {}};
  attention.head_dim_ = spec.head_dim;
  attention.output_gate_ = spec.output_gate;
  attention.pairing_ = spec.rope.pairing;
  attention.rotary_ = spec.rope.dims;
  attention.temperature_ = spec.temperature;
  attention.window_ = spec.window.value_or(std::numeric_limits<int64_t>::max());
  attention.values_from_keys_ = spec.values_from_keys;
  ASSIGN_OR_RETURN(std::vector<Linear> qkv,
                   spec.values_from_keys ? Linear::LoadTogether(loader, {&spec.q, &spec.k}, pool)
                                         : Linear::LoadTogether(loader, {&spec.q, &spec.k, &spec.v}, pool));
  attention.q_ = std::move(qkv[0]);
  attention.k_ = std::move(qkv[1]);
  if (!spec.values_from_keys) attention.v_ = std::move(qkv[2]);
  ASSIGN_OR_RETURN(attention.o_, Linear::Load(loader, spec.o, pool));
  if (spec.q_norm) {
    ASSIGN_OR_RETURN(attention.q_norm_, Norm::Load(loader, *spec.q_norm));
  }
  if (spec.k_norm) {
    ASSIGN_OR_RETURN(attention.k_norm_, Norm::Load(loader, *spec.k_norm));
  }
  if (spec.v_norm_eps) attention.v_norm_ = Norm::Weightless(spec.head_dim, *spec.v_norm_eps);
  if (spec.sinks) {
    ASSIGN_OR_RETURN(attention.heads_.sinks, loader.read_vector(*spec.sinks));
  }
  return attention;
}

int64_t Attention::bytes() const {
  // v_norm_ has no weights.
  return q_.bytes() + k_.bytes() + v_.bytes() + o_.bytes() + (q_norm_ ? q_norm_->bytes() : 0) +
         (k_norm_ ? k_norm_->bytes() : 0) + static_cast<int64_t>(heads_.sinks.size() * sizeof(float));
}

absl::Status Attention::forward(const ComputeContext& context, LinearInput& input, const MixerStep& step,
                                MatView<float> y) const {
  const ArenaScope scope(*context.arena);
  Arena& arena = *context.arena;
  const int64_t tokens = input.rows();
  const int64_t q_cols = int64_t{heads_.heads} * head_dim_;
  const MatView<float> asked =
      arena.allocate_rows<float>(tokens, q_.rows());  // Gates beside queries, perhaps.
  HeadRows rows{output_gate_ ? arena.allocate_rows<float>(tokens, q_cols) : asked,
                arena.allocate_rows<float>(tokens, k_.rows()), arena.allocate_rows<float>(tokens, k_.rows())};
  PhaseTimer timer(context, StepPhase::kQkv);
  const LinearTask projections[] = {
      {&q_, asked, input.all_rows()}, {&k_, rows.k, input.all_rows()}, {&v_, rows.v, input.all_rows()}};
  RETURN_IF_ERROR(RunLinears(context, input, std::span(projections).first(values_from_keys_ ? 2 : 3)));

  timer.next(StepPhase::kRopeAppend);
  const MatView<float> gated =
      AsHeads(asked, heads_.heads);  // A query and its gate per row, where there are.
  context.for_rows(tokens, q_.rows() + k_.rows(), [&](Range part) {
    if (output_gate_) {
      CopyHeads(gated.cols_between(0, head_dim_), AsHeads(rows.q, heads_.heads),
                {part.begin * heads_.heads, part.end * heads_.heads});
    }
    apply_rope(context, rows, step.rope, part);
    ApplyTemperature(temperature_, step.places.positions, rows.q, part);
  });
  rows = {padded(context, rows.q, heads_.heads), padded(context, rows.k, heads_.kv_heads),
          padded(context, rows.v, heads_.kv_heads)};
  const KvLayerView cache = heads_.cache_of(step);
  AppendKeysAndValues(context, cache, step, rows.k, rows.v);

  timer.next(StepPhase::kAttention);
  MatView<float> out = arena.allocate_rows<float>(tokens, rows.q.cols);
  const std::span<AttentionRow> queries = arena.allocate<AttentionRow>(tokens);
  for (int64_t t = 0; t < tokens; ++t) {
    const auto i = static_cast<size_t>(t);
    const int64_t end = step.places.positions[i] + 1;
    queries[i] = {.query = rows.q.row(t),
                  .out = out.row(t),
                  .blocks = step.places.block_tables[i],
                  .positions = {end > window_ ? end - window_ : 0, end}};
  }
  heads_.attend(context, cache, queries);
  if (heads_.head_dim != head_dim_) {
    const MatView<float> compact = arena.allocate_rows<float>(tokens, q_cols);
    CopyHeads(AsHeads(out, heads_.heads), AsHeads(compact, heads_.heads), {0, tokens * heads_.heads});
    out = compact;
  }
  timer.next(StepPhase::kAttentionOut);
  if (output_gate_) {
    const MatView<float> heads = AsHeads(out, heads_.heads);
    context.for_rows(heads.rows, heads.cols, [&](Range part) {
      context.kernels->sigmoid_mul(
          {.gate = gated.cols_between(head_dim_, 2 * head_dim_), .up = heads, .out = heads, .rows = part});
    });
  }
  LinearInput attended(out);
  const LinearTask output[] = {{&o_, y, attended.all_rows()}};
  return RunLinears(context, attended, output);
}

void Attention::apply_rope(const ComputeContext& context, const HeadRows& rows, const RopeRows& rope,
                           Range part) const {
  const Kernels& kernels = *context.kernels;
  const auto apply = [&](MatView<float> x, const std::optional<Norm>& norm) {
    if (!norm) return;
    const auto spans = static_cast<int>(x.cols / norm->size());  // Heads, or one over all of them.
    const MatView<float> spanned = AsHeads(x, spans);
    norm->apply(kernels, spanned, spanned, {part.begin * spans, part.end * spans});
  };
  const auto rotate = [&](MatView<float> x, int heads, const std::optional<Norm>& norm) {
    apply(x, norm);
    if (rotary_ == 0) return;
    kernels.rope({.x = x,
                  .heads = heads,
                  .head_dim = head_dim_,
                  .rotary = rotary_,
                  .cosine = rope.cosine,
                  .sine = rope.sine,
                  .pairing = pairing_,
                  .rows = part});
  };
  for (int64_t t = part.begin; values_from_keys_ && t < part.end; ++t) {
    std::copy_n(rows.k.row(t), rows.k.cols, rows.v.row(t));
  }
  apply(rows.v, v_norm_);
  rotate(rows.q, heads_.heads, q_norm_);
  rotate(rows.k, heads_.kv_heads, k_norm_);
}

MatView<float> Attention::padded(const ComputeContext& context, MatView<float> rows, int heads) const {
  if (heads_.head_dim == head_dim_) return rows;
  const MatView<float> wide =
      context.arena->allocate_rows<float>(rows.rows, int64_t{heads} * heads_.head_dim);
  CopyHeads(AsHeads(rows, heads), AsHeads(wide, heads), {0, rows.rows * heads});
  return wide;
}

}  // namespace shoal
