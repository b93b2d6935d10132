// What every attention does with the cache: append, and attend on all threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "compute/blocks/attention_parts.h"
#include "compute/compute_context.h"
#include "kernels/kernels.h"
#include "numeric/view.h"

namespace shoal {

/// A layer's part of the cache, and the count of elements that saturated its dtype when they were written.
struct LayerCache {
  const KvLayerView& view;
  std::atomic<int64_t>& saturated;
};

/// Where each row of a step stands.
struct RowPlaces {
  std::span<const int64_t> positions;  ///< [T], absolute.
  std::span<const BlockId* const>
      block_tables;  ///< [T]; block_tables[t][p / 32] holds position p of row t's sequence.
};

/// Writes the rows' keys and values [T, kv_heads * head_dim] to the cache. Returns how many elements
/// saturated its dtype.
int64_t AppendKeysAndValues(const ComputeContext& context, const KvLayerView& cache, const RowPlaces& places,
                            MatView<const float> keys, MatView<const float> values);

/// The heads of an attention, and how they attend.
struct AttentionHeads {
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;          ///< In the cache.
  float scale = 0;           ///< Of scores.
  std::vector<float> sinks;  ///< [heads] or empty.

  /// Every row's `out` from its query and the cache; on all threads.
  void attend(const ComputeContext& context, const KvLayerView& cache,
              std::span<const AttentionRow> rows) const;

 private:
  /// The cells between two cuts: whole rows into their `out`, parts of a row into `partials` of its cut.
  struct CutRow {
    AttentionCut cut;
    float* partials;
  };
  void attend_between(const Kernels& kernels, const KvLayerView& cache, std::span<const AttentionRow> rows,
                      const CutRow& begin, const CutRow& end) const;
  /// Partial results of cells [begin, end) of one row (attention_parts.h).
  void attend_cells(const Kernels& kernels, const KvLayerView& cache, const AttentionRow& row,
                    const AttentionCut& begin, const AttentionCut& end, float* partials) const;
};

}  // namespace shoal
