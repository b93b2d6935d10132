#include "compute/stage.h"

#include <algorithm>
#include <atomic>
#include <numeric>
#include <optional>
#include <utility>
#include <variant>

#include "base/check.h"
#include "base/status.h"
#include "compute/blocks/feed_forward_blocks.h"
#include "compute/blocks/linear.h"
#include "compute/blocks/mixer_blocks.h"
#include "compute/blocks/norm_rope.h"
#include "compute/row_ops.h"
#include "compute/stage_progress.h"
#include "compute/step_profile.h"
#include "numeric/transcendental.h"

namespace shoal {
namespace {

/// More rows pick most experts of a layer anyway: there is nothing to guess.
constexpr int64_t kReadAheadRows = 8;

/// One layer, built from its LayerSpec.
struct Layer {
  std::optional<Norm> mixer_norm;
  AnyMixerBlock mixer;
  KvLayerShape cache_shape;
  std::optional<size_t> rope;  ///< Which of the stage's tables, where the mixer rotates by positions.
  std::optional<Norm> mixer_out_norm;
  std::optional<Norm> feed_forward_norm;
  AnyFeedForward feed_forward;
  std::optional<Norm> feed_forward_out_norm;
  std::optional<float> output_scale;
  bool parallel = false;
  float residual_scale = 1;

  int64_t bytes() const {
    const auto bytes_of = [](const auto& block) { return block.bytes(); };
    int64_t bytes = std::visit(bytes_of, mixer) + std::visit(bytes_of, feed_forward);
    for (const auto* norm : {&mixer_norm, &mixer_out_norm, &feed_forward_norm, &feed_forward_out_norm}) {
      if (*norm) bytes += (*norm)->bytes();
    }
    return bytes + (output_scale ? int64_t{sizeof(float)} : 0);
  }
};

class CpuStage final : public Stage {
 public:
  explicit CpuStage(const StageOptions& options) : options_(options) {}

  absl::Status load(const ResolvedWeights& weights, PackedStore* store, ThreadPool& pool,
                    const LoadProgress& report);

  const StageOptions& options() const override { return options_; }
  int64_t bytes() const override;
  std::vector<KvLayerShape> kv_shapes() const override;
  void set_read_ahead(ReadAhead read_ahead) override { read_ahead_ = std::move(read_ahead); }
  int64_t kv_saturated() const override { return kv_saturated_.load(std::memory_order_relaxed); }
  absl::Status embed(const ComputeContext& context, std::span<const int32_t> tokens,
                     MatView<float> x) override;
  absl::Status forward(const ComputeContext& context, const StageStep& step, KvCache& cache,
                       MatView<float> x) override;
  absl::Status final_norm(const ComputeContext& context, MatView<const float> x,
                          MatView<float> hidden) override;
  absl::Status head(const ComputeContext& context, MatView<const float> x, MatView<float> logits) override {
    return logits_of(context, final_norm_, x, logits);
  }
  absl::Status mtp_forward(const ComputeContext& context, const StageStep& step,
                           std::span<const int32_t> next, KvCache& cache, MatView<float> x) override;
  absl::Status mtp_head(const ComputeContext& context, MatView<const float> x,
                        MatView<float> logits) override {
    return logits_of(context, mtp_->norm, x, logits);
  }

 private:
  /// What multi-token prediction has beside its layer, which is the last of layers_.
  struct Mtp {
    Norm embedding_norm, hidden_norm;
    Linear projection;
    Norm norm;

