#include "compute/blocks/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/check.h"
#include "base/status.h"
#include "compute/blocks/pick_top.h"
#include "compute/blocks/picked_attention.h"
#include "compute/row_ops.h"
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

/// The norm of all heads, or those of each.
absl::StatusOr<std::vector<Norm>> LoadHeadNorms(const WeightLoader& loader,
                                                const std::optional<NormSpec>& of_all,
                                                const std::vector<NormSpec>& of_each) {
  std::vector<Norm> norms;
  if (of_all) {
    ASSIGN_OR_RETURN(norms.emplace_back(), Norm::Load(loader, *of_all));
  }
  for (const NormSpec& spec : of_each) {
    ASSIGN_OR_RETURN(norms.emplace_back(), Norm::Load(loader, spec));
  }
  return norms;
}

int64_t BytesOf(const std::vector<Norm>& norms) {
  int64_t bytes = 0;
  for (const Norm& norm : norms) bytes += norm.bytes();
  return bytes;
}

/// Rows `part` of x by one norm, over each of its spans of a row, or each head by its own.
void ApplyHeadNorms(const Kernels& kernels, const std::vector<Norm>& norms, MatView<float> x, Range part) {
  if (norms.size() == 1) {
    const auto spans = static_cast<int>(x.cols / norms[0].size());  // Heads, or one over all of them.
    const MatView<float> spanned = AsHeads(x, spans);
    return norms[0].apply(kernels, spanned, spanned, {part.begin * spans, part.end * spans});
  }
  int64_t begin = 0;
  for (const Norm& norm : norms) {
    const MatView<float> head = x.cols_between(begin, begin + norm.size());
    norm.apply(kernels, head, head, part);
    begin += norm.size();
  }
}

}  // namespace

absl::StatusOr<Attention> Attention::Load(const WeightLoader& loader, const GqaSpec& spec, ThreadPool& pool) {
  Attention attention;
  attention.heads_ = {
      .heads = spec.heads,
      .kv_heads = spec.kv_heads,
      .head_dim = CachedHeadDim(std::max(spec.head_dim, spec.output_dim())),
      .scale = static_cast<float>(spec.scale.value_or(1.0 / std::sqrt(static_cast<double>(spec.head_dim)))),
      .softcap = spec.score_softcap,
      .sinks = {}};
  attention.head_dim_ = spec.head_dim;
  attention.value_dim_ = spec.output_dim();
  attention.value_scale_ = spec.value_scale;
  attention.norm_behind_rope_ = spec.norm_behind_rope;
  attention.output_gate_ = spec.output_gate;
  attention.pairing_ = spec.rope.pairing;
  attention.rotary_ = spec.rope.dims;
  attention.temperature_ = spec.temperature;
  attention.window_ = spec.window.value_or(std::numeric_limits<int64_t>::max());
  attention.chunk_ = spec.chunk.value_or(std::numeric_limits<int64_t>::max());
  attention.values_from_keys_ = spec.values_from_keys;
  attention.shared_kv_ = spec.shared_kv;
  attention.takes_kv_ = spec.takes_kv();
  std::vector<const LinearSpec*> parts = {&spec.q};
  if (!spec.takes_kv()) parts.push_back(&spec.k);
  if (!spec.takes_kv() && !spec.values_from_keys) parts.push_back(&spec.v);
  const size_t own = parts.size();
  if (spec.picks) parts.insert(parts.end(), {&spec.picks->indexer.q, &spec.picks->indexer.k});
  ASSIGN_OR_RETURN(std::vector<Linear> qkv, Linear::LoadTogether(loader, parts, pool));
  Linear* const loaded[] = {&attention.q_, &attention.k_, &attention.v_};
  for (size_t i = 0; i < own; ++i) *loaded[i] = std::move(qkv[i]);
  if (spec.picks) {
    SHOAL_CHECK(spec.picks->indexer.heads == spec.kv_heads && !spec.picks->indexer.weights);
    ASSIGN_OR_RETURN(Indexer indexer, Indexer::Load(loader, spec.picks->indexer, spec.rope.dims,
                                                    {std::move(qkv[own]), std::move(qkv[own + 1]), {}}));
    attention.picker_ = {spec.picks->size, spec.picks->count, spec.picks->local, std::move(indexer)};
  }
  ASSIGN_OR_RETURN(attention.o_, Linear::Load(loader, spec.o, pool));
  if (spec.gate) {
    ASSIGN_OR_RETURN(attention.gate_, Linear::Load(loader, *spec.gate, pool));
  }
  ASSIGN_OR_RETURN(attention.q_norms_, LoadHeadNorms(loader, spec.q_norm, spec.q_head_norms));
  ASSIGN_OR_RETURN(attention.k_norms_, LoadHeadNorms(loader, spec.k_norm, spec.k_head_norms));
  if (spec.v_norm_eps) attention.v_norm_.push_back(Norm::Weightless(spec.output_dim(), *spec.v_norm_eps));
  if (spec.sinks) {
    ASSIGN_OR_RETURN(attention.heads_.sinks, loader.read_vector(*spec.sinks));
  }
  return attention;
}

