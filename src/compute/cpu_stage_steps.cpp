#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <utility>
#include <variant>
#include <vector>

#include "base/check.h"
#include "base/status.h"
#include "compute/cpu_stage.h"
#include "compute/row_ops.h"
#include "compute/state_spans.h"
#include "compute/step_profile.h"

namespace shoal {
namespace {

/// More rows pick most experts of a layer anyway: there is nothing to guess.
constexpr int64_t kReadAheadRows = 8;

}  // namespace

CpuStage::Shared CpuStage::prepare(const ComputeContext& context, KvCache& cache,
                                   std::span<const StepSlice> slices, int64_t rows) const {
  Arena& arena = *context.arena;
  const std::span<int64_t> positions = arena.allocate<int64_t>(rows);
  const std::span<const BlockId*> tables = arena.allocate<const BlockId*>(rows);
  const std::span<bool> long_rope = arena.allocate<bool>(rows);
  const std::span<int32_t> tokens = arena.allocate<int32_t>(takes_tokens() ? rows : 0);
  int64_t row = 0;
  for (const StepSlice& slice : slices) {
    SHOAL_CHECK_EQ(slice.row_begin, row);
    SHOAL_CHECK_GE(static_cast<int64_t>(slice.blocks.size()), BlocksFor(slice.position + slice.rows));
    if (!tokens.empty()) {
      SHOAL_CHECK_EQ(std::ssize(slice.tokens), slice.rows);
      std::ranges::copy(slice.tokens, tokens.begin() + row);
    }
    for (int64_t i = 0; i < slice.rows; ++i, ++row) {
      positions[static_cast<size_t>(row)] = slice.position + i;
      tables[static_cast<size_t>(row)] = slice.blocks.data();
      long_rope[static_cast<size_t>(row)] = slice.long_rope;
    }
  }
  SHOAL_CHECK_EQ(row, rows);
  Shared shared{.cache = &cache,
                .places = {positions, tables},
                .states = {},
                .ropes = arena.allocate<RopeRows>(static_cast<int64_t>(rope_tables_.size())),
                .tokens = tokens,
                .normed = arena.allocate_rows<float>(rows, width_),
                .out = arena.allocate_rows<float>(rows, width_),
                .before = {}};
  if (keeps_states()) shared.states = StateSpansOf(arena, slices);
  const PhaseTimer timer(context, StepPhase::kRopeAppend);
  for (size_t i = 0; i < rope_tables_.size(); ++i) {
    shared.ropes[i] = MakeRopeRows(context, rope_tables_[i], positions, long_rope);
  }
  return shared;
}

absl::Status CpuStage::forward(const ComputeContext& context, const StageStep& step, KvCache& cache,
                               MatView<float> x) {
  SHOAL_CHECK(x.cols == row_width_ && cache.layers() == options_.cached_layers());
  if (x.rows == 0 || layers_.empty()) return absl::OkStatus();
  const ArenaScope scope(*context.arena);
  RETURN_IF_ERROR(CheckStates(cache, step.slices));
  for (const StepSlice& slice : step.slices) {
    for (const StateWrite& write : slice.state_to) cache.set_state_position(write.slot, -1);
  }
  Batch batch = batch_of(context, step, cache, x);
  for (int64_t i = options_.layers.begin; i < options_.layers.end && !batch.slices.empty(); ++i) {
    const LayerId id{static_cast<int32_t>(i)};
    if (step.before_layer) RETURN_IF_ERROR(step.before_layer(id));
    const absl::Status status = run_layer_without_bad(context, step, id, batch);
    if (!status.ok()) return Annotate(status, fmt::format("layer {}", i));
    if (step.after_layer) step.after_layer(id, batch.x);
  }
  for (const StepSlice& slice : batch.slices) {
    for (const StateWrite& write : slice.state_to) cache.set_state_position(write.slot, write.position);
  }
  return absl::OkStatus();
}

CpuStage::Batch CpuStage::batch_of(const ComputeContext& context, const StageStep& step, KvCache& cache,
                                   MatView<float> x) const {
  Arena& arena = *context.arena;
  Batch batch{.slices = arena.allocate<StepSlice>(std::ssize(step.slices)),
              .indices = arena.allocate<size_t>(std::ssize(step.slices)),
              .x = x,
              .shared = prepare(context, cache, step.slices, x.rows)};
  std::ranges::copy(step.slices, batch.slices.begin());
  std::iota(batch.indices.begin(), batch.indices.end(), size_t{0});
  if (step.on_bad_slice) batch.shared.before = arena.allocate_rows<float>(x.rows, x.cols);
  return batch;
}

/// Rows do not depend on their neighbours (I10), and a layer can be run again: it appends to the same positions
/// and writes to slots that it does not read. So where a value is not finite, each slice is tried alone.
absl::Status CpuStage::run_layer_without_bad(const ComputeContext& context, const StageStep& step, LayerId id,
                                             Batch& batch) {
  while (!batch.slices.empty()) {
    const int64_t saturated = kv_saturated();
    const absl::Status status = run_layer(context, step, id, batch.shared, batch.x);
    if (status.code() != absl::StatusCode::kOutOfRange || !step.on_bad_slice) return status;
    CopyRows(batch.shared.before, batch.x, 0);
    RETURN_IF_ERROR(drop_bad(context, step, id, status, batch));
    kv_saturated_.store(saturated, std::memory_order_relaxed);  // What is run again is counted again.
  }
  return absl::OkStatus();
}

/// Takes the slices that fail alone out of the batch. `why`: how all together failed.
absl::Status CpuStage::drop_bad(const ComputeContext& context, const StageStep& step, LayerId id,
                                const absl::Status& why, Batch& batch) {
  std::vector<absl::Status> alone(batch.slices.size(), why);
  for (size_t i = 0; i < alone.size() && alone.size() > 1; ++i) {
    if (step.before_layer) RETURN_IF_ERROR(step.before_layer(id));
    const StepSlice& slice = batch.slices[i];
    alone[i] = run_alone(context, step, *batch.shared.cache, id, slice,
                         batch.x.rows_between(slice.row_begin, slice.row_begin + slice.rows));
    if (!alone[i].ok() && alone[i].code() != absl::StatusCode::kOutOfRange) return alone[i];
  }
  size_t kept = 0;
  int64_t rows = 0;
  for (size_t i = 0; i < alone.size(); ++i) {
    StepSlice slice = batch.slices[i];
    if (!alone[i].ok()) {
      step.on_bad_slice(batch.indices[i], Annotate(alone[i], fmt::format("layer {}", id)));
      continue;
    }
    CopyRows(batch.x.rows_between(slice.row_begin, slice.row_begin + slice.rows), batch.x, rows);
    slice.row_begin = rows;
    rows += slice.rows;
    batch.slices[kept] = slice;
    batch.indices[kept++] = batch.indices[i];
  }
  if (kept == alone.size()) return why;  // No slice alone: not what its rows hold, but this node is at fault.
  const MatView<float> before = batch.shared.before.rows_between(0, rows);
  batch.slices = batch.slices.first(kept);
  batch.indices = batch.indices.first(kept);
  batch.x = batch.x.rows_between(0, rows);
  batch.shared = prepare(context, *batch.shared.cache, batch.slices, rows);
  batch.shared.before = before;
  return absl::OkStatus();
}

absl::Status CpuStage::run_alone(const ComputeContext& context, const StageStep& step, KvCache& cache,
                                 LayerId id, StepSlice slice, MatView<const float> x) {
  const ArenaScope scope(*context.arena);
  slice.row_begin = 0;
  const StageStep alone{.slices = {&slice, 1}, .experts = step.experts};
  const MatView<float> rows = context.arena->allocate_rows<float>(x.rows, x.cols);
  CopyRows(x, rows, 0);
  return run_layer(context, alone, id, prepare(context, cache, alone.slices, x.rows), rows);
}

/// out = mixer(norm(x)).
absl::Status CpuStage::mix(const ComputeContext& context, LayerId id, const Shared& shared,
                           MatView<float> x) {
  const ArenaScope scope(*context.arena);
  const StageLayer& layer = layers_[static_cast<size_t>(id.value - options_.layers.begin)];
  const MixerStep step{.places = shared.places,
                       .rope = layer.rope ? shared.ropes[*layer.rope] : RopeRows(),
                       .states = shared.states,
                       .cache = *shared.cache,
                       .layer = id,
                       .saturated = kv_saturated_,
                       .shared_kv = shared.shared_kv,
                       .picks = shared.picks};
  LinearInput input(shared.normed);
  const auto run = [&](const auto& mixer) -> absl::Status {
    RETURN_IF_ERROR(input.fill(context, mixer.input_group(context.activations), [&](Range rows) {
      if (shared.before.data != nullptr) {
        CopyRows(x.rows_between(rows.begin, rows.end), shared.before, rows.begin);
      }
      NormOrCopy(*context.kernels, layer.mixer_norm, x, shared.normed, rows);
    }));
    return mixer.forward(context, input, step, shared.out);
  };
  return std::visit(run, layer.mixer);
}

void CpuStage::guess_next(const ComputeContext& context, LayerId id, const Shared& shared,
                          MatView<const float> x) const {
  const auto first = static_cast<size_t>(id.value + 1 - options_.layers.begin);
  for (size_t i = first; i < static_cast<size_t>(options_.layers.size()); ++i) {
    const Moe* moe = std::get_if<Moe>(&layers_[i].feed_forward);
    if (moe == nullptr) continue;
    const ArenaScope scope(*context.arena);
    const StageLayer& next = layers_[i];
    const std::span<const int32_t> ids =
        moe->guess(context, next.parallel ? next.mixer_norm : next.feed_forward_norm, x, shared.tokens);
    const LayerId guessed{static_cast<int32_t>(options_.layers.begin + static_cast<int64_t>(i))};
    return read_ahead_(*context.arena, guessed, ids);
  }
}

namespace {

/// `scale` for each row of x, as add_rows takes it; nullptr for 1.
const float* ScalesOf(Arena& arena, float scale, int64_t rows) {
  if (scale == 1) return nullptr;
  const std::span<float> scales = arena.allocate<float>(rows);
  std::ranges::fill(scales, scale);
  return scales.data();
}

}  // namespace

absl::Status CpuStage::run_layer(const ComputeContext& context, const StageStep& step, LayerId id,
                                 const Shared& shared, MatView<float> x) {
  const PhaseTimer timer(context, StepPhase::kNormQuantize);
  const StageLayer& layer = layers_[static_cast<size_t>(id.value - options_.layers.begin)];
  if (layer.altup) return run_altup_layer(context, step, id, shared, x);
  if (layer.input) return run_input_layer(context, step, id, shared, x);
  if (carries_addend_) return run_addend_layer(context, step, id, shared, x);
  if (hyper_) return run_hyper_layer(context, step, id, shared, x);
  if (x.cols > width_) return run_picking_layer(context, step, id, shared, x);
  return run_residual_layer(context, step, id, shared, x);
}

/// x += mixer(norm(x)); x += feed_forward(norm(x)), where the layer has them with norms of what is added, a factor on it,
/// or one norm for both.
absl::Status CpuStage::run_residual_layer(const ComputeContext& context, const StageStep& step, LayerId id,
                                          const Shared& shared, MatView<float> x) {
  const StageLayer& layer = layers_[static_cast<size_t>(id.value - options_.layers.begin)];
  const Kernels& kernels = *context.kernels;
  RETURN_IF_ERROR(mix(context, id, shared, x));
  const ArenaScope scope(*context.arena);
  LinearInput input(shared.normed);
  const Moe* moe = std::get_if<Moe>(&layer.feed_forward);
  const bool ends = std::holds_alternative<NoFeedForwardBlock>(layer.feed_forward);
  const int group = std::visit([&](const auto& block) { return block.input_group(context.activations); },
                               layer.feed_forward);
  const float* const mixer_scales = ScalesOf(*context.arena, layer.mixer_scale, x.rows);
  const float* const scales = ScalesOf(*context.arena, layer.feed_forward_scale, x.rows);
  RETURN_IF_ERROR(input.fill(context, group, [&](Range rows) {
    if (layer.mixer_out_norm) layer.mixer_out_norm->apply(kernels, shared.out, shared.out, rows);
    kernels.add_rows({.x = shared.out, .scales = mixer_scales, .y = x, .rows = rows});
    // In a parallel layer `normed` still holds what the mixer read.
    if (!layer.parallel && !ends) NormOrCopy(kernels, layer.feed_forward_norm, x, shared.normed, rows);
  }));
  const bool adds_itself = ends || (moe != nullptr && !layer.feed_forward_out_norm && scales == nullptr);
  if (moe != nullptr) {
    SHOAL_CHECK(step.experts != nullptr);
    const MatView<float> y = adds_itself ? x : shared.out;
    if (!adds_itself) std::fill_n(y.data, y.rows * y.cols, 0.0f);
    const auto guess = [&] { guess_next(context, id, shared, x); };
    const absl::FunctionRef<void()> after_dispatch = guess;
    const bool guesses = read_ahead_ && x.rows <= kReadAheadRows;
    RETURN_IF_ERROR(moe->forward(
        context, id, input, x,
        {*step.experts, step.on_routing, guesses ? &after_dispatch : nullptr, shared.tokens, shared.routed},
        y));
  } else if (const auto* segmented = std::get_if<SegmentedMlp>(&layer.feed_forward)) {
    SHOAL_CHECK(step.experts != nullptr);
    RETURN_IF_ERROR(segmented->forward(context, id, input, *step.experts, shared.out));
  } else if (const auto* mlp = std::get_if<Mlp>(&layer.feed_forward)) {
    RETURN_IF_ERROR(mlp->forward(context, input, shared.out));
  }
  if (!adds_itself) {
    context.for_rows(x.rows, x.cols, [&](Range rows) {
      if (layer.feed_forward_out_norm) {
        layer.feed_forward_out_norm->apply(kernels, shared.out, shared.out, rows);
      }
      kernels.add_rows({.x = shared.out, .scales = scales, .y = x, .rows = rows});
    });
  }
  MatView<float> added;
  if (layer.input) {
    ASSIGN_OR_RETURN(added, layer.input->run(context, x, shared.layer_input));
  }
  std::atomic<bool> finite = true;
  context.for_rows(x.rows, x.cols, [&](Range rows) {
    if (layer.input) kernels.add_rows({.x = added, .y = x, .rows = rows});
    if (layer.output_scale) Multiply(x, *layer.output_scale, rows);
    if (!AllFinite(x, rows)) finite.store(false, std::memory_order_relaxed);
  });
  return finite ? absl::OkStatus() : OutOfRange("an activation is not finite (NaN or infinity)");
}

/// The same of a row that has an addend behind x (AddendUse).
absl::Status CpuStage::run_addend_layer(const ComputeContext& context, const StageStep& step, LayerId id,
                                        const Shared& shared, MatView<float> rows) {
  const AddendUse use = layers_[static_cast<size_t>(id.value - options_.layers.begin)].addend;
  const MatView<float> x = rows.cols_between(0, width_);
  const MatView<float> addend = rows.cols_between(width_, 2 * width_);
  if (shared.before.data != nullptr) CopyRows(rows, shared.before, 0);
  Shared of_x = shared;
  of_x.before = {};
  if (use == AddendUse::kSet) {
    FillRows(addend, 0, {0, addend.rows});
    of_x.routed = addend;
  }
  RETURN_IF_ERROR(run_residual_layer(context, step, id, of_x, x));
  if (use == AddendUse::kNone) return absl::OkStatus();
  std::atomic<bool> finite = true;
  context.for_rows(rows.rows, rows.cols, [&](Range part) {
    if (use == AddendUse::kAdd) {
      context.kernels->add_rows({.x = addend, .y = x, .rows = part});
      FillRows(addend, 0, part);
    }
    if (!AllFinite(rows, part)) finite.store(false, std::memory_order_relaxed);
  });
  return finite ? absl::OkStatus() : OutOfRange("an activation is not finite (NaN or infinity)");
}

/// The same of a row of several streams that mixer and feed-forward read and write by turns (HyperSpec). `x` is what they
/// read, and what they return is added to an x of zeros.
absl::Status CpuStage::run_hyper_layer(const ComputeContext& context, const StageStep& step, LayerId id,
                                       const Shared& shared, MatView<float> streams) {
  const ArenaScope scope(*context.arena);
  const StageLayer& layer = layers_[static_cast<size_t>(id.value - options_.layers.begin)];
  const MatView<float> x = context.arena->allocate_rows<float>(streams.rows, width_);
  const MatView<float> coefficients =
      context.arena->allocate_rows<float>(streams.rows, layer.mixer_hyper->coefficients());
  if (shared.before.data != nullptr) CopyRows(streams, shared.before, 0);
  Shared of_x = shared;
  of_x.before = {};
  layer.mixer_hyper->read(context, streams, coefficients, x);
  RETURN_IF_ERROR(mix(context, id, of_x, x));
  layer.mixer_hyper->write(context, shared.out, coefficients, streams);
  layer.feed_forward_hyper->read(context, streams, coefficients, x);
  LinearInput input(shared.normed);
  const int group = std::visit([&](const auto& block) { return block.input_group(context.activations); },
                               layer.feed_forward);
  RETURN_IF_ERROR(input.fill(context, group, [&](Range rows) {
    NormOrCopy(*context.kernels, layer.feed_forward_norm, x, shared.normed, rows);
    FillRows(shared.out, 0, rows);
  }));
  SHOAL_CHECK(step.experts != nullptr);
  const auto guess = [&] { guess_next(context, id, shared, x); };
  const absl::FunctionRef<void()> after_dispatch = guess;
  const bool guesses = read_ahead_ && x.rows <= kReadAheadRows;
  RETURN_IF_ERROR(
      std::get<Moe>(layer.feed_forward)
          .forward(context, id, input, x,
                   {*step.experts, step.on_routing, guesses ? &after_dispatch : nullptr, shared.tokens},
                   shared.out));
  layer.feed_forward_hyper->write(context, shared.out, coefficients, streams);
  if (AllFinite(streams, {0, streams.rows})) return absl::OkStatus();
  return OutOfRange("an activation is not finite (NaN or infinity)");
}

/// The same of a row that carries what layers picked (ModelSpec::carried_picks).
absl::Status CpuStage::run_picking_layer(const ComputeContext& context, const StageStep& step, LayerId id,
                                         const Shared& shared, MatView<float> x) {
  if (shared.before.data != nullptr) CopyRows(x, shared.before, 0);
  Shared of_layer = shared;
  of_layer.before = {};
  of_layer.picks = x.cols_between(width_, x.cols);
  return run_residual_layer(context, step, id, of_layer, x.cols_between(0, width_));
}

/// The same of a row that has, behind x, inputs of layers, and keys and values that layers have in common.
absl::Status CpuStage::run_input_layer(const ComputeContext& context, const StageStep& step, LayerId id,
                                       const Shared& shared, MatView<float> rows) {
  if (shared.before.data != nullptr) CopyRows(rows, shared.before, 0);
  Shared of_x = shared;
  of_x.before = {};
  of_x.shared_kv = altup_rows_.shared_kv_of(rows);
  of_x.layer_input = altup_rows_.input_of(rows, id.value);
  return run_residual_layer(context, step, id, of_x, altup_rows_.stream_of(rows, 0));
}

/// The same of a row of several streams (AltUpLayerSpec).
absl::Status CpuStage::run_altup_layer(const ComputeContext& context, const StageStep& step, LayerId id,
                                       const Shared& shared, MatView<float> x) {
  const ArenaScope scope(*context.arena);
  const Kernels& kernels = *context.kernels;
  const StageLayer& layer = layers_[static_cast<size_t>(id.value - options_.layers.begin)];
  const MatView<float> active = context.arena->allocate_rows<float>(x.rows, width_);
  const MatView<float> bypass = context.arena->allocate_rows<float>(x.rows, width_);
  if (shared.before.data != nullptr) CopyRows(x, shared.before, 0);
  RETURN_IF_ERROR(layer.altup->predict(context, altup_rows_.streams_of(x), active));
  Shared of_active = shared;
  of_active.before = {};
  of_active.shared_kv = altup_rows_.shared_kv_of(x);
  RETURN_IF_ERROR(mix(context, id, of_active, active));
  RETURN_IF_ERROR(layer.altup->bypass(context, shared.normed, bypass));
  LinearInput input(shared.normed);
  const int group = std::visit([&](const auto& block) { return block.input_group(context.activations); },
                               layer.feed_forward);
  RETURN_IF_ERROR(input.fill(context, group, [&](Range rows) {
    layer.mixer_out_norm->apply(kernels, shared.out, shared.out, rows);
    kernels.add_rows({.x = shared.out, .y = active, .rows = rows});
    kernels.add_rows({.x = bypass, .y = active, .rows = rows});
    Multiply(active, static_cast<float>(1 / std::sqrt(2.0)), rows);
    layer.feed_forward_norm->apply(kernels, active, shared.normed, rows);
  }));
  if (const auto* segmented = std::get_if<SegmentedMlp>(&layer.feed_forward)) {
    SHOAL_CHECK(step.experts != nullptr);
    RETURN_IF_ERROR(segmented->forward(context, id, input, *step.experts, shared.out));
  } else {
    RETURN_IF_ERROR(std::get<Mlp>(layer.feed_forward).forward(context, input, shared.out));
  }
  context.for_rows(x.rows, width_, [&](Range rows) {
    layer.feed_forward_out_norm->apply(kernels, shared.out, shared.out, rows);
    kernels.add_rows({.x = shared.out, .y = active, .rows = rows});
  });
  RETURN_IF_ERROR(
      layer.altup->correct(context, active, altup_rows_.input_of(x, id.value), altup_rows_.streams_of(x)));
  if (AllFinite(x, {0, x.rows})) return absl::OkStatus();
  return OutOfRange("an activation is not finite (NaN or infinity)");
}

}  // namespace shoal
