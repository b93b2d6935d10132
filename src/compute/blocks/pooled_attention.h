// Attention to a window and to pooled entries (PooledAttentionSpec) over the paged cache.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compute/blocks/attention_heads.h"
#include "compute/blocks/linear.h"
#include "compute/blocks/mixer_step.h"
#include "compute/blocks/norm_rope.h"
#include "models/spec.h"

namespace shoal {

/// A mixer block (mixer_blocks.h). The cache holds, per position, a head whose key is its value, and in further heads what
/// pools read again: kv and gates. An entry replaces the kv of the last of its positions, which nothing else reads. So all
/// of a block is a function of the tokens up to its end, as of any other attention: blocks can be shared, kept and sent, a
/// sequence can go back to any position, and where a prompt is cut changes no bit, as pools only read what was cached.
/// The price is memory: kv and gates of all positions stay, where the last `ratio` of them would do.
class PooledAttention {
 public:
  using Spec = PooledAttentionSpec;
  PooledAttention() = default;
  static absl::StatusOr<PooledAttention> Load(const WeightLoader& loader, const PooledAttentionSpec& spec,
                                              ThreadPool& pool);

  int64_t bytes() const;
  int input_group(ActivationMode mode) const { return kv_.activation_group(mode); }
  absl::Status forward(const ComputeContext& context, LinearInput& input, const MixerStep& step,
                       MatView<float> y) const;

 private:
  struct Pool {
    static absl::StatusOr<Pool> Load(const WeightLoader& loader, const PoolSpec& spec, ThreadPool& pool);
    int64_t bytes() const;

    int64_t ratio = 0;
    int dim = 0;
    bool overlaps = false;
    Linear kv, gate;
    std::vector<float> bias;  // [ratio, cols]
    Norm norm;
    /// Where a position's values lie among those of all pools: own ones count for the entry that the position is in, next
    /// ones for the one behind it. An entry takes the place of own_kv.
    int64_t own_kv = 0, own_gate = 0, next_kv = 0, next_gate = 0;
  };
  struct Indexer {
    int heads = 0;
    int dim = 0;
    int64_t top = 0;
    Linear q, weights;
    Pool pool;
  };
  struct Projected {
    MatView<float> q;              // [T, heads * cached head]
    MatView<float> key;            // [T, cached head]
    MatView<float> pooled;         // [T, 2 * extra heads * cached head], of all pools.
    MatView<float> index_q;        // [T, heads * dim] of the indexer.
    MatView<float> index_weights;  // [T, heads] of the indexer.
  };
  /// A head takes `width` columns, the first `dim` of them are its own.
  struct HeadPlace {
    int64_t width = 0;
    int64_t dim = 0;
  };
  /// The picked entries of a row, ascending; all before it where `picked` is nullptr.
  struct Entries {
    const int32_t* picked = nullptr;
    int64_t count = 0;
  };

  void place_pools();
  absl::StatusOr<Projected> project(const ComputeContext& context, LinearInput& input) const;
  absl::Status project_queries(const ComputeContext& context, MatView<float> low, MatView<float> q,
                               Projected& out) const;
  void rotate(const ComputeContext& context, MatView<float> x, HeadPlace head, const RopeRows& rope) const;
  void append(const ComputeContext& context, const MixerStep& step, const Projected& rows) const;
  void make_entries(const ComputeContext& context, const MixerStep& step, std::span<const int64_t> ends,
                    const Pool& pool, MatView<float> pooled) const;
  absl::StatusOr<std::span<Entries>> pick(const ComputeContext& context, const MixerStep& step,
                                          const Projected& rows) const;
  bool pick_of_rows(const ComputeContext& context, const MixerStep& step, const Projected& rows, Range part,
                    std::span<Entries> entries) const;
  void attend(const ComputeContext& context, const MixerStep& step, MatView<const float> q,
              std::span<const Entries> entries, MatView<float> out) const;
  absl::Status give_out(const ComputeContext& context, MatView<const float> attended, MatView<float> y) const;

  KvLayerView positions_of(const MixerStep& step) const;  // The head of positions.
  KvLayerView pooled_of(const MixerStep& step) const;     // The others.

  AttentionHeads heads_;
  int head_dim_ = 0;
  int64_t extra_heads_ = 0;
  int64_t window_ = 0;
  int rotary_ = 0;
  RopePairing pairing_ = RopePairing::kInterleaved;
  RopeTable table_;  // Of entries.
  Linear q_a_, q_, kv_, o_b_;
  std::vector<Linear> o_a_;
  Norm q_norm_, kv_norm_, head_norm_;
  std::optional<Pool> pool_;
  std::optional<Indexer> indexer_;
};

}  // namespace shoal