int64_t Attention::bytes() const {
  return q_.bytes() + k_.bytes() + v_.bytes() + o_.bytes() + (gate_ ? gate_->bytes() : 0) +
         (picker_ ? picker_->indexer.bytes() : 0) + BytesOf(q_norms_) + BytesOf(k_norms_) +
         static_cast<int64_t>(heads_.sinks.size() * sizeof(float));
}

absl::Status Attention::forward(const ComputeContext& context, LinearInput& input, const MixerStep& step,
                                MatView<float> y) const {
  const ArenaScope scope(*context.arena);
  Arena& arena = *context.arena;
  const int64_t tokens = input.rows();
  const int64_t q_cols = int64_t{heads_.heads} * head_dim_;
  const int64_t kv_heads = heads_.kv_heads;
  const MatView<float> asked =
      arena.allocate_rows<float>(tokens, q_.rows());  // Gates beside queries, perhaps.
  HeadRows rows{output_gate_ ? arena.allocate_rows<float>(tokens, q_cols) : asked,
                arena.allocate_rows<float>(tokens, kv_heads * head_dim_),
                arena.allocate_rows<float>(tokens, kv_heads * value_dim_)};
  MatView<float> gates;
  if (gate_) gates = arena.allocate_rows<float>(tokens, gate_->rows());
  PhaseTimer timer(context, StepPhase::kQkv);
  const Picking picking = picking_of(context, step);
  LinearTask projections[6] = {{&q_, asked, input.all_rows()}};
  size_t count = 1;
  if (!takes_kv_) projections[count++] = {&k_, rows.k, input.all_rows()};
  if (!takes_kv_ && !values_from_keys_) projections[count++] = {&v_, rows.v, input.all_rows()};
  if (gate_) projections[count++] = {&*gate_, gates, input.all_rows()};
  if (picker_) projections[count++] = {&picker_->indexer.k(), picking.key, input.all_rows()};
  if (!picking.rows.empty())
    projections[count++] = {&picker_->indexer.q(), picking.queries.q, input.all_rows()};
  RETURN_IF_ERROR(RunLinears(context, input, std::span(projections).first(count)));

  timer.next(StepPhase::kRopeAppend);
  const MatView<float> gated =
      AsHeads(asked, heads_.heads);  // A query and its gate per row, where there are.
  context.for_rows(tokens, q_.rows() + rows.k.cols, [&](Range part) {
    if (output_gate_) {
      CopyHeads(gated.cols_between(0, head_dim_), AsHeads(rows.q, heads_.heads),
                {part.begin * heads_.heads, part.end * heads_.heads});
    }
    apply_rope(context, rows, step.rope, part);
    if (shared_kv_) share(step.shared_kv, rows, part);
    ApplyTemperature(temperature_, step.places.positions, rows.q, part);
  });
  rows = {padded(context, rows.q, heads_.heads), padded(context, rows.k, heads_.kv_heads),
          padded(context, rows.v, heads_.kv_heads)};
  AppendToCache(context, heads_.cache_of(step), step, rows.k, rows.v);
  if (picker_) picker_->indexer.append(context, picking.key, step);

  timer.next(StepPhase::kAttention);
  ASSIGN_OR_RETURN(const MatView<float> out, attend(context, step, picking, rows.q));
  timer.next(StepPhase::kAttentionOut);
  if (output_gate_) gates = gated.cols_between(head_dim_, 2 * head_dim_);
  if (gate_) gates = AsHeads(gates, heads_.heads);
  if (gates.data != nullptr) ApplyHeadGates(context, gates, AsHeads(out, heads_.heads));
  LinearInput attended(out);
  const LinearTask output[] = {{&o_, y, attended.all_rows()}};
  return RunLinears(context, attended, output);
}

