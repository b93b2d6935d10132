#include "compute/blocks/pooled_attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "compute/blocks/pick_top.h"
#include "compute/row_ops.h"
#include "compute/step_profile.h"
#include "kv/kv_cache.h"
#include "numeric/affine.h"
#include "numeric/transcendental.h"

namespace shoal {
namespace {

/// Copies and scores that are held at once: of a row at least.
constexpr int64_t kHeldBytes = int64_t{32} << 20;
constexpr int64_t kEntriesPerTile = 256;

/// Values [begin, begin + out.size()) of a position, which lie in the values of the view's heads first, then in their
/// keys.
void ReadPooled(const KvLayerView& view, BlockId block, int64_t position, int64_t begin,
                std::span<float> out) {
  const int64_t index = position % kBlockPositions;
  const int64_t in_values = view.kv_heads * view.head_dim;
  const std::byte* keys = view.keys + block.value * view.block_stride;
  const std::byte* values = view.values + block.value * view.block_stride;
  for (size_t i = 0; i < out.size(); ++i) {
    const int64_t at = begin + static_cast<int64_t>(i);
    if (at < in_values) {
      const int64_t row = at / view.head_dim * kBlockPositions + index;
      out[i] = LoadFloatWeight(values, view.dtype, row * view.head_dim + at % view.head_dim);
    } else {
      out[i] = LoadFloatWeight(keys, view.dtype, (at - in_values) * kBlockPositions + index);
    }
  }
}

/// The dot product in eight chains of every eighth element, added up in a fixed order.
float DotOfEight(const float* a, const float* b, int64_t size) {
  float lanes[8] = {};
  int64_t i = 0;
  for (; i + 8 <= size; i += 8) {
    for (int64_t l = 0; l < 8; ++l) lanes[l] += a[i + l] * b[i + l];
  }
  for (; i < size; ++i) lanes[i % 8] += a[i] * b[i];
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

/// y of group g = groups[g] (x of group g), all in one piece of work. x and y: [G * T, K or N], a group's rows together.
absl::Status RunGroups(const ComputeContext& context, const std::vector<Linear>& groups,
                       MatView<const float> x, MatView<float> y) {
  const auto count = static_cast<int64_t>(groups.size());
  const int64_t tokens = x.rows / count;
  const std::span<LinearTask> tasks = context.arena->allocate<LinearTask>(count);
  for (int64_t g = 0; g < count; ++g) {
    const Range rows{g * tokens, (g + 1) * tokens};
    tasks[static_cast<size_t>(g)] = {&groups[static_cast<size_t>(g)], y.rows_between(rows.begin, rows.end),
                                     rows};
  }
  LinearInput input(x);
  return RunLinears(context, input, tasks);
}

/// Heads of `from_dim` values each from columns of `from` to heads of `to_dim`, of which what is more is 0.
void CopyToHeads(MatView<const float> from, int64_t from_dim, MatView<float> to, int64_t to_dim, Range rows) {
  const int64_t copied = std::min(from_dim, to_dim);
  for (int64_t t = rows.begin; t < rows.end; ++t) {
    for (int64_t h = 0; h * to_dim < to.cols; ++h) {
      std::copy_n(from.row(t) + h * from_dim, copied, to.row(t) + h * to_dim);
      std::fill_n(to.row(t) + h * to_dim + copied, to_dim - copied, 0.0f);
    }
  }
}

/// A block of positions or entries that are copied one behind the other: element i is the value at positions[i].
struct GatheredBlock {
  const std::byte* sources[kBlockPositions];
  int64_t count = 0;
};

/// What is copied is not looked at: elements of 2 or 4 bytes. Behind `count` the last one is repeated, which no row sees.
template <typename Element>
void CopyGathered(const GatheredBlock& block, int64_t dim, std::byte* keys, std::byte* values) {
  auto* const key = reinterpret_cast<Element*>(keys);
  auto* const value = reinterpret_cast<Element*>(values);
  for (int64_t j = 0; j < kBlockPositions; ++j) {
    const auto* source = reinterpret_cast<const Element*>(block.sources[std::min(j, block.count - 1)]);
    std::memcpy(value + j * dim, source, static_cast<size_t>(dim) * sizeof(Element));
    for (int64_t d = 0; d < dim; ++d) key[d * kBlockPositions + j] = source[d];
  }
}

/// The value of the view's first head at a position.
const std::byte* ValueAt(const KvLayerView& view, const BlockId* blocks, int64_t position) {
  return view.values + blocks[position / kBlockPositions].value * view.block_stride +
         position % kBlockPositions * view.head_dim * DTypeBytes(view.dtype);
}

}  // namespace

absl::StatusOr<PooledAttention::Pool> PooledAttention::Pool::Load(const WeightLoader& loader,
                                                                  const PoolSpec& spec, ThreadPool& pool) {
  Pool loaded{.ratio = spec.ratio, .dim = spec.dim, .overlaps = spec.overlaps};
  ASSIGN_OR_RETURN(std::vector<Linear> linears, Linear::LoadTogether(loader, {&spec.kv, &spec.gate}, pool));
  loaded.kv = std::move(linears[0]);
  loaded.gate = std::move(linears[1]);
  ASSIGN_OR_RETURN(loaded.bias, loader.read_vector(spec.bias));
  ASSIGN_OR_RETURN(loaded.norm, Norm::Load(loader, spec.norm));
  return loaded;
}

int64_t PooledAttention::Pool::bytes() const {
  return kv.bytes() + gate.bytes() + norm.bytes() + static_cast<int64_t>(bias.size() * sizeof(float));
}

absl::StatusOr<PooledAttention> PooledAttention::Load(const WeightLoader& loader,
                                                      const PooledAttentionSpec& spec, ThreadPool& pool) {
  PooledAttention attention;
  attention.heads_ = {.heads = spec.heads,
                      .kv_heads = 1,
                      .head_dim = spec.cached_head(),
                      .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(spec.head_dim))),
                      .softcap = 0,
                      .sinks = {}};
  attention.head_dim_ = spec.head_dim;
  attention.extra_heads_ = spec.extra_heads();
  attention.window_ = spec.window;
  attention.rotary_ = spec.rope.dims;
  attention.pairing_ = spec.rope.pairing;
  attention.table_ = MakeRopeTable(spec.rope);
  ASSIGN_OR_RETURN(std::vector<Linear> in, Linear::LoadTogether(loader, {&spec.q_a, &spec.kv}, pool));
  attention.q_a_ = std::move(in[0]);
  attention.kv_ = std::move(in[1]);
  ASSIGN_OR_RETURN(attention.q_norm_, Norm::Load(loader, spec.q_norm));
  ASSIGN_OR_RETURN(attention.q_, Linear::Load(loader, spec.q, pool));
  attention.head_norm_ = Norm::Weightless(spec.head_dim, spec.head_eps);
  ASSIGN_OR_RETURN(attention.kv_norm_, Norm::Load(loader, spec.kv_norm));
  ASSIGN_OR_RETURN(attention.heads_.sinks, loader.read_vector(spec.sinks));
  std::vector<const LinearSpec*> groups;
  for (const LinearSpec& group : spec.o_a) groups.push_back(&group);
  ASSIGN_OR_RETURN(attention.o_a_, Linear::LoadTogether(loader, groups, pool));
  ASSIGN_OR_RETURN(attention.o_b_, Linear::Load(loader, spec.o_b, pool));
  if (spec.pool) {
    ASSIGN_OR_RETURN(attention.pool_, Pool::Load(loader, *spec.pool, pool));
  }
  if (spec.indexer) {
    SHOAL_CHECK(spec.pool && spec.pool->ratio == spec.indexer->pool.ratio);
    Indexer& indexer = attention.indexer_.emplace();
    indexer.heads = spec.indexer->heads;
    indexer.dim = spec.indexer->dim;
    indexer.top = spec.indexer->top;
    ASSIGN_OR_RETURN(indexer.q, Linear::Load(loader, spec.indexer->q, pool));
    ASSIGN_OR_RETURN(indexer.weights, Linear::Load(loader, spec.indexer->weights, pool));
    ASSIGN_OR_RETURN(indexer.pool, Pool::Load(loader, spec.indexer->pool, pool));
  }
  attention.place_pools();
  return attention;
}

