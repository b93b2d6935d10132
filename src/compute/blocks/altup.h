// Rows of several residual streams, or of one and inputs of layers (AltUpSpec): how they begin, what a layer does around
// its mixer and feed-forward, and how they end.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compute/blocks/linear.h"
#include "compute/blocks/norm_rope.h"
#include "models/spec.h"

namespace shoal {

/// Where the parts of a row lie.
struct AltUpRows {
  int64_t width = 0;        ///< D
  int64_t streams = 0;      ///< S
  int64_t layer_width = 0;  ///< P
  int64_t layers = 0;       ///< L

  explicit AltUpRows(const ModelSpec& spec);
  AltUpRows() = default;
  MatView<float> streams_of(MatView<float> x) const { return x.cols_between(0, streams * width); }
  MatView<float> stream_of(MatView<float> x, int64_t i) const {
    return x.cols_between(i * width, (i + 1) * width);
  }
  /// The inputs of all layers, [T, L * P], and of one.
  MatView<float> inputs_of(MatView<float> x) const {
    return x.cols_between(streams * width, streams * width + layers * layer_width);
  }
  MatView<float> input_of(MatView<float> x, int64_t layer) const {
    return inputs_of(x).cols_between(layer * layer_width, (layer + 1) * layer_width);
  }
  /// The keys and values that layers have in common.
  MatView<float> shared_kv_of(MatView<float> x) const {
    return x.cols_between(streams * width + layers * layer_width, x.cols);
  }
};

/// What makes a row of an embedding.
class AltUpBegin {
 public:
  static absl::StatusOr<AltUpBegin> Load(const WeightLoader& loader, const ModelSpec& spec, ThreadPool& pool);
  int64_t bytes() const;

  /// x [T, row] of its first stream and the tokens. OutOfRange: an activation is not finite.
  absl::Status run(const ComputeContext& context, std::span<const int32_t> tokens, MatView<float> x) const;

 private:
  void finish_row(const Kernels& kernels, const float* embedded, float* row) const;

  AltUpRows rows_;
  std::vector<Linear> spread_;
  Linear layer_embedding_, layer_projection_;
  Norm layer_norm_;
  float layer_embedding_scale_ = 1;
};

/// What makes one stream of all.
class AltUpEnd {
 public:
  static absl::StatusOr<AltUpEnd> Load(const WeightLoader& loader, const ModelSpec& spec, ThreadPool& pool);
  int64_t bytes() const;

  /// y [T, D], of x [T, row]. OutOfRange: an activation is not finite.
  absl::Status run(const ComputeContext& context, MatView<const float> x, MatView<float> y) const;

 private:
  AltUpRows rows_;
  std::vector<Linear> gather_;
};

/// What a layer makes of its own input.
class LayerInput {
 public:
  static absl::StatusOr<LayerInput> Load(const WeightLoader& loader, const LayerInputSpec& spec,
                                         ThreadPool& pool);
  int64_t bytes() const { return gate_.bytes() + up_.bytes() + norm_.bytes(); }

  /// What is to be added, [T, D] in the context's arena, of x [T, D] and the layer's input [T, P].
  /// OutOfRange: an activation is not finite.
  absl::StatusOr<MatView<float>> run(const ComputeContext& context, MatView<const float> x,
                                     MatView<const float> layer_input) const;

 private:
  Linear gate_, up_;
  Norm norm_;
};

class AltUpLayer {
 public:
  static absl::StatusOr<AltUpLayer> Load(const WeightLoader& loader, const AltUpLayerSpec& spec,
                                         ThreadPool& pool);
  int64_t bytes() const;

  // All may return OutOfRange: an activation is not finite.

  /// streams [T, S * D] = what is predicted of them; active [T, D] = the first of these.
  absl::Status predict(const ComputeContext& context, MatView<float> streams, MatView<float> active) const;
  /// out = normed + bypass_norm(bypass_up(bypass_down(normed))), [T, D].
  absl::Status bypass(const ComputeContext& context, MatView<const float> normed, MatView<float> out) const;
  /// What becomes of the predicted streams when the first has become `updated` [T, D]. layer_input: [T, P].
  absl::Status correct(const ComputeContext& context, MatView<const float> updated,
                       MatView<const float> layer_input, MatView<float> streams) const;

 private:
  int64_t stream_count() const { return router_.rows(); }
  /// tanh(router(router_norm(x))), [T, S], in the context's arena.
  absl::StatusOr<MatView<float>> modalities(const ComputeContext& context, MatView<const float> x) const;
  absl::Status add_input(const ComputeContext& context, MatView<const float> layer_input,
                         MatView<float> streams) const;

  Norm router_norm_, bypass_norm_;
  Linear router_, bypass_down_, bypass_up_;
  LayerInput input_;
  std::vector<float> prediction_;    // [S, S, S]
  std::vector<float> correction_;    // [S, S]
  std::vector<float> output_scale_;  // [D] or empty.
};

}  // namespace shoal
