// What a layer's mixer gets of a step beside its rows. Each takes what it needs.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "base/ids.h"
#include "compute/blocks/norm_rope.h"
#include "kv/kv_cache.h"
#include "numeric/view.h"

namespace shoal {

/// Where each row of a step stands.
struct RowPlaces {
  std::span<const int64_t> positions;  ///< [T], absolute.
  /// [T]; block_tables[t][p / 32] holds position p of row t's sequence.
  std::span<const BlockId* const> block_tables;
};

/// Consecutive rows of one sequence, from one state to the next. A sequence may have several spans in a step,
/// in ascending order: where it is cut no bit changes, so states can be kept between them.
struct StateSpan {
  int64_t row_begin = 0;
  int64_t rows = 0;
  SlotId from;  ///< Slot of the state before the rows; kNoState: nothing came before, all is zero.
  SlotId to;    ///< Slot of the state behind them; not `from`.
};

struct MixerStep {
  RowPlaces places;  ///< Rows of one sequence are in ascending order.
  RopeRows rope;     ///< Of the rows' positions; empty where the mixer has no position_rope().
  std::span<const StateSpan> states;  ///< These tile the rows; empty where no layer of the stage has a state.
  const KvCache& cache;
  LayerId layer;
  std::atomic<int64_t>& saturated;  ///< Counts the elements that did not fit the cache's dtype.
  MatView<float> shared_kv = {};    ///< [T, shared_kv_values] of models that have some (AltUpSpec).
  MatView<float> picks = {};        ///< [T, carried_picks] of models that have some (ModelSpec).
};

}  // namespace shoal