/// A head of entries, the indexer's entries, then all else.
void PooledAttention::place_pools() {
  if (!pool_) return;
  int64_t next = heads_.head_dim;
  if (indexer_) indexer_->pool.own_kv = std::exchange(next, next + indexer_->dim);
  for (Pool* pool : {&*pool_, indexer_ ? &indexer_->pool : nullptr}) {
    if (pool == nullptr) continue;
    pool->own_gate = std::exchange(next, next + pool->dim);
    if (!pool->overlaps) continue;
    pool->next_kv = std::exchange(next, next + pool->dim);
    pool->next_gate = std::exchange(next, next + pool->dim);
  }
  SHOAL_CHECK_LE(next, 2 * extra_heads_ * heads_.head_dim);
}

int64_t PooledAttention::bytes() const {
  int64_t bytes = q_a_.bytes() + q_.bytes() + kv_.bytes() + o_b_.bytes() + q_norm_.bytes() + kv_norm_.bytes();
  for (const Linear& group : o_a_) bytes += group.bytes();
  if (pool_) bytes += pool_->bytes();
  if (indexer_) bytes += indexer_->q.bytes() + indexer_->weights.bytes() + indexer_->pool.bytes();
  return bytes + static_cast<int64_t>(heads_.sinks.size() * sizeof(float));
}

