#include "compute/blocks/latent_attention.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/status.h"
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
  const LinearSpec& q_in = spec.q_a ? *spec.q_a : spec.q;
  std::vector<const LinearSpec*> parts = {&q_in, &spec.kv_a};
  if (spec.gate) parts.push_back(&*spec.gate);
  ASSIGN_OR_RETURN(std::vector<Linear> in, Linear::LoadTogether(loader, parts, pool));
  attention.kv_a_ = std::move(in[1]);
  if (spec.gate) attention.gate_ = std::move(in[2]);
  if (spec.q_a) {
    attention.q_a_ = std::move(in[0]);
    ASSIGN_OR_RETURN(attention.q_norm_, Norm::Load(loader, *spec.q_norm));
    ASSIGN_OR_RETURN(attention.q_, Linear::Load(loader, spec.q, pool));
  } else {
    attention.q_ = std::move(in[0]);
  }
  ASSIGN_OR_RETURN(attention.kv_norm_, Norm::Load(loader, spec.kv_norm));
  ASSIGN_OR_RETURN(attention.keys_, LoadHeads(loader, spec.keys, pool));
  ASSIGN_OR_RETURN(attention.values_, LoadHeads(loader, spec.values, pool));
  ASSIGN_OR_RETURN(attention.o_, Linear::Load(loader, spec.o, pool));
  return attention;
}

int64_t LatentAttention::bytes() const {
  return (q_a_ ? q_a_->bytes() + q_norm_->bytes() : 0) + q_.bytes() + kv_a_.bytes() + kv_norm_.bytes() +
         BytesOf(keys_) + BytesOf(values_) + (gate_ ? gate_->bytes() : 0) + o_.bytes();
}

absl::Status LatentAttention::forward(const ComputeContext& context, LinearInput& input,
                                      const MixerStep& step, MatView<float> y) const {
  const ArenaScope scope(*context.arena);
  Arena& arena = *context.arena;
  const int64_t tokens = input.rows();
  PhaseTimer timer(context, StepPhase::kQkv);
  Made made{.latent = arena.allocate_rows<float>(tokens, kv_a_.rows()), .gates = {}};
  if (gate_) made.gates = arena.allocate_rows<float>(tokens, gate_->rows());
  ASSIGN_OR_RETURN(const MatView<float> q, queries(context, input, made));
  apply_temperature(context, step, q);
  const MatView<float> absorbed = arena.allocate_rows<float>(tokens, int64_t{heads_.heads} * heads_.head_dim);
  RETURN_IF_ERROR(absorb(context, q, step.rope, absorbed));

  timer.next(StepPhase::kRopeAppend);
  const KvLayerView cache = heads_.cache_of(step);
  append(context, made.latent, step, cache);

  timer.next(StepPhase::kAttention);
  const MatView<float> attended = arena.allocate_rows<float>(tokens, absorbed.cols);
  const std::span<AttentionRow> rows = arena.allocate<AttentionRow>(tokens);
  for (int64_t t = 0; t < tokens; ++t) {
    const auto i = static_cast<size_t>(t);
    rows[i] = {.query = absorbed.row(t),
               .out = attended.row(t),
               .blocks = step.places.block_tables[i],
               .positions = {0, step.places.positions[i] + 1}};
  }
  heads_.attend(context, cache, rows);
  timer.next(StepPhase::kAttentionOut);
  return give_out(context, attended, made.gates, y);
}

/// The queries [T, heads * (nope + rope)]; `made` gets the other rows, as all are made of the input.
absl::StatusOr<MatView<float>> LatentAttention::queries(const ComputeContext& context, LinearInput& input,
                                                        const Made& made) const {
  Arena& arena = *context.arena;
  const Range all = input.all_rows();
  const MatView<float> q = arena.allocate_rows<float>(input.rows(), q_.rows());
  const MatView<float> low = q_a_ ? arena.allocate_rows<float>(input.rows(), q_a_->rows()) : q;
  LinearTask tasks[3] = {{q_a_ ? &*q_a_ : &q_, low, all}, {&kv_a_, made.latent, all}};
  size_t count = 2;
  if (gate_) tasks[count++] = {&*gate_, made.gates, all};
  RETURN_IF_ERROR(RunLinears(context, input, std::span(tasks).first(count)));
  if (!q_a_) return q;
  LinearInput normed(low);
  RETURN_IF_ERROR(normed.fill(context, q_.activation_group(context.activations),
                              [&](Range part) { q_norm_->apply(*context.kernels, low, low, part); }));
  const LinearTask one[] = {{&q_, q, normed.all_rows()}};
  RETURN_IF_ERROR(RunLinears(context, normed, one));
  return q;
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
void LatentAttention::append(const ComputeContext& context, MatView<float> latent, const MixerStep& step,
                             const KvLayerView& cache) const {
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
  AppendKeysAndValues(context, cache, step, keys, values);
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
