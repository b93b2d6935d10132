// What a step asks of the layers of one node, beyond the rows: the terms of the backend seam.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "base/ids.h"
#include "base/range.h"
#include "compute/expert_exchange.h"
#include "kv/kv_cache.h"
#include "numeric/view.h"

namespace shoal {

/// Consecutive positions of one sequence within a step.
struct StepSlice {
  int64_t row_begin = 0;            ///< First row in x.
  int64_t rows = 0;                 ///< Number of rows (tokens).
  int64_t position = 0;             ///< Absolute position of the first row.
  std::span<const BlockId> blocks;  ///< Block table: blocks[p / 32] holds position p; covers position + rows.
  bool long_rope = false;           ///< Of a sequence beyond ShortRopePositions: all its slices say so.
  /// Of models with states: the slot that holds the state behind `position` tokens (kNoState at position 0),
  /// and where states go while the rows pass, ascending, the last one behind all of them. A step writes to no
  /// slot that it reads: after a failed one, and from every snapshot that is left alone, rows can be run
  /// again.
  SlotId state_from = kNoState;
  std::span<const StateWrite> state_to;
  std::span<const int32_t> tokens;  ///< [rows]; of models with layers that choose experts by them.
};

/// Sees rows x [T, D] as they leave a layer; layer -1: the embedding.
using LayerHook = std::function<void(LayerId, MatView<const float>)>;

/// What a step asks of a stage beyond the rows.
struct StageStep {
  /// A slice, by its index in `slices`, and the OutOfRange that says where it stopped being finite.
  using OnBadSlice = std::function<void(size_t slice, const absl::Status& why)>;

  std::span<const StepSlice> slices;  ///< Tile [0, T) in order.
  ExpertExchange* experts = nullptr;
  /// Called before each layer (progress of the data plane; cancellation by returning an error). May be empty.
  std::function<absl::Status(LayerId)> before_layer;
  /// Called with each MoE layer's choice, ids [T, K]. May be empty.
  std::function<void(LayerId, const Routing&)> on_routing;
  LayerHook after_layer;  ///< May be empty.
  /// Told of each slice in which an activation is not finite or leaves its range. Its rows leave x, those behind
  /// them move up, and the others go on with the bits that they have without it. Empty: the call fails instead.
  OnBadSlice on_bad_slice;
};

struct StageOptions {
  Range layers;
  bool embed = false;  ///< Holds the embedding table (first stage).
  bool head = false;   ///< Holds the final norm and the output head (last stage).
  bool mtp = false;    ///< Holds ModelSpec::mtp, which needs the head, and then the embedding table, too.
  /// Where the model's layers have segments, HeldSegments::counts: their feed-forwards are asked for, not held.
  std::vector<int32_t> segments = {};

  /// Segments of the layer's feed-forward; 0: it is whole.
  int32_t segment_count(int64_t layer) const {
    const auto i = static_cast<size_t>(layer);
    return layer >= 0 && i < segments.size() ? segments[i] : 0;
  }
  /// Whether the embedding table is here.
  bool table() const { return embed || mtp; }
  /// The layers whose caches are here: that of multi-token prediction follows the model's.
  Range cached_layers() const { return {layers.begin, layers.end + (mtp ? 1 : 0)}; }
};

/// done and total are bytes of source tensors.
using LoadProgress = std::function<void(int64_t bytes_done, int64_t bytes_total)>;

}  // namespace shoal