KvLayerView PooledAttention::positions_of(const MixerStep& step) const {
  KvLayerView view = heads_.cache_of(step);
  view.block_stride = 2 * KvBlockBytes(1 + extra_heads_, heads_.head_dim, view.dtype);
  return view;
}

KvLayerView PooledAttention::pooled_of(const MixerStep& step) const {
  KvLayerView view = positions_of(step);
  const int64_t first = KvBlockBytes(1, heads_.head_dim, view.dtype);
  view.keys += first;
  view.values += first;
  view.kv_heads = extra_heads_;
  return view;
}

absl::Status PooledAttention::forward(const ComputeContext& context, LinearInput& input,
                                      const MixerStep& step, MatView<float> y) const {
  const ArenaScope scope(*context.arena);
  PhaseTimer timer(context, StepPhase::kQkv);
  ASSIGN_OR_RETURN(const Projected rows, project(context, input));
  timer.next(StepPhase::kRopeAppend);
  const HeadPlace head{heads_.head_dim, head_dim_};
  rotate(context, rows.q, head, step.rope);
  rotate(context, rows.key, head, step.rope);
  if (indexer_) rotate(context, rows.index_q, {indexer_->dim, indexer_->dim}, step.rope);
  append(context, step, rows);
  timer.next(StepPhase::kAttention);
  ASSIGN_OR_RETURN(const std::span<Entries> entries, pick(context, step, rows));
  const MatView<float> attended = context.arena->allocate_rows<float>(rows.q.rows, rows.q.cols);
  attend(context, step, rows.q, entries, attended);
  const MatView<float> back = context.arena->allocate_rows<float>(step.rope.sine.rows, step.rope.sine.cols);
  CopyRows(step.rope.sine, back, 0);
  Multiply(back, -1.0f, {0, back.rows});
  rotate(context, attended, head, {step.rope.cosine, back});
  timer.next(StepPhase::kAttentionOut);
  return give_out(context, attended, y);
}

absl::StatusOr<PooledAttention::Projected> PooledAttention::project(const ComputeContext& context,
                                                                    LinearInput& input) const {
  Arena& arena = *context.arena;
  const int64_t tokens = input.rows();
  const auto rows_of = [&](int64_t cols) { return arena.allocate_rows<float>(tokens, cols); };
  Projected out{.q = rows_of(int64_t{heads_.heads} * heads_.head_dim), .key = rows_of(heads_.head_dim)};
  const MatView<float> low = rows_of(q_a_.rows());
  const MatView<float> key = rows_of(kv_.rows());
  LinearTask tasks[7] = {{&q_a_, low, input.all_rows()}, {&kv_, key, input.all_rows()}};
  size_t count = 2;
  const auto add = [&](const Linear& linear) {
    const MatView<float> y = rows_of(linear.rows());
    tasks[count++] = {&linear, y, input.all_rows()};
    return y;
  };
  struct Made {
    const Pool* pool;
    MatView<float> kv, gate;
  };
  Made made[2] = {};
  size_t pools = 0;
  if (pool_) made[pools++] = {&*pool_, add(pool_->kv), add(pool_->gate)};
  if (indexer_) {
    made[pools++] = {&indexer_->pool, add(indexer_->pool.kv), add(indexer_->pool.gate)};
    out.index_weights = add(indexer_->weights);
  }
  RETURN_IF_ERROR(RunLinears(context, input, std::span(tasks).first(count)));
  if (pools > 0) out.pooled = rows_of(2 * extra_heads_ * heads_.head_dim);
  context.for_rows(tokens, key.cols + out.pooled.cols, [&](Range part) {
    kv_norm_.apply(*context.kernels, key, key, part);
    CopyToHeads(key, head_dim_, out.key, heads_.head_dim, part);
    if (pools > 0) FillRows(out.pooled, 0, part);
    for (const auto& [pool, kv, gate] : std::span(made).first(pools)) {
      const int64_t own = pool->overlaps ? pool->dim : 0;  // Behind what counts for the next entry.
      for (int64_t t = part.begin; t < part.end; ++t) {
        float* const row = out.pooled.row(t);
        std::copy_n(kv.row(t) + own, pool->dim, row + pool->own_kv);
        std::copy_n(gate.row(t) + own, pool->dim, row + pool->own_gate);
        if (!pool->overlaps) continue;
        std::copy_n(kv.row(t), pool->dim, row + pool->next_kv);
        std::copy_n(gate.row(t), pool->dim, row + pool->next_gate);
      }
    }
  });
  const MatView<float> q = rows_of(q_.rows());
  RETURN_IF_ERROR(project_queries(context, low, q, out));
  return out;
}

