// Grouped-query attention over the paged cache.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/ids.h"
#include "compute/blocks/attention_heads.h"
#include "compute/blocks/linear.h"
#include "compute/blocks/norm_rope.h"
#include "kv/kv_cache.h"
#include "models/spec.h"

namespace shoal {

class Attention {
 public:
  Attention() = default;
  static absl::StatusOr<Attention> Load(const WeightLoader& loader, const GqaSpec& spec, ThreadPool& pool);

  int64_t bytes() const;
  /// Columns per scale of the codes that its projections ask of their input; 0: none.
  int input_group(ActivationMode mode) const { return q_.activation_group(mode); }
  /// What the layer keeps per position.
  KvLayerShape kv_shape() const { return {heads_.kv_heads, heads_.head_dim}; }

  /// Appends the rows' keys and values to the cache, then
  ///   y[t, :] = o(softmax(q k^T / sqrt(head_dim)) v) over positions 0 .. positions[t], or the last `window`
  /// of these.
  /// input, y: [T, D]. rope: of the rows' positions. Rows of one sequence are in ascending order.
  /// OutOfRange for a non-finite activation.
  absl::Status forward(const ComputeContext& context, LinearInput& input, const RowPlaces& places,
                       const RopeRows& rope, const LayerCache& cache, MatView<float> y) const;

 private:
  /// Head rows of a step: q [T, heads * dim], k and v [T, kv_heads * dim].
  struct HeadRows {
    MatView<float> q, k, v;
  };
  void apply_rope(const ComputeContext& context, const HeadRows& rows, const RopeRows& rope,
                  Range part) const;
  MatView<float> padded(const ComputeContext& context, MatView<float> rows, int heads) const;
  AttentionHeads heads_;  // Of the cache's head dimension.
  int head_dim_ = 0;
  int rotary_ = 0;
  bool output_gate_ = false;
  RopePairing pairing_ = RopePairing::kHalfSplit;
  int64_t window_ = 0;  // Positions that a row sees; INT64_MAX: all.
  Linear q_, k_, v_, o_;
  std::optional<Norm> q_norm_, k_norm_, v_norm_;
  bool values_from_keys_ = false;  // Without v_.
};

}  // namespace shoal