    int64_t bytes() const {
      return embedding_norm.bytes() + hidden_norm.bytes() + projection.bytes() + norm.bytes();
    }
  };
  /// What all layers of a step share.
  struct Shared {
    KvCache* cache = nullptr;
    RowPlaces places;
    std::span<const StateSpan> states;  ///< Empty where no layer here has any.
    std::span<RopeRows> ropes;
    MatView<float> normed;  ///< [T, D]
    MatView<float> out;     ///< [T, D]
    MatView<float> before;  ///< [T, D], x as it came to the layer; no data where nobody asks for bad slices.
  };
  /// What is left of a step when bad slices have gone.
  struct Batch {
    std::span<StepSlice> slices;
    std::span<size_t> indices;  ///< Of these slices in the step.
    MatView<float> x;
    Shared shared;
  };
  absl::Status load_layer(const ResolvedWeights& weights, const WeightLoader& loader, int64_t index,
                          ThreadPool& pool);
  absl::Status load_mtp(const ResolvedWeights& weights, const WeightLoader& loader, ThreadPool& pool);
  absl::Status load_embedding_and_head(const WeightLoader& loader, const ModelSpec& spec, ThreadPool& pool,
                                       StageProgress& progress);
  size_t rope_index(const RopeSpec& spec);
  bool keeps_states() const;
  Shared prepare(const ComputeContext& context, KvCache& cache, std::span<const StepSlice> slices,
                 int64_t rows) const;
  Batch batch_of(const ComputeContext& context, const StageStep& step, KvCache& cache,
                 MatView<float> x) const;
  absl::Status run_layer_without_bad(const ComputeContext& context, const StageStep& step, LayerId id,
                                     Batch& batch);
  absl::Status drop_bad(const ComputeContext& context, const StageStep& step, LayerId id,
                        const absl::Status& why, Batch& batch);
  absl::Status run_alone(const ComputeContext& context, const StageStep& step, KvCache& cache, LayerId id,
                         StepSlice slice, MatView<const float> x);
  absl::Status mix(const ComputeContext& context, LayerId id, const Shared& shared, MatView<float> x);
  absl::Status run_layer(const ComputeContext& context, const StageStep& step, LayerId id,
                         const Shared& shared, MatView<float> x);
  void guess_next(const ComputeContext& context, LayerId id, MatView<const float> x) const;
  absl::Status logits_of(const ComputeContext& context, const Norm& norm, MatView<const float> x,
                         MatView<float> logits);
  /// The factor and the soft cap of logits.
  void finish_logits(const ComputeContext& context, MatView<float> logits) const;
  const Linear& head_linear() const { return head_is_embedding_ ? embedding_ : head_; }