/// Of the latent of queries, `low`; q: room for them as they come.
absl::Status PooledAttention::project_queries(const ComputeContext& context, MatView<float> low,
                                              MatView<float> q, Projected& out) const {
  LinearInput normed(low);
  RETURN_IF_ERROR(normed.fill(context, q_.activation_group(context.activations),
                              [&](Range part) { q_norm_.apply(*context.kernels, low, low, part); }));
  LinearTask tasks[2] = {{&q_, q, normed.all_rows()}};
  if (indexer_) {
    out.index_q = context.arena->allocate_rows<float>(low.rows, indexer_->q.rows());
    tasks[1] = {&indexer_->q, out.index_q, normed.all_rows()};
  }
  RETURN_IF_ERROR(RunLinears(context, normed, std::span(tasks).first(indexer_ ? 2 : 1)));
  context.for_rows(q.rows, q.cols, [&](Range part) {
    const MatView<float> heads(q.data, q.rows * heads_.heads, head_dim_);
    head_norm_.apply(*context.kernels, heads, heads, {part.begin * heads_.heads, part.end * heads_.heads});
    CopyToHeads(q, head_dim_, out.q, heads_.head_dim, part);
  });
  return absl::OkStatus();
}

/// Rotates the last of every head's own dimensions.
void PooledAttention::rotate(const ComputeContext& context, MatView<float> x, HeadPlace head,
                             const RopeRows& rope) const {
  const int64_t begin = head.dim - rotary_;
  const MatView<float> from(x.data + begin, x.rows, x.cols - begin, x.stride);
  context.for_rows(x.rows, x.cols, [&](Range part) {
    context.kernels->rope({.x = from,
                           .heads = x.cols / head.width,
                           .head_dim = head.width,
                           .rotary = rotary_,
                           .cosine = rope.cosine,
                           .sine = rope.sine,
                           .pairing = pairing_,
                           .rows = part});
  });
}

/// Keys, what pools read, and then the entries that the rows complete.
void PooledAttention::append(const ComputeContext& context, const MixerStep& step,
                             const Projected& rows) const {
  AppendToCache(context, positions_of(step), step, rows.key, rows.key);
  if (!pool_) return;
  const KvLayerView view = pooled_of(step);
  const int64_t half = extra_heads_ * heads_.head_dim;
  AppendToCache(context, view, step, rows.pooled.cols_between(half, 2 * half),
                rows.pooled.cols_between(0, half));
  const std::span<int64_t> all = context.arena->allocate<int64_t>(rows.pooled.rows);
  size_t count = 0;
  for (int64_t t = 0; t < rows.pooled.rows; ++t) {
    if ((step.places.positions[static_cast<size_t>(t)] + 1) % pool_->ratio == 0) all[count++] = t;
  }
  const std::span<const int64_t> ends = all.first(count);
  if (ends.empty()) return;
  make_entries(context, step, ends, *pool_, rows.pooled);
  if (indexer_) make_entries(context, step, ends, indexer_->pool, rows.pooled);
  // Behind all of them, as entries take places that were read.
  for (const int64_t t : ends) {
    const int64_t position = step.places.positions[static_cast<size_t>(t)];
    const int64_t saturated = context.kernels->append_kv(
        {.cache = view,
         .block = step.places.block_tables[static_cast<size_t>(t)][position / kBlockPositions],
         .position = position,
         .key = rows.pooled.row(t) + half,
         .value = rows.pooled.row(t),
         .kv_heads = {0, extra_heads_}});
    if (saturated > 0) step.saturated.fetch_add(saturated, std::memory_order_relaxed);
  }
}

