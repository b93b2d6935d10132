#include "compute/blocks/attention_heads.h"

#include <algorithm>
#include <atomic>

#include "base/check.h"
#include "compute/row_ops.h"
#include "kv/kv_cache.h"
#include "numeric/transcendental.h"

namespace shoal {
namespace {

/// Rows are handed to the kernel in multiples of this many: they read the cache together.
constexpr int64_t kRowsPerPass = 32;

}  // namespace

void AppendToCache(const ComputeContext& context, const KvLayerView& cache, const MixerStep& step,
                   MatView<const float> keys, MatView<const float> values) {
  const RowPlaces& places = step.places;
  context.for_rows(keys.rows, keys.cols + values.cols, [&](Range part) {
    int64_t count = 0;
    for (int64_t t = part.begin; t < part.end; ++t) {
      const int64_t position = places.positions[static_cast<size_t>(t)];
      count += context.kernels->append_kv(
          {.cache = cache,
           .block = places.block_tables[static_cast<size_t>(t)][position / kBlockPositions],
           .position = position,
           .key = keys.row(t),
           .value = values.data == nullptr ? nullptr : values.row(t),
           .kv_heads = {0, cache.kv_heads}});
    }
    if (count > 0) step.saturated.fetch_add(count, std::memory_order_relaxed);
  });
}

void ApplyTemperature(const QueryTemperature& temperature, std::span<const int64_t> positions,
                      MatView<float> queries, Range rows) {
  if (temperature.beta == 0) return;
  for (int64_t t = rows.begin; t < rows.end; ++t) {
    const int64_t intervals = (positions[static_cast<size_t>(t)] + temperature.shift) / temperature.interval;
    if (intervals == 0) continue;  // ln 1 = 0.
    const double factor = 1 + temperature.beta * Log(1 + static_cast<double>(intervals));
    Multiply(queries, static_cast<float>(factor), {t, t + 1});
  }
}

void ApplyHeadGates(const ComputeContext& context, MatView<const float> gates, MatView<float> heads) {
  const ArenaScope scope(*context.arena);
  const bool one_each = gates.cols == 1 && heads.cols > 1;
  MatView<float> spread;
  if (one_each) spread = context.arena->allocate_rows<float>(heads.rows, heads.cols);
  context.for_rows(heads.rows, heads.cols, [&](Range part) {
    for (int64_t r = part.begin; one_each && r < part.end; ++r) {
      std::fill_n(spread.row(r), spread.cols, gates.at(r, 0));
    }
    context.kernels->sigmoid_mul(
        {.gate = one_each ? MatView<const float>(spread) : gates, .up = heads, .out = heads, .rows = part});
  });
}

KvLayerView AttentionHeads::cache_of(const MixerStep& step) const {
  return {.keys = step.cache.keys(step.layer, BlockId{0}),
          .values = step.cache.values(step.layer, BlockId{0}),
          .block_stride = step.cache.block_bytes(step.layer),
          .kv_heads = kv_heads,
          .head_dim = head_dim,
          .dtype = step.cache.dtype()};
}

void AttentionHeads::attend_to_copies(const ComputeContext& context, DType dtype, int64_t blocks,
                                      absl::FunctionRef<void(int64_t, const BlockOfCopies&)> fill,
                                      std::span<const AttentionRow> rows) const {
  SHOAL_CHECK(kv_heads == 1 && dtype != DType::kI8);
  const ArenaScope scope(*context.arena);
  const int64_t half = KvBlockBytes(1, head_dim, dtype);
  std::byte* const memory = context.arena->allocate_bytes(blocks * 2 * half);
  context.for_rows(blocks, kBlockPositions * head_dim, [&](Range part) {
    for (int64_t b = part.begin; b < part.end; ++b) {
      std::byte* const keys = memory + b * 2 * half;
      fill(b, {.keys = keys, .values = keys + half, .element_bytes = DTypeBytes(dtype)});
    }
  });
  attend(context,
         {.keys = memory,
          .values = memory + half,
          .block_stride = 2 * half,
          .kv_heads = 1,
          .head_dim = head_dim,
          .dtype = dtype},
         rows);
}

void AttentionHeads::attend(const ComputeContext& context, const KvLayerView& cache,
                            std::span<const AttentionRow> rows) const {
  const ArenaScope scope(*context.arena);
  Arena& arena = *context.arena;
  int64_t positions = 0;
  for (const AttentionRow& row : rows) positions += row.positions.size();
  const int parts = context.threads_for(2 * positions * heads * head_dim);
  const std::span<AttentionCut> cuts = arena.allocate<AttentionCut>(parts + 1);
  CutAttention(rows, kv_heads, cuts);
  // partials[i]: of the row that cuts[i] goes through; several cuts may go through one row.
  const std::span<float*> partials = arena.allocate<float*>(parts + 1);
  for (size_t i = 0; i < cuts.size(); ++i) {
    if (!cuts[i].inside) {
      partials[i] = nullptr;
    } else if (i > 0 && cuts[i - 1].inside && cuts[i - 1].row == cuts[i].row) {
      partials[i] = partials[i - 1];
    } else {
      const Range splits = AttentionSplits(rows[static_cast<size_t>(cuts[i].row)].positions);
      partials[i] = arena.allocate<float>(splits.size() * heads * AttentionPartialFloats(head_dim)).data();
    }
  }
  const auto attend_part = [&](Range part) {
    for (auto i = static_cast<size_t>(part.begin); i < static_cast<size_t>(part.end); ++i) {
      attend_between(context, cache, rows, {cuts[i], partials[i]}, {cuts[i + 1], partials[i + 1]});
    }
  };
  if (parts == 1) return attend_part({0, 1});
  context.pool->run_ranges(parts, 1, attend_part);
  for (size_t i = 0; i < cuts.size(); ++i) {
    if (partials[i] == nullptr || (i > 0 && partials[i] == partials[i - 1])) continue;
    const AttentionRow& row = rows[static_cast<size_t>(cuts[i].row)];
    const int64_t splits = AttentionSplits(row.positions).size();
    context.for_ranges(heads, splits * heads * head_dim, [&](Range part) {
      context.kernels->attention_merge({.partials = partials[i],
                                        .splits = splits,
                                        .heads = heads,
                                        .head_dim = head_dim,
                                        .sinks = sinks.empty() ? nullptr : sinks.data(),
                                        .out = row.out,
                                        .head_range = part});
    });
  }
}

void AttentionHeads::attend_rows(const ComputeContext& context, const KvLayerView& cache,
                                 std::span<const AttentionRow> rows, Range range) const {
  while (!range.empty()) {
    Range part{range.begin, range.begin};
    for (int64_t multiplies = 0; part.end < range.end && multiplies < kMultipliesPerProgress;) {
      const int64_t end = std::min(part.end + kRowsPerPass, range.end);
      for (; part.end < end; ++part.end) {
        multiplies += 2 * rows[static_cast<size_t>(part.end)].positions.size() * heads * head_dim;
      }
    }
    context.kernels->attention({.cache = cache,
                                .group = heads / kv_heads,
                                .scale = scale,
                                .softcap = softcap,
                                .sinks = sinks.empty() ? nullptr : sinks.data(),
                                .rows = rows.data(),
                                .row_range = part,
                                .kv_heads = {0, kv_heads}});
    range.begin = part.end;
    if (!range.empty()) context.pool->note_progress();
  }
}

void AttentionHeads::attend_between(const ComputeContext& context, const KvLayerView& cache,
                                    std::span<const AttentionRow> rows, const CutRow& begin,
                                    const CutRow& end) const {
  const auto cells = [&](const AttentionCut& from, const AttentionCut& to, float* partials) {
    attend_cells(*context.kernels, cache, rows[static_cast<size_t>(from.row)], from, to, partials);
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
  attend_rows(context, cache, rows, {first, std::max(first, end.cut.row)});
  if (end.cut.inside) {
    const Range splits = AttentionSplits(rows[static_cast<size_t>(end.cut.row)].positions);
    cells({.row = end.cut.row, .split = splits.begin}, end.cut, end.partials);
  }
}

void AttentionHeads::attend_cells(const Kernels& kernels, const KvLayerView& cache, const AttentionRow& row,
                                  const AttentionCut& begin, const AttentionCut& end, float* partials) const {
  const auto attend = [&](Range splits, Range of_kv_heads) {
    if (splits.empty() || of_kv_heads.empty()) return;
    kernels.attention_partial({.cache = cache,
                               .group = heads / kv_heads,
                               .scale = scale,
                               .softcap = softcap,
                               .row = row,
                               .splits = splits,
                               .kv_heads = of_kv_heads,
                               .partials = partials});
  };
  if (begin.split == end.split) return attend({begin.split, begin.split + 1}, {begin.kv_head, end.kv_head});
  int64_t first = begin.split;
  if (begin.kv_head > 0) attend({first, first + 1}, {begin.kv_head, kv_heads});
  if (begin.kv_head > 0) ++first;
  attend({first, end.split}, {0, kv_heads});
  attend({end.split, end.split + 1}, {0, end.kv_head});
}

}  // namespace shoal
