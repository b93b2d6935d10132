// Grouped-query attention over the paged cache.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compute/blocks/attention_heads.h"
#include "compute/blocks/indexer.h"
#include "compute/blocks/linear.h"
#include "compute/blocks/mixer_step.h"
#include "compute/blocks/norm_rope.h"
#include "models/spec.h"

namespace shoal {

/// A mixer block (mixer_blocks.h).
class Attention {
 public:
  using Spec = GqaSpec;
  Attention() = default;
  static absl::StatusOr<Attention> Load(const WeightLoader& loader, const GqaSpec& spec, ThreadPool& pool);

  int64_t bytes() const;
  int input_group(ActivationMode mode) const { return q_.activation_group(mode); }

  /// Appends the rows' keys and values to the cache, then
  ///   y[t, :] = o(softmax(q k^T / sqrt(head_dim)) v) over positions 0 .. positions[t], the last `window`
  /// of these, or those that it picks.
  absl::Status forward(const ComputeContext& context, LinearInput& input, const MixerStep& step,
                       MatView<float> y) const;

 private:
  /// Head rows of a step: q [T, heads * dim], k and v [T, kv_heads * dim].
  struct HeadRows {
    MatView<float> q, k, v;
  };
  void apply_rope(const ComputeContext& context, const HeadRows& rows, const RopeRows& rope,
                  Range part) const;
  /// Keys and values from the rows to `shared`, or from there.
  void share(MatView<float> shared, const HeadRows& rows, Range part) const;
  MatView<float> padded(const ComputeContext& context, MatView<float> rows, int heads) const;
  /// Rows of a step that pick, ascending: more blocks are before them than they may attend to.
  struct Picking {
    std::span<const int64_t> rows;
    MatView<float> key;        ///< [T, dim], of the indexer; no data without one.
    Indexer::Queries queries;  ///< Without data where no row picks.
  };
  Picking picking_of(const ComputeContext& context, const MixerStep& step) const;
  /// The blocks that the rows pick, [rows * kv_heads, picked blocks].
  absl::StatusOr<MatView<const int32_t>> pick(const ComputeContext& context, const MixerStep& step,
                                              const Picking& picking) const;
  /// Of scores [heads, position + 1], which are overwritten. False: one is not a number.
  bool pick_blocks(int64_t position, MatView<float> scores, MatView<int32_t> picked) const;
  absl::StatusOr<MatView<float>> attend(const ComputeContext& context, const MixerStep& step,
                                        const Picking& picking, MatView<const float> queries) const;
  AttentionHeads heads_;  // Of the cache's head dimension.
  int head_dim_ = 0;
  int value_dim_ = 0;
  int rotary_ = 0;
  bool output_gate_ = false;
  RopePairing pairing_ = RopePairing::kHalfSplit;
  QueryTemperature temperature_;
  int64_t window_ = 0;  // Positions that a row sees; INT64_MAX: all.
  int64_t chunk_ = 0;   // Those with its position / chunk_; INT64_MAX: all.
  Linear q_, k_, v_, o_;
  std::optional<Linear> gate_;
  std::vector<Norm> q_norms_, k_norms_;  // Of all heads, or of each; empty: none.
  bool norm_behind_rope_ = false;
  std::vector<Norm> v_norm_;  // One without a weight, or none.
  float value_scale_ = 1;
  bool values_from_keys_ = false;  // Without v_.
  std::optional<GqaSpec::SharedKv> shared_kv_;
  bool takes_kv_ = false;  // Without k_ and v_.
  struct BlockPicker {
    int64_t size, count, local;  // BlockPicks
    Indexer indexer;
  };
  std::optional<BlockPicker> picker_;
};

}  // namespace shoal