/// The entries that rows `ends` complete, from what the cache holds, into own_kv of the rows `pooled`.
void PooledAttention::make_entries(const ComputeContext& context, const MixerStep& step,
                                   std::span<const int64_t> ends, const Pool& pool,
                                   MatView<float> pooled) const {
  const ArenaScope scope(*context.arena);
  Arena& arena = *context.arena;
  const KvLayerView view = pooled_of(step);
  const auto count = static_cast<int64_t>(ends.size());
  const MatView<float> entries = arena.allocate_rows<float>(count, pool.dim);
  const MatView<float> room = arena.allocate_rows<float>(count, int64_t{4} * pool.dim);
  const std::span<int64_t> firsts = arena.allocate<int64_t>(count);
  const std::span<bool> not_long = arena.allocate<bool>(count);
  for (size_t i = 0; i < ends.size(); ++i) {
    firsts[i] = step.places.positions[static_cast<size_t>(ends[i])] + 1 - pool.ratio;
    not_long[i] = false;
  }
  constexpr int64_t kCostOfExp = 32;  // In values that a plain pass would handle.
  context.for_rows(count, kCostOfExp * pool.ratio * pool.dim, [&](Range part) {
    for (int64_t i = part.begin; i < part.end; ++i) {
      const auto dim = static_cast<size_t>(pool.dim);
      const std::span<float> largest(room.row(i), dim), sum(room.row(i) + dim, dim);
      const std::span<float> gate(room.row(i) + 2 * dim, dim), kv(room.row(i) + 3 * dim, dim);
      const std::span<float> entry(entries.row(i), dim);
      const BlockId* const blocks =
          step.places.block_tables[static_cast<size_t>(ends[static_cast<size_t>(i)])];
      const int64_t first = firsts[static_cast<size_t>(i)];
      const int64_t begin = pool.overlaps ? std::max<int64_t>(0, first - pool.ratio) : first;
      const int64_t cols = std::ssize(pool.bias) / pool.ratio;
      const auto read = [&](int64_t position, int64_t from, std::span<float> out) {
        ReadPooled(view, blocks[position / kBlockPositions], position, from, out);
      };
      const auto read_gate = [&](int64_t position) {
        const bool own = position >= first;
        read(position, own ? pool.own_gate : pool.next_gate, gate);
        const float* const bias =
            pool.bias.data() + position % pool.ratio * cols + (own && pool.overlaps ? pool.dim : 0);
        for (size_t d = 0; d < dim; ++d) gate[d] += bias[d];
      };
      std::ranges::fill(largest, -std::numeric_limits<float>::infinity());
      std::ranges::fill(sum, 0.0f);
      std::ranges::fill(entry, 0.0f);
      for (int64_t p = begin; p < first + pool.ratio; ++p) {
        read_gate(p);
        for (size_t d = 0; d < dim; ++d) largest[d] = std::max(largest[d], gate[d]);
      }
      for (int64_t p = begin; p < first + pool.ratio; ++p) {
        read_gate(p);
        read(p, p >= first ? pool.own_kv : pool.next_kv, kv);
        for (size_t d = 0; d < dim; ++d) {
          const auto share = static_cast<float>(Exp(static_cast<double>(gate[d] - largest[d])));
          sum[d] += share;
          entry[d] += share * kv[d];
        }
      }
      for (size_t d = 0; d < dim; ++d) entry[d] /= sum[d];
      pool.norm.apply(*context.kernels, entries, entries, {i, i + 1});
    }
  });
  rotate(context, entries, {pool.dim, pool.dim}, MakeRopeRows(context, table_, firsts, not_long));
  for (size_t i = 0; i < ends.size(); ++i) {
    std::copy_n(entries.row(static_cast<int64_t>(i)), pool.dim, pooled.row(ends[i]) + pool.own_kv);
  }
}

