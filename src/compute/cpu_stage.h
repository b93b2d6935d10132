// The CPU's stage: layers of a model, run one after the other. Loading is in stage.cpp, steps are in cpu_stage_steps.cpp.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "compute/blocks/altup.h"
#include "compute/blocks/feed_forward_blocks.h"
#include "compute/blocks/hyper.h"
#include "compute/blocks/linear.h"
#include "compute/blocks/mixer_blocks.h"
#include "compute/blocks/norm_rope.h"
#include "compute/stage.h"
#include "compute/stage_progress.h"

namespace shoal {

/// One layer, built from its LayerSpec.
struct StageLayer {
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
  float mixer_scale = 1;  ///< Factors on what the layer adds to x.
  float feed_forward_scale = 1;
  std::optional<AltUpLayer> altup;
  std::optional<LayerInput> input;
  AddendUse addend = AddendUse::kNone;
  std::optional<HyperMix> mixer_hyper, feed_forward_hyper;  ///< Of models with several such streams.

  int64_t bytes() const {
    const auto bytes_of = [](const auto& block) { return block.bytes(); };
    int64_t bytes = std::visit(bytes_of, mixer) + std::visit(bytes_of, feed_forward);
    for (const auto* norm : {&mixer_norm, &mixer_out_norm, &feed_forward_norm, &feed_forward_out_norm}) {
      if (*norm) bytes += (*norm)->bytes();
    }
    for (const auto* hyper : {&mixer_hyper, &feed_forward_hyper}) {
      if (*hyper) bytes += (*hyper)->bytes();
    }
    if (altup) bytes += altup->bytes();
    if (input) bytes += input->bytes();
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
    std::span<const int32_t> tokens;  ///< [T]; empty where no layer here takes them.
    MatView<float> normed;            ///< [T, D]
    MatView<float> out;               ///< [T, D]
    /// [T, row_width], x as it came to the layer; no data where nobody asks for bad slices.
    MatView<float> before;
    MatView<float> shared_kv;    ///< As MixerStep::shared_kv.
    MatView<float> layer_input;  ///< [T, P], of layers with an input of their own.
    MatView<float> routed;       ///< [T, D] that routed experts are added to instead of x; no data: to x.
    MatView<float> picks;        ///< As MixerStep::picks.
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
  bool takes_tokens() const;
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
  absl::Status run_residual_layer(const ComputeContext& context, const StageStep& step, LayerId id,
                                  const Shared& shared, MatView<float> x);
  absl::Status run_addend_layer(const ComputeContext& context, const StageStep& step, LayerId id,
                                const Shared& shared, MatView<float> rows);
  absl::Status run_hyper_layer(const ComputeContext& context, const StageStep& step, LayerId id,
                               const Shared& shared, MatView<float> streams);
  absl::Status run_picking_layer(const ComputeContext& context, const StageStep& step, LayerId id,
                                 const Shared& shared, MatView<float> x);
  absl::Status run_input_layer(const ComputeContext& context, const StageStep& step, LayerId id,
                               const Shared& shared, MatView<float> rows);
  absl::Status run_altup_layer(const ComputeContext& context, const StageStep& step, LayerId id,
                               const Shared& shared, MatView<float> x);
  void guess_next(const ComputeContext& context, LayerId id, const Shared& shared,
                  MatView<const float> x) const;
  absl::Status logits_of(const ComputeContext& context, const Norm& norm, MatView<const float> x,
                         MatView<float> logits);
  MatView<float> read_streams(const ComputeContext& context, MatView<const float> streams) const;
  /// The factor and the soft cap of logits.
  void finish_logits(const ComputeContext& context, MatView<float> logits) const;
  const Linear& head_linear() const { return head_is_embedding_ ? embedding_ : head_; }

  StageOptions options_;
  int64_t width_ = 0;
  int64_t row_width_ = 0;
  int64_t vocabulary_ = 0;
  float embedding_scale_ = 1;
  std::optional<Norm> embedding_norm_;
  float logits_scale_ = 1;
  float final_logit_softcap_ = 0;
  Linear embedding_;  // As a linear without bias, since a tied head multiplies by it.
  Norm final_norm_;
  Linear head_;
  bool head_is_embedding_ = false;
  AltUpRows altup_rows_;
  std::optional<AltUpBegin> altup_begin_;
  std::optional<AltUpEnd> altup_end_;
  bool carries_addend_ = false;
  std::optional<HyperRule> hyper_;
  std::optional<HyperMix> hyper_head_;
  std::vector<StageLayer> layers_;  // Those of cached_layers().
  std::optional<Mtp> mtp_;
  ReadAhead read_ahead_;                // Empty: all experts are in memory.
  std::vector<RopeTable> rope_tables_;  // Distinct ones of the layers.
  std::atomic<int64_t> kv_saturated_ = 0;
};

}  // namespace shoal