  StageOptions options_;
  int64_t width_ = 0;
  int64_t vocabulary_ = 0;
  float embedding_scale_ = 1;
  std::optional<Norm> embedding_norm_;
  float logits_scale_ = 1;
  float final_logit_softcap_ = 0;
  Linear embedding_;  // As a linear without bias, since a tied head multiplies by it.
  Norm final_norm_;
  Linear head_;
  bool head_is_embedding_ = false;
  std::vector<Layer> layers_;  // Those of cached_layers().
  std::optional<Mtp> mtp_;
  ReadAhead read_ahead_;                // Empty: all experts are in memory.
  std::vector<RopeTable> rope_tables_;  // Distinct ones of the layers.
  std::atomic<int64_t> kv_saturated_ = 0;
};

absl::Status CpuStage::load(const ResolvedWeights& weights, PackedStore* store, ThreadPool& pool,
                            const LoadProgress& report) {
  const WeightLoader loader(weights, store);
  const ModelSpec& spec = weights.spec();
  width_ = spec.width;
  vocabulary_ = spec.vocabulary;
  embedding_scale_ = spec.embedding_scale;
  logits_scale_ = spec.logits_scale;
  final_logit_softcap_ = spec.final_logit_softcap;
  StageProgress progress(report, weights, options_);
  for (int64_t i = options_.layers.begin; i < options_.layers.end; ++i) {
    RETURN_IF_ERROR(load_layer(weights, loader, i, pool));
    progress.read(i, false);
  }
  if (options_.mtp) RETURN_IF_ERROR(load_mtp(weights, loader, pool));
  return load_embedding_and_head(loader, spec, pool, progress);
}

absl::Status CpuStage::load_layer(const ResolvedWeights& weights, const WeightLoader& loader, int64_t index,
                                  ThreadPool& pool) {
  const LayerSpec& spec = *FindLayer(weights.spec(), index);
  Layer layer;
  ASSIGN_OR_RETURN(layer.mixer_norm, Norm::LoadIfAny(loader, spec.mixer_norm));
  layer.cache_shape = CacheShapeOf(spec.mixer);
  layer.parallel = spec.parallel;
  layer.residual_scale = spec.residual_scale;
  if (const RopeSpec* rope = PositionRopeOf(spec.mixer)) layer.rope = rope_index(*rope);
  ASSIGN_OR_RETURN(layer.mixer, LoadMixer(loader, spec.mixer, pool));
  ASSIGN_OR_RETURN(layer.mixer_out_norm, Norm::LoadIfAny(loader, spec.mixer_out_norm));
  ASSIGN_OR_RETURN(layer.feed_forward_norm, Norm::LoadIfAny(loader, spec.feed_forward_norm));
  ASSIGN_OR_RETURN(layer.feed_forward_out_norm, Norm::LoadIfAny(loader, spec.feed_forward_out_norm));
  ASSIGN_OR_RETURN(layer.feed_forward, LoadFeedForward(weights, loader, options_, index, pool));
  if (spec.output_scale) {
    ASSIGN_OR_RETURN(const std::vector<float> scale, loader.read_vector(*spec.output_scale));
    layer.output_scale = scale[0];
  }
  layers_.push_back(std::move(layer));
  return absl::OkStatus();
}

absl::Status CpuStage::load_mtp(const ResolvedWeights& weights, const WeightLoader& loader,
                                ThreadPool& pool) {
  const MtpSpec& spec = *weights.spec().mtp;
  Mtp& mtp = mtp_.emplace();
  ASSIGN_OR_RETURN(mtp.embedding_norm, Norm::Load(loader, spec.embedding_norm));
  ASSIGN_OR_RETURN(mtp.hidden_norm, Norm::Load(loader, spec.hidden_norm));
  ASSIGN_OR_RETURN(mtp.projection, Linear::Load(loader, spec.projection, pool));
  RETURN_IF_ERROR(load_layer(weights, loader, weights.spec().layer_count(), pool));
  ASSIGN_OR_RETURN(mtp.norm, Norm::Load(loader, spec.norm));
  return absl::OkStatus();
}

absl::Status CpuStage::load_embedding_and_head(const WeightLoader& loader, const ModelSpec& spec,
                                               ThreadPool& pool, StageProgress& progress) {
  if (options_.table()) {
    ASSIGN_OR_RETURN(embedding_, Linear::Load(loader, spec.embedding, pool));
    ASSIGN_OR_RETURN(embedding_norm_, Norm::LoadIfAny(loader, spec.embedding_norm));
    progress.read(-1, false);
  }
  if (options_.head) {
    head_is_embedding_ = options_.table() && spec.tied_head;
    ASSIGN_OR_RETURN(final_norm_, Norm::Load(loader, spec.final_norm));
    if (!head_is_embedding_) {
      ASSIGN_OR_RETURN(head_, Linear::Load(loader, spec.head, pool));
    }
    progress.read(-1, true);
  }
  return absl::OkStatus();
}

size_t CpuStage::rope_index(const RopeSpec& spec) {
  RopeTable table = MakeRopeTable(spec);
  for (size_t i = 0; i < rope_tables_.size(); ++i) {
    if (rope_tables_[i] == table) return i;
  }
  rope_tables_.push_back(std::move(table));
  return rope_tables_.size() - 1;
}

int64_t CpuStage::bytes() const {
  int64_t bytes = embedding_.bytes() + final_norm_.bytes() + head_.bytes();
  if (embedding_norm_) bytes += embedding_norm_->bytes();
  for (const Layer& layer : layers_) bytes += layer.bytes();
  if (mtp_) bytes += mtp_->bytes();
  return bytes;
}

std::vector<KvLayerShape> CpuStage::kv_shapes() const {
  std::vector<KvLayerShape> shapes;
  for (const Layer& layer : layers_) shapes.push_back(layer.cache_shape);
  return shapes;
}

absl::Status CpuStage::embed(const ComputeContext& context, std::span<const int32_t> tokens,
                             MatView<float> x) {
  const PhaseTimer timer(context, StepPhase::kEmbed);
  SHOAL_CHECK(options_.table() && x.cols == width_ && x.rows == static_cast<int64_t>(tokens.size()));
  for (const int32_t token : tokens) {
    if (token < 0 || token >= vocabulary_) {
      return InvalidArgument("token {} is outside the vocabulary [0, {})", token, vocabulary_);
    }
  }
  std::atomic<bool> finite = true;
  context.for_rows(x.rows, x.cols, [&](Range rows) {
    for (int64_t t = rows.begin; t < rows.end; ++t) {
      float* row = x.row(t);
      embedding_.weight().unpack_row(tokens[static_cast<size_t>(t)], row);
    }
    if (embedding_scale_ != 1) Multiply(x, embedding_scale_, rows);
    if (embedding_norm_) embedding_norm_->apply(*context.kernels, x, x, rows);
    if (!AllFinite(x, rows)) finite.store(false, std::memory_order_relaxed);
  });
  for (int64_t t = 0; !finite && t < x.rows; ++t) {
    if (AllFinite(x, {t, t + 1})) continue;
    return OutOfRange("the embedding of token {} is not finite (NaN or infinity)",
                      tokens[static_cast<size_t>(t)]);
  }
  return absl::OkStatus();
}

bool CpuStage::keeps_states() const {
  return std::ranges::any_of(layers_, [](const Layer& layer) { return layer.cache_shape.state_values > 0; });
}

namespace {

/// The rows of all slices, cut where states are written.
std::span<const StateSpan> StateSpansOf(Arena& arena, std::span<const StepSlice> slices) {
  int64_t count = 0;
  for (const StepSlice& slice : slices) count += std::ssize(slice.state_to);
  const std::span<StateSpan> spans = arena.allocate<StateSpan>(count);
  auto out = spans.begin();
  for (const StepSlice& slice : slices) {
    if (slice.state_to.empty()) continue;  // Of rows that pass the layer for multi-token prediction alone.
    int64_t position = slice.position;
    SlotId from = slice.state_from;
    for (const StateWrite& write : slice.state_to) {
      SHOAL_CHECK(write.position > position && write.slot != from);
      *out++ = {slice.row_begin + position - slice.position, write.position - position, from, write.slot};
      position = write.position;
      from = write.slot;
    }
    SHOAL_CHECK_EQ(position, slice.position + slice.rows);
  }
  return spans;
}

absl::Status CheckStates(const KvCache& cache, std::span<const StepSlice> slices) {
  for (const StepSlice& slice : slices) {
    if (slice.state_to.empty()) continue;  // A model without states.
    const int64_t held = slice.state_from == kNoState ? 0 : cache.state_position(slice.state_from);
    if (held == slice.position) continue;
    return FailedPrecondition("state slot {}: expected the state behind {} tokens, found {}",
                              slice.state_from, slice.position,
                              held < 0 ? "none" : fmt::format("that behind {}", held));
  }
  return absl::OkStatus();
}

}  // namespace

CpuStage::Shared CpuStage::prepare(const ComputeContext& context, KvCache& cache,
                                   std::span<const StepSlice> slices, int64_t rows) const {
  Arena& arena = *context.arena;
  const std::span<int64_t> positions = arena.allocate<int64_t>(rows);
  const std::span<const BlockId*> tables = arena.allocate<const BlockId*>(rows);
  const std::span<bool> long_rope = arena.allocate<bool>(rows);
  int64_t row = 0;
  for (const StepSlice& slice : slices) {
    SHOAL_CHECK_EQ(slice.row_begin, row);
    SHOAL_CHECK_GE(static_cast<int64_t>(slice.blocks.size()), BlocksFor(slice.position + slice.rows));
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
  SHOAL_CHECK(x.cols == width_ && cache.layers() == options_.cached_layers());
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
  const Layer& layer = layers_[static_cast<size_t>(id.value - options_.layers.begin)];
  const MixerStep step{.places = shared.places,
                       .rope = layer.rope ? shared.ropes[*layer.rope] : RopeRows(),
                       .states = shared.states,
                       .cache = *shared.cache,
                       .layer = id,
                       .saturated = kv_saturated_};
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

void CpuStage::guess_next(const ComputeContext& context, LayerId id, MatView<const float> x) const {
  const auto first = static_cast<size_t>(id.value + 1 - options_.layers.begin);
  for (size_t i = first; i < static_cast<size_t>(options_.layers.size()); ++i) {
    const Moe* moe = std::get_if<Moe>(&layers_[i].feed_forward);
    if (moe == nullptr) continue;
    const ArenaScope scope(*context.arena);
    const Layer& next = layers_[i];
    const std::span<const int32_t> ids =
        moe->guess(context, next.parallel ? next.mixer_norm : next.feed_forward_norm, x);
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

/// x += mixer(norm(x)); x += feed_forward(norm(x)), where the layer has them with norms of what is added, a factor on it,
/// or one norm for both.
absl::Status CpuStage::run_layer(const ComputeContext& context, const StageStep& step, LayerId id,
                                 const Shared& shared, MatView<float> x) {
  const PhaseTimer timer(context, StepPhase::kNormQuantize);
  const Layer& layer = layers_[static_cast<size_t>(id.value - options_.layers.begin)];
  const Kernels& kernels = *context.kernels;
  RETURN_IF_ERROR(mix(context, id, shared, x));
  const ArenaScope scope(*context.arena);
  LinearInput input(shared.normed);
  const Moe* moe = std::get_if<Moe>(&layer.feed_forward);
  const int group = std::visit([&](const auto& block) { return block.input_group(context.activations); },
                               layer.feed_forward);
  const float* const scales = ScalesOf(*context.arena, layer.residual_scale, x.rows);
  RETURN_IF_ERROR(input.fill(context, group, [&](Range rows) {
    if (layer.mixer_out_norm) layer.mixer_out_norm->apply(kernels, shared.out, shared.out, rows);
    kernels.add_rows({.x = shared.out, .scales = scales, .y = x, .rows = rows});
    // In a parallel layer `normed` still holds what the mixer read.
    if (!layer.parallel) NormOrCopy(kernels, layer.feed_forward_norm, x, shared.normed, rows);
  }));
  const bool adds_itself = moe != nullptr && !layer.feed_forward_out_norm && scales == nullptr;
  if (moe != nullptr) {
    SHOAL_CHECK(step.experts != nullptr);
    const MatView<float> y = adds_itself ? x : shared.out;
    if (!adds_itself) std::fill_n(y.data, y.rows * y.cols, 0.0f);
    const auto guess = [&] { guess_next(context, id, x); };
    const absl::FunctionRef<void()> after_dispatch = guess;
    const bool guesses = read_ahead_ && x.rows <= kReadAheadRows;
    RETURN_IF_ERROR(moe->forward(context, id, input, x,
                                 {*step.experts, step.on_routing, guesses ? &after_dispatch : nullptr}, y));
  } else if (const auto* segmented = std::get_if<SegmentedMlp>(&layer.feed_forward)) {
    SHOAL_CHECK(step.experts != nullptr);
    RETURN_IF_ERROR(segmented->forward(context, id, input, *step.experts, shared.out));
  } else {
    RETURN_IF_ERROR(std::get<Mlp>(layer.feed_forward).forward(context, input, shared.out));
  }
  if (!adds_itself) {
    context.for_rows(x.rows, x.cols, [&](Range rows) {
      if (layer.feed_forward_out_norm) {
        layer.feed_forward_out_norm->apply(kernels, shared.out, shared.out, rows);
      }
      kernels.add_rows({.x = shared.out, .scales = scales, .y = x, .rows = rows});
    });
  }
  std::atomic<bool> finite = true;
  context.for_rows(x.rows, x.cols, [&](Range rows) {
    if (layer.output_scale) Multiply(x, *layer.output_scale, rows);
    if (!AllFinite(x, rows)) finite.store(false, std::memory_order_relaxed);
  });
  return finite ? absl::OkStatus() : OutOfRange("an activation is not finite (NaN or infinity)");
}

absl::Status CpuStage::final_norm(const ComputeContext& context, MatView<const float> x,
                                  MatView<float> hidden) {
  SHOAL_CHECK(options_.head && x.cols == width_ && hidden.rows == x.rows && hidden.cols == width_);
  const PhaseTimer timer(context, StepPhase::kHead);
  context.for_rows(x.rows, x.cols, [&](Range rows) { final_norm_.apply(*context.kernels, x, hidden, rows); });
  if (AllFinite(hidden, {0, hidden.rows})) return absl::OkStatus();
  return OutOfRange("final norm: a value is not finite (NaN or infinity)");
}

absl::Status CpuStage::mtp_forward(const ComputeContext& context, const StageStep& step,
                                   std::span<const int32_t> next, KvCache& cache, MatView<float> x) {
  SHOAL_CHECK(mtp_.has_value() && x.cols == width_ && cache.layers() == options_.cached_layers());
  if (x.rows == 0) return absl::OkStatus();
  const ArenaScope scope(*context.arena);
  const MatView<float> both = context.arena->allocate_rows<float>(x.rows, 2 * width_);
  const MatView<float> embedded = both.cols_between(0, width_);
  const MatView<float> hidden = both.cols_between(width_, 2 * width_);
  RETURN_IF_ERROR(embed(context, next, embedded));
  const Kernels& kernels = *context.kernels;
  context.for_rows(x.rows, 2 * width_, [&](Range rows) {
    mtp_->embedding_norm.apply(kernels, embedded, embedded, rows);
    final_norm_.apply(kernels, x, hidden, rows);
    mtp_->hidden_norm.apply(kernels, hidden, hidden, rows);
  });
  LinearInput input(both);
  const LinearTask tasks[] = {{&mtp_->projection, x, input.all_rows()}};
  RETURN_IF_ERROR(Annotate(RunLinears(context, input, tasks), "MTP projection"));
  const LayerId id{static_cast<int32_t>(options_.layers.end)};
  if (step.before_layer) RETURN_IF_ERROR(step.before_layer(id));
  const absl::Status status = run_layer(context, step, id, prepare(context, cache, step.slices, x.rows), x);
  return status.ok() ? status : Annotate(status, "MTP layer");
}

absl::Status CpuStage::logits_of(const ComputeContext& context, const Norm& norm, MatView<const float> x,
                                 MatView<float> logits) {
  SHOAL_CHECK(options_.head && x.cols == width_ && logits.rows == x.rows && logits.cols == vocabulary_);
  const PhaseTimer timer(context, StepPhase::kHead);
  const ArenaScope scope(*context.arena);
  const MatView<float> normed = context.arena->allocate_rows<float>(x.rows, x.cols);
  context.for_rows(x.rows, x.cols, [&](Range rows) { norm.apply(*context.kernels, x, normed, rows); });
  LinearInput input(normed);
  const LinearTask tasks[] = {{&head_linear(), logits, input.all_rows()}};
  RETURN_IF_ERROR(Annotate(RunLinears(context, input, tasks), "output head"));
  if (logits_scale_ != 1 || final_logit_softcap_ > 0) finish_logits(context, logits);
  return absl::OkStatus();
}

/// By columns, as decoding has a row or a few and a vocabulary of 262,144.
void CpuStage::finish_logits(const ComputeContext& context, MatView<float> logits) const {
  if (logits_scale_ != 1) {
    context.for_ranges(logits.cols, logits.rows * logits.cols, [&](Range part) {
      Multiply(logits.cols_between(part.begin, part.end), logits_scale_, {0, logits.rows});
    });
  }
  if (final_logit_softcap_ == 0) return;
  constexpr int64_t kCostOfTanh = 64;  // In values that a plain pass would handle.
  context.for_ranges(logits.cols, logits.rows * logits.cols * kCostOfTanh, [&](Range part) {
    for (int64_t r = 0; r < logits.rows; ++r) {
      for (int64_t c = part.begin; c < part.end; ++c) {
        logits.at(r, c) =
            final_logit_softcap_ *
            static_cast<float>(Tanh(static_cast<double>(logits.at(r, c) / final_logit_softcap_)));
      }
    }
  });
}

}  // namespace

absl::StatusOr<std::unique_ptr<Stage>> Stage::Load(const ResolvedWeights& weights,
                                                   const StageOptions& options, ThreadPool& pool,
                                                   const LoadProgress& progress, PackedStore* store) {
  SHOAL_CHECK(0 <= options.layers.begin && options.layers.begin <= options.layers.end);
  SHOAL_CHECK_LE(options.layers.end, weights.spec().layer_count());
  SHOAL_CHECK(!options.mtp || (options.head && weights.spec().mtp));  // As CheckTaken and plans see to it.
  auto stage = std::make_unique<CpuStage>(options);
  RETURN_IF_ERROR(stage->load(weights, store, pool, progress));
  return stage;
}

}  // namespace shoal
