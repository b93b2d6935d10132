#include "compute/blocks/latent_attention.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "compute/blocks/pick_top.h"
#include "compute/blocks/picked_attention.h"
#include "compute/step_profile.h"

namespace shoal {
namespace {

absl::StatusOr<std::vector<Linear>> LoadHeads(const WeightLoader& loader,
                                              const std::vector<LinearSpec>& specs, ThreadPool& pool) {
  std::vector<Linear> heads;
  for (const LinearSpec& spec : specs) {
    ASSIGN_OR_RETURN(Linear head, Linear::Load(loader, spec, pool));
    heads.push_back(std::move(head));
  }
  return heads;
}

int64_t BytesOf(const std::vector<Linear>& linears) {
  int64_t bytes = 0;
  for (const Linear& linear : linears) bytes += linear.bytes();
  return bytes;
}

/// y of head h = heads[h] (x of head h), all in one piece of work. x and y: [H * T, K or N], a head's rows
/// together.
absl::Status RunHeads(const ComputeContext& context, const std::vector<Linear>& heads, MatView<const float> x,
                      MatView<float> y) {
  const ArenaScope scope(*context.arena);
  const auto count = static_cast<int64_t>(heads.size());
  const int64_t tokens = x.rows / count;
  const std::span<LinearTask> tasks = context.arena->allocate<LinearTask>(count);
  for (int64_t h = 0; h < count; ++h) {
    const Range rows{h * tokens, (h + 1) * tokens};
    tasks[static_cast<size_t>(h)] = {&heads[static_cast<size_t>(h)], y.rows_between(rows.begin, rows.end),
                                     rows};
  }
  LinearInput input(x);
  return RunLinears(context, input, tasks);
}

/// to[t, to_col + c] = from[t, from_col + c] for c < cols.
void CopyCols(MatView<const float> from, int64_t from_col, MatView<float> to, int64_t to_col, int64_t cols,
              Range rows) {
  for (int64_t t = rows.begin; t < rows.end; ++t) {
    std::copy_n(from.row(t) + from_col, cols, to.row(t) + to_col);
  }
}

/// What a row brings that layers before picked. False: not ascending positions up to its own.
bool ReadPicks(std::span<const float> carried, int64_t position, std::span<int32_t> picked) {
  float least = 0;
  for (size_t i = 0; i < carried.size(); ++i) {
    if (!(carried[i] >= least && carried[i] <= static_cast<float>(position))) return false;
    picked[i] = static_cast<int32_t>(carried[i]);
    if (static_cast<float>(picked[i]) != carried[i]) return false;
    least = carried[i] + 1;
  }
  return true;
}

}  // namespace

absl::StatusOr<LatentAttention> LatentAttention::Load(const WeightLoader& loader, const MlaSpec& spec,
                                                      ThreadPool& pool) {
  LatentAttention attention;
  attention.heads_ = {.heads = spec.heads,
                      .kv_heads = 1,
                      .head_dim = CachedHeadDim(static_cast<int>(spec.latent) + spec.rope_dim),
                      .scale = static_cast<float>(spec.scale),
                      .softcap = 0,
                      .sinks = {}};
  attention.nope_dim_ = spec.nope_dim;
  attention.rope_dim_ = spec.rope_dim;
  attention.value_dim_ = spec.value_dim;
  attention.latent_ = spec.latent;
  attention.pairing_ = spec.rope.pairing;
  attention.rotates_ = spec.rope.dims > 0;
  attention.temperature_ = spec.temperature;
  RETURN_IF_ERROR(attention.load_projections(loader, spec, pool));
  ASSIGN_OR_RETURN(attention.kv_norm_, Norm::Load(loader, spec.kv_norm));
  ASSIGN_OR_RETURN(attention.keys_, LoadHeads(loader, spec.keys, pool));
  ASSIGN_OR_RETURN(attention.values_, LoadHeads(loader, spec.values, pool));
  ASSIGN_OR_RETURN(attention.o_, Linear::Load(loader, spec.o, pool));
  return attention;
}

/// Those of the layer's input together, then those of the queries' latent.
absl::Status LatentAttention::load_projections(const WeightLoader& loader, const MlaSpec& spec,
                                               ThreadPool& pool) {
  const IndexerSpec* const indexer = spec.picks && spec.picks->indexer ? &*spec.picks->indexer : nullptr;
  SHOAL_CHECK(indexer == nullptr || (spec.q_a && indexer->weights));
  std::vector<const LinearSpec*> of_input = {spec.q_a ? &*spec.q_a : &spec.q, &spec.kv_a};
  if (spec.gate) of_input.push_back(&*spec.gate);
  const size_t of_indexer = of_input.size();
  if (indexer != nullptr) of_input.insert(of_input.end(), {&indexer->k, &*indexer->weights});
  ASSIGN_OR_RETURN(std::vector<Linear> in, Linear::LoadTogether(loader, of_input, pool));
  kv_a_ = std::move(in[1]);
  if (spec.gate) gate_ = std::move(in[2]);
  if (spec.picks) {
    picks_ = spec.picks->count;
    picks_are_carried_ = spec.picks->carried;
  }
  if (!spec.q_a) {
    q_ = std::move(in[0]);
    return absl::OkStatus();
  }
  q_a_ = std::move(in[0]);
  ASSIGN_OR_RETURN(q_norm_, Norm::Load(loader, *spec.q_norm));
  std::vector<const LinearSpec*> of_latent = {&spec.q};
  if (indexer != nullptr) of_latent.push_back(&indexer->q);
  ASSIGN_OR_RETURN(std::vector<Linear> q, Linear::LoadTogether(loader, of_latent, pool));
  q_ = std::move(q[0]);
  if (indexer == nullptr) return absl::OkStatus();
  ASSIGN_OR_RETURN(
      indexer_, Indexer::Load(loader, *indexer, rotates_ ? rope_dim_ : 0,
                              {std::move(q[1]), std::move(in[of_indexer]), std::move(in[of_indexer + 1])}));
  return absl::OkStatus();
}

int64_t LatentAttention::bytes() const {
  return (q_a_ ? q_a_->bytes() + q_norm_->bytes() : 0) + q_.bytes() + kv_a_.bytes() + kv_norm_.bytes() +
         BytesOf(keys_) + BytesOf(values_) + (gate_ ? gate_->bytes() : 0) + o_.bytes() +
         (indexer_ ? indexer_->bytes() : 0);
}

absl::Status LatentAttention::forward(const ComputeContext& context, LinearInput& input,
                                      const MixerStep& step, MatView<float> y) const {
  const ArenaScope scope(*context.arena);
  Arena& arena = *context.arena;
  const int64_t tokens = input.rows();
  PhaseTimer timer(context, StepPhase::kQkv);
  const std::span<const int64_t> picking = picking_rows(context, step);
  ASSIGN_OR_RETURN(const Projected projected, project(context, input, !picking.empty()));
  apply_temperature(context, step, projected.q);
  const MatView<float> absorbed = arena.allocate_rows<float>(tokens, int64_t{heads_.heads} * heads_.head_dim);
  RETURN_IF_ERROR(absorb(context, projected.q, step.rope, absorbed));

  timer.next(StepPhase::kRopeAppend);
  append(context, projected.latent, step);
  if (indexer_) indexer_->append(context, projected.index_key, step);

  timer.next(StepPhase::kAttention);
  ASSIGN_OR_RETURN(const MatView<const int32_t> picked, pick(context, step, picking, projected.index));
  const MatView<float> attended = arena.allocate_rows<float>(tokens, absorbed.cols);
  attend(context, step, absorbed, picking, picked, attended);
  timer.next(StepPhase::kAttentionOut);
  return give_out(context, attended, projected.gates, y);
}

absl::StatusOr<LatentAttention::Projected> LatentAttention::project(const ComputeContext& context,
                                                                    LinearInput& input, bool picking) const {
  Arena& arena = *context.arena;
  const int64_t tokens = input.rows();
  Projected out{.q = arena.allocate_rows<float>(tokens, q_.rows()),
                .latent = arena.allocate_rows<float>(tokens, kv_a_.rows())};
  const MatView<float> low = q_a_ ? arena.allocate_rows<float>(tokens, q_a_->rows()) : out.q;
  LinearTask of_input[5] = {{q_a_ ? &*q_a_ : &q_, low, input.all_rows()},
                            {&kv_a_, out.latent, input.all_rows()}};
  size_t count = 2;
  if (gate_) {
    out.gates = arena.allocate_rows<float>(tokens, gate_->rows());
    of_input[count++] = {&*gate_, out.gates, input.all_rows()};
  }
  if (indexer_) {
    out.index_key = arena.allocate_rows<float>(tokens, indexer_->k().rows());
    of_input[count++] = {&indexer_->k(), out.index_key, input.all_rows()};
  }
  if (indexer_ && picking) {
    out.index = {.q = arena.allocate_rows<float>(tokens, indexer_->q().rows()),
                 .weights = arena.allocate_rows<float>(tokens, indexer_->weights()->rows())};
    of_input[count++] = {indexer_->weights(), out.index.weights, input.all_rows()};
  }
  RETURN_IF_ERROR(RunLinears(context, input, std::span(of_input).first(count)));
  if (!q_a_) return out;
  LinearInput normed(low);
  RETURN_IF_ERROR(normed.fill(context, q_.activation_group(context.activations),
                              [&](Range part) { q_norm_->apply(*context.kernels, low, low, part); }));
  LinearTask of_latent[2] = {{&q_, out.q, normed.all_rows()}};
  if (out.index.q.data != nullptr) of_latent[1] = {&indexer_->q(), out.index.q, normed.all_rows()};
  RETURN_IF_ERROR(
      RunLinears(context, normed, std::span(of_latent).first(out.index.q.data == nullptr ? 1 : 2)));
  return out;
}

std::span<const int64_t> LatentAttention::picking_rows(const ComputeContext& context,
                                                       const MixerStep& step) const {
  if (picks_ == 0) return {};
  const std::span<const int64_t> positions = step.places.positions;
  const std::span<int64_t> rows = context.arena->allocate<int64_t>(std::ssize(positions));
  size_t count = 0;
  for (size_t t = 0; t < positions.size(); ++t) {
    if (positions[t] >= picks_) rows[count++] = static_cast<int64_t>(t);
  }
  return rows.first(count);
}

absl::StatusOr<MatView<const int32_t>> LatentAttention::pick(const ComputeContext& context,
                                                             const MixerStep& step,
                                                             std::span<const int64_t> rows,
                                                             const Indexer::Queries& queries) const {
  if (rows.empty()) return MatView<const int32_t>();
  const MatView<int32_t> picked = context.arena->allocate_rows<int32_t>(std::ssize(rows), picks_);
  const auto picked_of = [&](size_t i) {
    return std::span(picked.row(static_cast<int64_t>(i)), static_cast<size_t>(picks_));
  };
  if (!indexer_) {
    for (size_t i = 0; i < rows.size(); ++i) {
      const float* const carried = step.picks.row(rows[i]);
      if (!ReadPicks({carried, static_cast<size_t>(picks_)},
                     step.places.positions[static_cast<size_t>(rows[i])], picked_of(i))) {
        return OutOfRange("a row does not bring {} ascending positions up to its own", picks_);
      }
    }
    return picked;
  }
  indexer_->prepare(context, queries, step.rope);
  RETURN_IF_ERROR(indexer_->for_scores(context, queries, step, rows, [&](int64_t r, MatView<float> scores) {
    const auto i = static_cast<size_t>(r);
    if (!PickTop({scores.data, static_cast<size_t>(scores.cols)}, picked_of(i))) return false;
    if (picks_are_carried_) std::ranges::copy(picked_of(i), step.picks.row(rows[i]));
    return true;
  }));
  return picked;
}

/// Rows that pick attend to what they picked, the others to all positions up to their own.
void LatentAttention::attend(const ComputeContext& context, const MixerStep& step,
                             MatView<const float> queries, std::span<const int64_t> picking,
                             MatView<const int32_t> picked, MatView<float> out) const {
  const ArenaScope scope(*context.arena);
  Arena& arena = *context.arena;
  const KvLayerView cache = heads_.cache_of(step);
  const std::span<AttentionRow> whole = arena.allocate<AttentionRow>(queries.rows - std::ssize(picking));
  const std::span<AttentionRow> sparse = arena.allocate<AttentionRow>(std::ssize(picking));
  const std::span<const int32_t*> positions = arena.allocate<const int32_t*>(std::ssize(picking));
  size_t sparse_count = 0;
  for (int64_t t = 0; t < queries.rows; ++t) {
    const auto i = static_cast<size_t>(t);
    AttentionRow row{.query = queries.row(t),
                     .out = out.row(t),
                     .blocks = step.places.block_tables[i],
                     .positions = {0, step.places.positions[i] + 1}};
    if (sparse_count < picking.size() && picking[sparse_count] == t) {
      row.positions = {0, picks_};
      positions[sparse_count] = picked.row(static_cast<int64_t>(sparse_count));
      sparse[sparse_count++] = row;
    } else {
      whole[i - sparse_count] = row;
    }
  }
  if (!whole.empty()) heads_.attend(context, cache, whole);
  AttendLatentsPicked(context, heads_, cache, {.latent = latent_, .rotated = rope_dim_}, sparse, positions);
}

/// Before rope, which is linear: the bits are the same on every node either way.
void LatentAttention::apply_temperature(const ComputeContext& context, const MixerStep& step,
                                        MatView<float> q) const {
  if (temperature_.beta == 0) return;
  context.for_rows(q.rows, q.cols,
                   [&](Range part) { ApplyTemperature(temperature_, step.places.positions, q, part); });
}

/// Queries that meet what the cache holds: per head the rotary dimensions, then its key matrix applied to
/// the others, then zeros.
absl::Status LatentAttention::absorb(const ComputeContext& context, MatView<const float> q,
                                     const RopeRows& rope, MatView<float> absorbed) const {
  const ArenaScope scope(*context.arena);
  const int64_t tokens = q.rows;
  const int64_t per_head = nope_dim_ + rope_dim_;
  const MatView<float> nope = context.arena->allocate_rows<float>(heads_.heads * tokens, nope_dim_);
  const MatView<float> met = context.arena->allocate_rows<float>(heads_.heads * tokens, latent_);
  context.for_rows(tokens, q.cols, [&](Range part) {
    for (int64_t h = 0; h < heads_.heads; ++h) {
      const MatView<float> rows = nope.rows_between(h * tokens, (h + 1) * tokens);
      CopyCols(q, h * per_head, rows, 0, nope_dim_, part);
    }
  });
  RETURN_IF_ERROR(RunHeads(context, keys_, nope, met));
  context.for_rows(tokens, absorbed.cols, [&](Range part) {
    for (int64_t h = 0; h < heads_.heads; ++h) {
      const MatView<float> rows = met.rows_between(h * tokens, (h + 1) * tokens);
      const int64_t to = h * heads_.head_dim;
      CopyCols(q, h * per_head + nope_dim_, absorbed, to, rope_dim_, part);
      CopyCols(rows, 0, absorbed, to + rope_dim_, latent_, part);
      for (int64_t t = part.begin; t < part.end; ++t) {
        std::fill(absorbed.row(t) + to + rope_dim_ + latent_, absorbed.row(t) + to + heads_.head_dim, 0.0f);
      }
    }
  });
  rotate(context, absorbed, heads_.heads, rope);
  return absl::OkStatus();
}

/// Puts the rows' latents and rotated keys, `latent` [T, latent + rope], into the cache.
void LatentAttention::append(const ComputeContext& context, MatView<float> latent,
                             const MixerStep& step) const {
  const ArenaScope scope(*context.arena);
  const MatView<float> keys = context.arena->allocate_rows<float>(latent.rows, heads_.head_dim);
  const MatView<float> values = context.arena->allocate_rows<float>(latent.rows, heads_.head_dim);
  const MatView<float> only_latent = latent.cols_between(0, latent_);
  context.for_rows(latent.rows, 2 * keys.cols, [&](Range part) {
    kv_norm_.apply(*context.kernels, only_latent, only_latent, part);
    for (int64_t t = part.begin; t < part.end; ++t) {
      std::fill_n(keys.row(t), keys.cols, 0.0f);
      std::fill_n(values.row(t), values.cols, 0.0f);
    }
    CopyCols(latent, latent_, keys, 0, rope_dim_, part);
    CopyCols(latent, 0, keys, rope_dim_, latent_, part);
    CopyCols(latent, 0, values, 0, latent_, part);
  });
  rotate(context, keys, 1, step.rope);
  if (picks_ > 0) {
    context.for_rows(latent.rows, rope_dim_,
                     [&](Range part) { CopyCols(keys, 0, values, latent_, rope_dim_, part); });
  }
  AppendToCache(context, heads_.cache_of(step), step, keys, values);
}

/// y = o(every head's value matrix applied to what it attended, times the sigmoid of its gate where there are gates).
absl::Status LatentAttention::give_out(const ComputeContext& context, MatView<const float> attended,
                                       MatView<float> gates, MatView<float> y) const {
  const ArenaScope scope(*context.arena);
  Arena& arena = *context.arena;
  const int64_t tokens = attended.rows;
  const MatView<float> by_head = arena.allocate_rows<float>(heads_.heads * tokens, latent_);
  const MatView<float> values = arena.allocate_rows<float>(heads_.heads * tokens, value_dim_);
  const MatView<float> rows = arena.allocate_rows<float>(tokens, int64_t{heads_.heads} * value_dim_);
  context.for_rows(tokens, attended.cols, [&](Range part) {
    for (int64_t h = 0; h < heads_.heads; ++h) {
      CopyCols(attended, h * heads_.head_dim, by_head.rows_between(h * tokens, (h + 1) * tokens), 0, latent_,
               part);
    }
  });
  RETURN_IF_ERROR(RunHeads(context, values_, by_head, values));
  context.for_rows(tokens, rows.cols, [&](Range part) {
    for (int64_t h = 0; h < heads_.heads; ++h) {
      CopyCols(values.rows_between(h * tokens, (h + 1) * tokens), 0, rows, h * value_dim_, value_dim_, part);
    }
  });
  if (gate_) {
    const int64_t heads = heads_.heads;
    ApplyHeadGates(context, MatView<const float>(gates.data, tokens * heads, 1),
                   MatView<float>(rows.data, tokens * heads, value_dim_));
  }
  LinearInput input(rows);
  const LinearTask out[] = {{&o_, y, input.all_rows()}};
  return RunLinears(context, input, out);
}

void LatentAttention::rotate(const ComputeContext& context, MatView<float> x, int heads,
                             const RopeRows& rope) const {
  if (!rotates_) return;
  context.for_rows(x.rows, int64_t{heads} * rope_dim_, [&](Range part) {
    context.kernels->rope({.x = x,
                           .heads = heads,
                           .head_dim = heads_.head_dim,
                           .rotary = rope_dim_,
                           .cosine = rope.cosine,
                           .sine = rope.sine,
                           .pairing = pairing_,
                           .rows = part});
  });
}

}  // namespace shoal
