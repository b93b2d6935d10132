#include "compute/stage.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "compute/cpu_stage.h"
#include "compute/row_ops.h"
#include "compute/step_profile.h"
#include "numeric/transcendental.h"

namespace shoal {

absl::Status CpuStage::load(const ResolvedWeights& weights, PackedStore* store, ThreadPool& pool,
                            const LoadProgress& report) {
  const WeightLoader loader(weights, store);
  const ModelSpec& spec = weights.spec();
  width_ = spec.width;
  row_width_ = spec.row_width();
  if (spec.altup) altup_rows_ = AltUpRows(spec);
  carries_addend_ = spec.carries_addend;
  if (spec.hyper) {
    hyper_ = HyperRule{.width = spec.width,
                       .streams = spec.hyper->streams,
                       .rounds = spec.hyper->rounds,
                       .eps = spec.hyper->eps,
                       .norm_eps = spec.hyper->norm_eps};
  }
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
  StageLayer layer;
  ASSIGN_OR_RETURN(layer.mixer_norm, Norm::LoadIfAny(loader, spec.mixer_norm));
  layer.cache_shape = CacheShapeOf(spec.mixer);
  layer.parallel = spec.parallel;
  layer.mixer_scale = spec.residual_scale;
  layer.feed_forward_scale = spec.residual_scale * spec.feed_forward_scale;
  layer.addend = spec.addend;
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
  if (spec.altup) {
    ASSIGN_OR_RETURN(layer.altup, AltUpLayer::Load(loader, *spec.altup, pool));
  }
  if (spec.input) {
    ASSIGN_OR_RETURN(layer.input, LayerInput::Load(loader, *spec.input, pool));
  }
  if (spec.hyper) {
    ASSIGN_OR_RETURN(layer.mixer_hyper, HyperMix::Load(loader, *hyper_, spec.hyper->mixer, pool));
    ASSIGN_OR_RETURN(layer.feed_forward_hyper,
                     HyperMix::Load(loader, *hyper_, spec.hyper->feed_forward, pool));
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
    if (spec.altup) {
      ASSIGN_OR_RETURN(altup_begin_, AltUpBegin::Load(loader, spec, pool));
    }
    progress.read(-1, false);
  }
  if (options_.head) {
    head_is_embedding_ = options_.table() && spec.tied_head;
    ASSIGN_OR_RETURN(final_norm_, Norm::Load(loader, spec.final_norm));
    if (!head_is_embedding_) {
      ASSIGN_OR_RETURN(head_, Linear::Load(loader, spec.head, pool));
    }
    if (spec.altup && spec.altup->streams > 1) {
      ASSIGN_OR_RETURN(altup_end_, AltUpEnd::Load(loader, spec, pool));
    }
    if (spec.hyper) {
      ASSIGN_OR_RETURN(hyper_head_, HyperMix::Load(loader, *hyper_, spec.hyper->head, pool));
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
  if (altup_begin_) bytes += altup_begin_->bytes();
  if (altup_end_) bytes += altup_end_->bytes();
  if (hyper_head_) bytes += hyper_head_->bytes();
  for (const StageLayer& layer : layers_) bytes += layer.bytes();
  if (mtp_) bytes += mtp_->bytes();
  return bytes;
}

std::vector<KvLayerShape> CpuStage::kv_shapes() const {
  std::vector<KvLayerShape> shapes;
  for (const StageLayer& layer : layers_) shapes.push_back(layer.cache_shape);
  return shapes;
}

absl::Status CpuStage::embed(const ComputeContext& context, std::span<const int32_t> tokens,
                             MatView<float> x) {
  const PhaseTimer timer(context, StepPhase::kEmbed);
  const bool whole = x.cols == row_width_;  // Not where multi-token prediction asks.
  SHOAL_CHECK(options_.table() && (whole || x.cols == width_));
  SHOAL_CHECK_EQ(x.rows, static_cast<int64_t>(tokens.size()));
  for (const int32_t token : tokens) {
    if (token < 0 || token >= vocabulary_) {
      return InvalidArgument("token {} is outside the vocabulary [0, {})", token, vocabulary_);
    }
  }
  std::atomic<bool> finite = true;
  const MatView<float> embedded = x.cols_between(0, width_);
  context.for_rows(x.rows, width_, [&](Range rows) {
    for (int64_t t = rows.begin; t < rows.end; ++t) {
      embedding_.weight().unpack_row(tokens[static_cast<size_t>(t)], embedded.row(t));
    }
    if (embedding_scale_ != 1) Multiply(embedded, embedding_scale_, rows);
    if (embedding_norm_) embedding_norm_->apply(*context.kernels, embedded, embedded, rows);
    for (int64_t i = 1; hyper_ && whole && i < hyper_->streams; ++i) {
      CopyRows(embedded.rows_between(rows.begin, rows.end), x.cols_between(i * width_, (i + 1) * width_),
               rows.begin);
    }
    // Nothing is picked or to be added yet.
    if (whole && !altup_begin_ && !hyper_ && row_width_ > width_)
      FillRows(x.cols_between(width_, row_width_), 0, rows);
    if (!AllFinite(embedded, rows)) finite.store(false, std::memory_order_relaxed);
  });
  for (int64_t t = 0; !finite && t < x.rows; ++t) {
    if (AllFinite(embedded, {t, t + 1})) continue;
    return OutOfRange("the embedding of token {} is not finite (NaN or infinity)",
                      tokens[static_cast<size_t>(t)]);
  }
  return altup_begin_ && whole ? altup_begin_->run(context, tokens, x) : absl::OkStatus();
}

bool CpuStage::takes_tokens() const {
  return std::ranges::any_of(layers_, [](const StageLayer& layer) {
    const Moe* const moe = std::get_if<Moe>(&layer.feed_forward);
    return moe != nullptr && moe->takes_tokens();
  });
}

bool CpuStage::keeps_states() const {
  return std::ranges::any_of(layers_, [](const StageLayer& layer) { return layer.cache_shape.has_states(); });
}

/// What the output head reads of the streams: in the context's arena.
MatView<float> CpuStage::read_streams(const ComputeContext& context, MatView<const float> streams) const {
  const MatView<float> x = context.arena->allocate_rows<float>(streams.rows, width_);
  const MatView<float> coefficients =
      context.arena->allocate_rows<float>(streams.rows, hyper_head_->coefficients());
  hyper_head_->read(context, streams, coefficients, x);
  return x;
}

absl::Status CpuStage::final_norm(const ComputeContext& context, MatView<const float> x,
                                  MatView<float> hidden) {
  SHOAL_CHECK(options_.head && x.cols == row_width_ && hidden.rows == x.rows && hidden.cols == width_);
  const PhaseTimer timer(context, StepPhase::kHead);
  const ArenaScope scope(*context.arena);
  if (altup_end_) {
    RETURN_IF_ERROR(altup_end_->run(context, x, hidden));
    x = hidden;
  }
  if (hyper_head_) x = read_streams(context, x);
  x = x.cols_between(0, width_);  // An addend is 0 here, picks and inputs of layers have been read.
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
  SHOAL_CHECK(options_.head && logits.rows == x.rows && logits.cols == vocabulary_);
  SHOAL_CHECK(x.cols == row_width_ || (mtp_ && x.cols == width_));
  const PhaseTimer timer(context, StepPhase::kHead);
  const ArenaScope scope(*context.arena);
  const MatView<float> normed = context.arena->allocate_rows<float>(x.rows, width_);
  if (altup_end_) {
    RETURN_IF_ERROR(altup_end_->run(context, x, normed));
    x = normed;
  }
  if (hyper_head_) x = read_streams(context, x);
  x = x.cols_between(0, width_);  // As in final_norm.
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
