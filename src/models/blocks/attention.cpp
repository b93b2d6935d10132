#include "models/blocks/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "base/status.h"
#include "models/step_profile.h"

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

absl::StatusOr<Attention> Attention::Load(const WeightReader& reader, const GqaSpec& spec, ThreadPool& pool) {
  Attention attention;
  attention.heads_ = spec.heads;
  attention.kv_heads_ = spec.kv_heads;
  attention.head_dim_ = spec.head_dim;
  attention.padded_dim_ = CachedHeadDim(spec.head_dim);
  attention.scale_ = static_cast<float>(1.0 / std::sqrt(static_cast<double>(spec.head_dim)));
  attention.rotary_ = spec.rope.dims;
  attention.window_ = spec.window.value_or(std::numeric_limits<int64_t>::max());
  ASSIGN_OR_RETURN(std::vector<Linear> qkv, Linear::LoadTogether(reader, {&spec.q, &spec.k, &spec.v}, pool));
  attention.q_ = std::move(qkv[0]);
  attention.k_ = std::move(qkv[1]);
  attention.v_ = std::move(qkv[2]);
  ASSIGN_OR_RETURN(attention.o_, Linear::Load(reader, spec.o, pool));
  if (spec.q_norm) {
    ASSIGN_OR_RETURN(attention.q_norm_, Norm::Load(reader, *spec.q_norm));
  }
  if (spec.k_norm) {
    ASSIGN_OR_RETURN(attention.k_norm_, Norm::Load(reader, *spec.k_norm));
  }
  return attention;
}

int64_t Attention::bytes() const {
  return q_.bytes() + k_.bytes() + v_.bytes() + o_.bytes() + (q_norm_ ? q_norm_->bytes() : 0) +
         (k_norm_ ? k_norm_->bytes() : 0);
}

absl::Status Attention::forward(const ComputeContext& context, LinearInput& input, const RowPlaces& places,
                                const RopeRows& rope, const KvLayerView& cache, MatView<float> y,
                                std::atomic<int64_t>& saturated) const {
  const ArenaScope scope(*context.arena);
  Arena& arena = *context.arena;
  const int64_t tokens = input.rows();
  HeadRows rows{arena.allocate_rows<float>(tokens, q_.rows()), arena.allocate_rows<float>(tokens, k_.rows()),
                arena.allocate_rows<float>(tokens, v_.rows())};
  PartTimer timer(context, StepPart::kQkv);
  const LinearTask projections[] = {
      {&q_, rows.q, input.all_rows()}, {&k_, rows.k, input.all_rows()}, {&v_, rows.v, input.all_rows()}};
  RETURN_IF_ERROR(RunLinears(context, input, projections));

  timer.next(StepPart::kRopeAppend);
  context.for_rows(tokens, q_.rows() + k_.rows(),
                   [&](Range part) { norm_and_turn(context, rows, rope, part); });
  rows = {padded(context, rows.q, heads_), padded(context, rows.k, kv_heads_),
          padded(context, rows.v, kv_heads_)};
  context.for_rows(tokens, 2 * rows.k.cols, [&](Range part) {
    int64_t count = 0;
    for (int64_t t = part.begin; t < part.end; ++t) {
      const int64_t position = places.positions[static_cast<size_t>(t)];
      count += context.kernels->append_kv(
          {.cache = cache,
           .block = places.block_tables[static_cast<size_t>(t)][position / kBlockPositions],
           .position = position,
           .key = rows.k.row(t),
           .value = rows.v.row(t),
           .kv_heads = {0, kv_heads_}});
    }
    if (count > 0) saturated.fetch_add(count, std::memory_order_relaxed);
  });

  timer.next(StepPart::kAttention);
  MatView<float> out = arena.allocate_rows<float>(tokens, rows.q.cols);
  const std::span<AttentionRow> queries = arena.allocate<AttentionRow>(tokens);
  for (int64_t t = 0; t < tokens; ++t) {
    const auto i = static_cast<size_t>(t);
    const int64_t end = places.positions[i] + 1;
    queries[i] = {.query = rows.q.row(t),
                  .out = out.row(t),
                  .blocks = places.block_tables[i],
                  .positions = {end > window_ ? end - window_ : 0, end}};
  }
  attend(context, cache, queries);
  if (padded_dim_ != head_dim_) {
    const MatView<float> compact = arena.allocate_rows<float>(tokens, q_.rows());
    CopyHeads(AsHeads(out, heads_), AsHeads(compact, heads_), {0, tokens * heads_});
    out = compact;
  }
  timer.next(StepPart::kAttentionOut);
  LinearInput attended(out);
  const LinearTask output[] = {{&o_, y, attended.all_rows()}};
  return RunLinears(context, attended, output);
}

void Attention::norm_and_turn(const ComputeContext& context, const HeadRows& rows, const RopeRows& rope,
                              Range part) const {
  const Kernels& kernels = *context.kernels;
  const auto turn = [&](MatView<float> x, int heads, const std::optional<Norm>& norm) {
    if (norm) {
      const auto spans = static_cast<int>(x.cols / norm->size());  // Heads, or one over all of them.
      const MatView<float> spanned = AsHeads(x, spans);
      norm->apply(kernels, spanned, spanned, {part.begin * spans, part.end * spans});
    }
    kernels.rope({.x = x,
                  .heads = heads,
                  .head_dim = head_dim_,
                  .rotary = rotary_,
                  .cosine = rope.cosine,
                  .sine = rope.sine,
                  .pairing = RopePairing::kHalfSplit,
                  .rows = part});
  };
  turn(rows.q, heads_, q_norm_);
  turn(rows.k, kv_heads_, k_norm_);
}