/// Which entries each row attends to: in the context's arena. OutOfRange: a score is not a number.
absl::StatusOr<std::span<PooledAttention::Entries>> PooledAttention::pick(const ComputeContext& context,
                                                                          const MixerStep& step,
                                                                          const Projected& rows) const {
  const int64_t tokens = rows.q.rows;
  const std::span<Entries> entries = context.arena->allocate<Entries>(tokens);
  int64_t most = 0;
  for (size_t t = 0; t < entries.size(); ++t) {
    entries[t] = {.picked = nullptr, .count = pool_ ? (step.places.positions[t] + 1) / pool_->ratio : 0};
    most = std::max(most, entries[t].count);
  }
  if (!indexer_ || most <= indexer_->top) return entries;
  const int64_t at_once = std::max<int64_t>(1, kHeldBytes / (static_cast<int64_t>(sizeof(float)) * most));
  for (int64_t begin = 0; begin < tokens; begin += at_once) {
    if (!pick_of_rows(context, step, rows, {begin, std::min(tokens, begin + at_once)}, entries)) {
      return OutOfRange("a score of an indexer is not a number (NaN)");
    }
  }
  return entries;
}

/// False: a score is NaN.
bool PooledAttention::pick_of_rows(const ComputeContext& context, const MixerStep& step,
                                   const Projected& rows, Range part, std::span<Entries> entries) const {
  Arena& arena = *context.arena;
  int64_t most = 0;
  for (int64_t t = part.begin; t < part.end; ++t)
    most = std::max(most, entries[static_cast<size_t>(t)].count);
  if (most <= indexer_->top) return true;
  const MatView<int32_t> picked = arena.allocate_rows<int32_t>(part.size(), indexer_->top);
  const ArenaScope scope(arena);
  const MatView<float> scores = arena.allocate_rows<float>(part.size(), most);
  const KvLayerView view = pooled_of(step);
  const int64_t ratio = pool_->ratio;
  const int64_t dim = indexer_->dim;
  const auto weight_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(indexer_->heads)));
  const auto score_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
  const int64_t tiles = (most + kEntriesPerTile - 1) / kEntriesPerTile;
  context.for_ranges(part.size() * tiles, part.size() * most * indexer_->heads * dim, [&](Range cells) {
    float key[kHeadDimMax];
    for (int64_t cell = cells.begin; cell < cells.end; ++cell) {
      const int64_t row = cell / tiles;
      const int64_t t = part.begin + row;
      const BlockId* const blocks = step.places.block_tables[static_cast<size_t>(t)];
      const int64_t begin = cell % tiles * kEntriesPerTile;
      const int64_t end = std::min(entries[static_cast<size_t>(t)].count, begin + kEntriesPerTile);
      for (int64_t e = begin; e < end; ++e) {
        const int64_t position = e * ratio + ratio - 1;
        ReadPooled(view, blocks[position / kBlockPositions], position, indexer_->pool.own_kv,
                   {key, static_cast<size_t>(dim)});
        float score = 0;
        for (int64_t h = 0; h < indexer_->heads; ++h) {
          const float dot = DotOfEight(rows.index_q.row(t) + h * dim, key, dim);
          const float positive = (dot < 0 ? 0.0f : dot) * score_scale;
          score += positive * (rows.index_weights.at(t, h) * weight_scale);
        }
        scores.at(row, e) = score;
      }
      if (cell + 1 < cells.end) context.pool->note_progress();
    }
  });
  std::atomic<bool> numbers = true;
  context.for_rows(part.size(), 8 * most, [&](Range some) {
    for (int64_t row = some.begin; row < some.end; ++row) {
      Entries& own = entries[static_cast<size_t>(part.begin + row)];
      if (own.count <= indexer_->top) continue;
      const std::span<int32_t> top(picked.row(row), static_cast<size_t>(indexer_->top));
      if (PickTop({scores.row(row), static_cast<size_t>(own.count)}, top)) {
        own = {.picked = top.data(), .count = indexer_->top};
      } else {
        numbers.store(false, std::memory_order_relaxed);
      }
    }
  });
  return numbers;
}

