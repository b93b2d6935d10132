#include "compute/blocks/indexer.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "compute/blocks/attention_heads.h"
#include "compute/row_ops.h"

namespace shoal {
namespace {

/// Scores that are held at once, 16 MiB: those of a row at least.
constexpr int64_t kScoresAtOnce = int64_t{1} << 22;
/// Positions that a thread scores at a time.
constexpr int64_t kScoreChunk = 512;

int64_t ChunksOf(int64_t positions) { return (positions + kScoreChunk - 1) / kScoreChunk; }

}  // namespace

absl::StatusOr<Indexer> Indexer::Load(const WeightLoader& loader, const IndexerSpec& spec, int rotary,
                                      Linears linears) {
  Indexer indexer;
  indexer.heads_ = spec.heads;
  indexer.dim_ = spec.dim;
  indexer.rotary_ = rotary;
  indexer.pairing_ = spec.pairing;
  indexer.linears_ = std::move(linears);
  ASSIGN_OR_RETURN(indexer.q_norm_, Norm::LoadIfAny(loader, spec.q_norm));
  ASSIGN_OR_RETURN(indexer.k_norm_, Norm::Load(loader, spec.k_norm));
  return indexer;
}

int64_t Indexer::bytes() const {
  return linears_.q.bytes() + linears_.k.bytes() + (linears_.weights ? linears_.weights->bytes() : 0) +
         (q_norm_ ? q_norm_->bytes() : 0) + k_norm_.bytes();
}

KvLayerView Indexer::keys_of(const MixerStep& step) const {
  return {.keys = step.cache.index_keys(step.layer, BlockId{0}),
          .values = nullptr,
          .block_stride = step.cache.block_bytes(step.layer),
          .kv_heads = 1,
          .head_dim = dim_,
          .dtype = step.cache.dtype()};
}

void Indexer::rotate(const ComputeContext& context, MatView<float> x, int heads, const RopeRows& rope,
                     Range rows) const {
  if (rotary_ == 0) return;
  context.kernels->rope({.x = x,
                         .heads = heads,
                         .head_dim = dim_,
                         .rotary = rotary_,
                         .cosine = rope.cosine,
                         .sine = rope.sine,
                         .pairing = pairing_,
                         .rows = rows});
}

void Indexer::append(const ComputeContext& context, MatView<float> keys, const MixerStep& step) const {
  SHOAL_CHECK(step.cache.dtype() != DType::kI8);  // Refused with the plan.
  context.for_rows(keys.rows, keys.cols, [&](Range part) {
    k_norm_.apply(*context.kernels, keys, keys, part);
    rotate(context, keys, 1, step.rope, part);
  });
  AppendToCache(context, keys_of(step), step, keys, {});
}

void Indexer::prepare(const ComputeContext& context, const Queries& queries, const RopeRows& rope) const {
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(int64_t{heads_} * dim_)));
  context.for_rows(queries.q.rows, queries.q.cols, [&](Range part) {
    if (q_norm_) {
      const MatView<float> heads(queries.q.data, queries.q.rows * heads_, dim_);
      q_norm_->apply(*context.kernels, heads, heads, {part.begin * heads_, part.end * heads_});
    }
    rotate(context, queries.q, heads_, rope, part);
    if (queries.weights.data != nullptr) Multiply(queries.weights, scale, part);
  });
}

/// As many of the rows as fit, with memory for their scores.
std::span<const Indexer::ScoredRow> Indexer::place_scores(Arena& arena, const MixerStep& step,
                                                          std::span<const int64_t> rows) const {
  const std::span<ScoredRow> placed = arena.allocate<ScoredRow>(std::ssize(rows));
  int64_t held = 0;
  int64_t chunks = 0;
  size_t count = 0;
  for (; count < rows.size(); ++count) {
    const int64_t positions = step.places.positions[static_cast<size_t>(rows[count])] + 1;
    held += score_rows() * positions;
    if (count > 0 && held > kScoresAtOnce) break;
    placed[count] = {rows[count], chunks, arena.allocate_rows<float>(score_rows(), positions)};
    chunks += ChunksOf(positions);
  }
  return placed.first(count);
}

void Indexer::score(const ComputeContext& context, const Queries& prepared, const MixerStep& step,
                    std::span<const ScoredRow> rows) const {
  const KvLayerView keys = keys_of(step);
  const int64_t chunks = rows.back().first_chunk + ChunksOf(rows.back().scores.cols);
  context.for_ranges(chunks, chunks * kScoreChunk * heads_ * dim_, [&](Range part) {
    auto row = std::ranges::upper_bound(rows, part.begin, {}, &ScoredRow::first_chunk) - 1;
    for (int64_t chunk = part.begin; chunk < part.end; ++chunk) {
      if (row + 1 != rows.end() && chunk == (row + 1)->first_chunk) ++row;
      const int64_t begin = (chunk - row->first_chunk) * kScoreChunk;
      const bool weighs = prepared.weights.data != nullptr;
      context.kernels->index_scores({.keys = keys,
                                     .blocks = step.places.block_tables[static_cast<size_t>(row->t)],
                                     .query = prepared.q.row(row->t),
                                     .heads = heads_,
                                     .weights = weighs ? prepared.weights.row(row->t) : nullptr,
                                     .positions = {begin, std::min(begin + kScoreChunk, row->scores.cols)},
                                     .scores = row->scores});
      if (chunk + 1 < part.end) context.pool->note_progress();
    }
  });
}

absl::Status Indexer::for_scores(const ComputeContext& context, const Queries& prepared,
                                 const MixerStep& step, std::span<const int64_t> rows, Choose choose) const {
  constexpr int64_t kCostOfChoice = 8;  // Of a score, in values that a plain pass would handle.
  std::atomic<bool> ordered = true;
  for (size_t first = 0; first < rows.size();) {
    const ArenaScope scope(*context.arena);
    const std::span<const ScoredRow> scored = place_scores(*context.arena, step, rows.subspan(first));
    score(context, prepared, step, scored);
    int64_t values = 0;
    for (const ScoredRow& row : scored) values = std::max(values, row.scores.rows * row.scores.cols);
    context.for_rows(std::ssize(scored), values * kCostOfChoice, [&](Range part) {
      for (int64_t i = part.begin; i < part.end; ++i) {
        const bool numbers = choose(static_cast<int64_t>(first) + i, scored[static_cast<size_t>(i)].scores);
        if (!numbers) ordered.store(false, std::memory_order_relaxed);
      }
    });
    first += scored.size();
  }
  return ordered ? absl::OkStatus() : OutOfRange("a score of the indexer is not a number");
}

}  // namespace shoal