MatView<float> Attention::padded(const ComputeContext& context, MatView<float> rows, int heads) const {
  if (padded_dim_ == head_dim_) return rows;
  const MatView<float> wide = context.arena->allocate_rows<float>(rows.rows, int64_t{heads} * padded_dim_);
  CopyHeads(AsHeads(rows, heads), AsHeads(wide, heads), {0, rows.rows * heads});
  return wide;
}

void Attention::attend(const ComputeContext& context, const KvLayerView& cache,
                       std::span<const AttentionRow> rows) const {
  const ArenaScope scope(*context.arena);
  Arena& arena = *context.arena;
  int64_t positions = 0;
  for (const AttentionRow& row : rows) positions += row.positions.size();
  const int parts = context.threads_for(2 * positions * heads_ * padded_dim_);
  const std::span<AttentionCut> cuts = arena.allocate<AttentionCut>(parts + 1);
  CutAttention(rows, kv_heads_, cuts);
  // partials[i]: of the row that cuts[i] goes through; several cuts may go through one row.
  const std::span<float*> partials = arena.allocate<float*>(parts + 1);
  for (size_t i = 0; i < cuts.size(); ++i) {
    if (!cuts[i].inside) {
      partials[i] = nullptr;
    } else if (i > 0 && cuts[i - 1].inside && cuts[i - 1].row == cuts[i].row) {
      partials[i] = partials[i - 1];
    } else {
      const Range splits = AttentionSplits(rows[static_cast<size_t>(cuts[i].row)].positions);
      partials[i] =
          arena.allocate<float>(splits.size() * heads_ * AttentionPartialFloats(padded_dim_)).data();
    }
  }
  const auto attend_part = [&](Range part) {
    for (auto i = static_cast<size_t>(part.begin); i < static_cast<size_t>(part.end); ++i) {
      attend_between(*context.kernels, cache, rows, {cuts[i], partials[i]}, {cuts[i + 1], partials[i + 1]});
    }
  };
  if (parts == 1) return attend_part({0, 1});
  context.pool->run_parts(parts, 1, attend_part);
  for (size_t i = 0; i < cuts.size(); ++i) {
    if (partials[i] == nullptr || (i > 0 && partials[i] == partials[i - 1])) continue;
    const AttentionRow& row = rows[static_cast<size_t>(cuts[i].row)];
    const int64_t splits = AttentionSplits(row.positions).size();
    context.for_parts(heads_, splits * heads_ * padded_dim_, [&](Range heads) {
      context.kernels->attention_merge({.partials = partials[i],
                                        .splits = splits,
                                        .heads = heads_,
                                        .head_dim = padded_dim_,
                                        .out = row.out,
                                        .head_range = heads});
    });
  }
}

void Attention::attend_between(const Kernels& kernels, const KvLayerView& cache,
                               std::span<const AttentionRow> rows, const CutRow& begin,
                               const CutRow& end) const {
  const auto cells = [&](const AttentionCut& from, const AttentionCut& to, float* partials) {
    attend_cells(kernels, cache, rows[static_cast<size_t>(from.row)], from, to, partials);
  };
  if (begin.cut.inside && end.cut.inside && begin.cut.row == end.cut.row) {
    return cells(begin.cut, end.cut, begin.partials);
  }
  int64_t first = begin.cut.row;
  if (begin.cut.inside) {
    const Range splits = AttentionSplits(rows[static_cast<size_t>(first)].positions);
    cells(begin.cut, {.row = first, .split = splits.end}, begin.partials);
    ++first;
  }
  if (first < end.cut.row) {
    kernels.attention({.cache = cache,
                       .group = heads_ / kv_heads_,
                       .scale = scale_,
                       .rows = rows.data(),
                       .row_range = {first, end.cut.row},
                       .kv_heads = {0, kv_heads_}});
  }
  if (end.cut.inside) {
    const Range splits = AttentionSplits(rows[static_cast<size_t>(end.cut.row)].positions);
    cells({.row = end.cut.row, .split = splits.begin}, end.cut, end.partials);
  }
}

void Attention::attend_cells(const Kernels& kernels, const KvLayerView& cache, const AttentionRow& row,
                             const AttentionCut& begin, const AttentionCut& end, float* partials) const {
  const auto attend = [&](Range splits, Range kv_heads) {
    if (splits.empty() || kv_heads.empty()) return;
    kernels.attention_partial({.cache = cache,
                               .group = heads_ / kv_heads_,
                               .scale = scale_,
                               .row = row,
                               .splits = splits,
                               .kv_heads = kv_heads,
                               .partials = partials});
  };
  if (begin.split == end.split) return attend({begin.split, begin.split + 1}, {begin.kv_head, end.kv_head});
  int64_t first = begin.split;
  if (begin.kv_head > 0) attend({first, first + 1}, {begin.kv_head, kv_heads_});
  if (begin.kv_head > 0) ++first;
  attend({first, end.split}, {0, kv_heads_});
  attend({end.split, end.split + 1}, {0, end.kv_head});
}

}  // namespace shoal
