// What every attention does with the cache: append, and attend on all threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "compute/blocks/attention_cuts.h"
#include "compute/blocks/mixer_step.h"
#include "compute/compute_context.h"
#include "kernels/kernels.h"
#include "models/mixers/query_temperature.h"
#include "numeric/view.h"

namespace shoal {

/// Writes the rows' keys and values [T, kv_heads * head_dim] to the layer's cache, the keys alone where there are no values,
/// and counts what saturated its dtype.
void AppendToCache(const ComputeContext& context, const KvLayerView& cache, const MixerStep& step,
                   MatView<const float> keys, MatView<const float> values);

/// queries[t, :] *= the temperature at positions[t], for t in rows. On this thread.
void ApplyTemperature(const QueryTemperature& temperature, std::span<const int64_t> positions,
                      MatView<float> queries, Range rows);

/// Multiplies the heads' outputs [T * heads, value_dim] by the sigmoids of gates of that shape, or of one for each head
/// [T * heads, 1].
void ApplyHeadGates(const ComputeContext& context, MatView<const float> gates, MatView<float> heads);

/// Keys and values of one block of a cache with one head, as elements of so many bytes, which are not looked at.
struct BlockOfCopies {
  std::byte* keys;
  std::byte* values;
  int64_t element_bytes;  ///< 2 or 4.
};

/// The heads of an attention, and how they attend.
struct AttentionHeads {
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;          ///< In the cache.
  float scale = 0;           ///< Of scores.
  float softcap = 0;         ///< Of scores, AttentionArgs; 0: none.
  std::vector<float> sinks;  ///< [heads] or empty.

  /// The layer's part of the cache.
  KvLayerView cache_of(const MixerStep& step) const;

  /// Every row's `out` from its query and the cache; on all threads.
  void attend(const ComputeContext& context, const KvLayerView& cache,
              std::span<const AttentionRow> rows) const;

  /// The same from a cache of so many blocks, with one head, that holds copies alone: fill(b, copies) makes block b, on any
  /// thread. The rows' blocks are of that cache. dtype: F32, F16 or BF16.
  void attend_to_copies(const ComputeContext& context, DType dtype, int64_t blocks,
                        absl::FunctionRef<void(int64_t, const BlockOfCopies&)> fill,
                        std::span<const AttentionRow> rows) const;

 private:
  /// The cells between two cuts: whole rows into their `out`, parts of a row into `partials` of its cut.
  struct CutRow {
    AttentionCut cut;
    float* partials;
  };
  void attend_between(const ComputeContext& context, const KvLayerView& cache,
                      std::span<const AttentionRow> rows, const CutRow& begin, const CutRow& end) const;
  /// Whole rows, noting progress between some of them.
  void attend_rows(const ComputeContext& context, const KvLayerView& cache,
                   std::span<const AttentionRow> rows, Range range) const;
  /// Partial results of cells [begin, end) of one row (attention_cuts.h).
  void attend_cells(const Kernels& kernels, const KvLayerView& cache, const AttentionRow& row,
                    const AttentionCut& begin, const AttentionCut& end, float* partials) const;
};

}  // namespace shoal