Attention::Picking Attention::picking_of(const ComputeContext& context, const MixerStep& step) const {
  Picking picking;
  if (!picker_) return picking;
  Arena& arena = *context.arena;
  const std::span<const int64_t> positions = step.places.positions;
  const auto tokens = std::ssize(positions);
  const std::span<int64_t> rows = arena.allocate<int64_t>(tokens);
  size_t count = 0;
  for (size_t t = 0; t < positions.size(); ++t) {
    if (positions[t] / picker_->size >= picker_->count) rows[count++] = static_cast<int64_t>(t);
  }
  picking.rows = rows.first(count);
  picking.key = arena.allocate_rows<float>(tokens, picker_->indexer.k().rows());
  if (count > 0) picking.queries.q = arena.allocate_rows<float>(tokens, picker_->indexer.q().rows());
  return picking;
}

bool Attention::pick_blocks(int64_t position, MatView<float> scores, MatView<int32_t> picked) const {
  const int64_t own = position / picker_->size;
  for (int64_t h = 0; h < scores.rows; ++h) {
    float* const row = scores.row(h);
    for (int64_t block = 0; block <= own; ++block) {
      const int64_t end = std::min((block + 1) * picker_->size, position + 1);
      float highest = row[block * picker_->size];
      for (int64_t p = block * picker_->size; p < end; ++p) {
        if (row[p] != row[p]) return false;
        highest = highest < row[p] ? row[p] : highest;
      }
      const bool always = own - block < picker_->local;
      row[block] = always ? std::numeric_limits<float>::infinity() : highest;
    }
    if (!PickTop({row, static_cast<size_t>(own + 1)}, {picked.row(h), static_cast<size_t>(picked.cols)})) {
      return false;
    }
  }
  return true;
}

absl::StatusOr<MatView<const int32_t>> Attention::pick(const ComputeContext& context, const MixerStep& step,
                                                       const Picking& picking) const {
  const int64_t heads = heads_.kv_heads;
  const MatView<int32_t> picked =
      context.arena->allocate_rows<int32_t>(std::ssize(picking.rows) * heads, picker_->count);
  picker_->indexer.prepare(context, picking.queries, step.rope);
  RETURN_IF_ERROR(picker_->indexer.for_scores(
      context, picking.queries, step, picking.rows, [&](int64_t i, MatView<float> scores) {
        const int64_t t = picking.rows[static_cast<size_t>(i)];
        return pick_blocks(step.places.positions[static_cast<size_t>(t)], scores,
                           picked.rows_between(i * heads, (i + 1) * heads));
      }));
  return picked;
}