/// Each row's entries and window are copied one behind the other, in the cache's dtype, and attended to as a cache that
/// holds nothing else.
void PooledAttention::attend(const ComputeContext& context, const MixerStep& step, MatView<const float> q,
                             std::span<const Entries> entries, MatView<float> out) const {
  const KvLayerView positions = positions_of(step);
  const std::span<AttentionRow> rows = context.arena->allocate<AttentionRow>(q.rows);
  for (size_t t = 0; t < rows.size(); ++t) {
    const int64_t end = step.places.positions[t] + 1;
    rows[t] = {.query = q.row(static_cast<int64_t>(t)),
               .out = out.row(static_cast<int64_t>(t)),
               .blocks = step.places.block_tables[t],
               .positions = {std::max<int64_t>(0, end - window_), end}};
  }
  if (!pool_) return heads_.attend(context, positions, rows);
  const KvLayerView pooled = pooled_of(step);
  const int64_t half = KvBlockBytes(1, heads_.head_dim, positions.dtype);
  for (size_t begin = 0; begin < rows.size();) {
    const ArenaScope scope(*context.arena);
    Arena& arena = *context.arena;
    size_t end = begin;
    int64_t count = 0;  // Of blocks.
    for (; end < rows.size(); ++end) {
      const int64_t more = BlocksFor(entries[end].count + rows[end].positions.size());
      if (end > begin && (count + more) * 2 * half > kHeldBytes) break;
      count += more;
    }
    const std::span<BlockId> ids = arena.allocate<BlockId>(count);
    const std::span<GatheredBlock> blocks = arena.allocate<GatheredBlock>(count);
    int64_t next = 0;
    for (size_t r = begin; r < end; ++r) {
      const Entries& own = entries[r];
      const BlockId* const table = rows[r].blocks;
      const Range window = rows[r].positions;
      const int64_t total = own.count + window.size();
      rows[r].blocks = ids.data() + next;
      rows[r].positions = {0, total};
      for (int64_t i = 0; i < total; ++i) {
        GatheredBlock& block = blocks[static_cast<size_t>(next + i / kBlockPositions)];
        const int64_t at = i % kBlockPositions;
        const int64_t entry = i < own.count && own.picked != nullptr ? own.picked[i] : i;
        block.sources[at] = i < own.count ? ValueAt(pooled, table, entry * pool_->ratio + pool_->ratio - 1)
                                          : ValueAt(positions, table, window.begin + i - own.count);
        block.count = at + 1;
      }
      for (int64_t b = 0; b < BlocksFor(total); ++b, ++next)
        ids[static_cast<size_t>(next)] = BlockId{static_cast<int32_t>(next)};
    }
    const auto copy = [&](int64_t b, const BlockOfCopies& to) {
      const GatheredBlock& block = blocks[static_cast<size_t>(b)];
      if (to.element_bytes == sizeof(uint32_t)) {
        CopyGathered<uint32_t>(block, heads_.head_dim, to.keys, to.values);
      } else {
        CopyGathered<uint16_t>(block, heads_.head_dim, to.keys, to.values);
      }
    };
    heads_.attend_to_copies(context, positions.dtype, count, copy, rows.subspan(begin, end - begin));
    begin = end;
  }
}

/// y = o_b(each group's part of o_a). attended: [T, heads * cached head].
absl::Status PooledAttention::give_out(const ComputeContext& context, MatView<const float> attended,
                                       MatView<float> y) const {
  const ArenaScope scope(*context.arena);
  Arena& arena = *context.arena;
  const int64_t tokens = attended.rows;
  const auto groups = static_cast<int64_t>(o_a_.size());
  const int64_t heads_each = heads_.heads / groups;
  const int64_t rank = o_a_[0].rows();
  const MatView<float> in = arena.allocate_rows<float>(groups * tokens, heads_each * head_dim_);
  const MatView<float> low = arena.allocate_rows<float>(groups * tokens, rank);
  const MatView<float> both = arena.allocate_rows<float>(tokens, groups * rank);
  context.for_rows(tokens, attended.cols, [&](Range part) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t cols = heads_each * heads_.head_dim;
      CopyToHeads(attended.cols_between(g * cols, (g + 1) * cols), heads_.head_dim,
                  in.rows_between(g * tokens, (g + 1) * tokens), head_dim_, part);
    }
  });
  RETURN_IF_ERROR(RunGroups(context, o_a_, in, low));
  context.for_rows(tokens, both.cols, [&](Range part) {
    for (int64_t t = part.begin; t < part.end; ++t) {
      for (int64_t g = 0; g < groups; ++g) std::copy_n(low.row(g * tokens + t), rank, both.row(t) + g * rank);
    }
  });
  LinearInput input(both);
  const LinearTask task[] = {{&o_b_, y, input.all_rows()}};
  return RunLinears(context, input, task);
}

}  // namespace shoal