/// What the heads give [T, heads * value_dim], in the context's arena. queries: of the cache's head dimension.
absl::StatusOr<MatView<float>> Attention::attend(const ComputeContext& context, const MixerStep& step,
                                                 const Picking& picking, MatView<const float> queries) const {
  Arena& arena = *context.arena;
  const int64_t tokens = queries.rows;
  const KvLayerView cache = heads_.cache_of(step);
  const MatView<float> out = arena.allocate_rows<float>(tokens, queries.cols);
  const std::span<AttentionRow> rows = arena.allocate<AttentionRow>(tokens);
  const std::span<AttentionRow> sparse = arena.allocate<AttentionRow>(std::ssize(picking.rows));
  size_t picking_rows = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    const auto i = static_cast<size_t>(t);
    const int64_t end = step.places.positions[i] + 1;
    const int64_t chunk_begin = step.places.positions[i] / chunk_ * chunk_;
    const bool picks = picking_rows < picking.rows.size() && picking.rows[picking_rows] == t;
    AttentionRow& row = picks ? sparse[picking_rows] : rows[i - picking_rows];
    row = {.query = queries.row(t),
           .out = out.row(t),
           .blocks = step.places.block_tables[i],
           .positions = {std::max(end > window_ ? end - window_ : 0, chunk_begin), end}};
    if (picks) ++picking_rows;
  }
  if (picking_rows < rows.size()) heads_.attend(context, cache, rows.first(rows.size() - picking_rows));
  if (picking_rows > 0) {
    ASSIGN_OR_RETURN(const MatView<const int32_t> picked, pick(context, step, picking));
    AttendBlocksPicked(context, heads_, cache, picker_->size, sparse, picked);
  }
  if (heads_.head_dim == value_dim_) return out;
  const MatView<float> compact = arena.allocate_rows<float>(tokens, int64_t{heads_.heads} * value_dim_);
  CopyHeads(AsHeads(out, heads_.heads), AsHeads(compact, heads_.heads), {0, tokens * heads_.heads});
  return compact;
}

void Attention::apply_rope(const ComputeContext& context, const HeadRows& rows, const RopeRows& rope,
                           Range part) const {
  const Kernels& kernels = *context.kernels;
  const auto rotate = [&](MatView<float> x, int heads, const std::vector<Norm>& norms) {
    if (!norm_behind_rope_) ApplyHeadNorms(kernels, norms, x, part);
    if (rotary_ > 0) {
      kernels.rope({.x = x,
                    .heads = heads,
                    .head_dim = head_dim_,
                    .rotary = rotary_,
                    .cosine = rope.cosine,
                    .sine = rope.sine,
                    .pairing = pairing_,
                    .rows = part});
    }
    if (norm_behind_rope_) ApplyHeadNorms(kernels, norms, x, part);
  };
  for (int64_t t = part.begin; values_from_keys_ && t < part.end; ++t) {
    std::copy_n(rows.k.row(t), rows.k.cols, rows.v.row(t));
  }
  rotate(rows.q, heads_.heads, q_norms_);
  if (takes_kv_) return;
  ApplyHeadNorms(kernels, v_norm_, rows.v, part);
  if (value_scale_ != 1) Multiply(rows.v, value_scale_, part);
  rotate(rows.k, heads_.kv_heads, k_norms_);
}

void Attention::share(MatView<float> shared, const HeadRows& rows, Range part) const {
  const int64_t cols = rows.k.cols;
  for (int64_t t = part.begin; t < part.end; ++t) {
    float* const place = shared.row(t) + shared_kv_->column;
    if (takes_kv_) {
      std::copy_n(place, cols, rows.k.row(t));
      std::copy_n(place + cols, cols, rows.v.row(t));
    } else {
      std::copy_n(rows.k.row(t), cols, place);
      std::copy_n(rows.v.row(t), cols, place + cols);
    }
  }
}

MatView<float> Attention::padded(const ComputeContext& context, MatView<float> rows, int heads) const {
  if (rows.cols == int64_t{heads} * heads_.head_dim) return rows;
  const MatView<float> wide =
      context.arena->allocate_rows<float>(rows.rows, int64_t{heads} * heads_.head_dim);
  CopyHeads(AsHeads(rows, heads), AsHeads(wide, heads), {0, rows.rows * heads});
  return wide;
}

}  // namespace shoal
