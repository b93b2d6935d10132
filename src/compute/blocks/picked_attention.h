// Attention to the positions that rows picked. Nothing else of the cache is read.
#pragma once

#include <cstdint>
#include <span>

#include "compute/blocks/attention_heads.h"
#include "compute/compute_context.h"
#include "kernels/kernels.h"
#include "numeric/view.h"

namespace shoal {

/// How the value of a position holds its key, too: a kv head's value is [latent | rotated | zeros], its key
/// [rotated | latent | zeros]. As a position's key lies in as many cache lines as it has dimensions, those of a value are
/// read instead.
struct LatentRows {
  int64_t latent = 0;
  int64_t rotated = 0;
};

/// Attends rows[i] to the positions picked[i], ascending, whose number is rows[i].positions.size(), of the one kv head of
/// `cache`. Their values are copied one behind the other, and attended to as a cache that holds nothing else.
void AttendLatentsPicked(const ComputeContext& context, const AttentionHeads& heads, const KvLayerView& cache,
                         const LatentRows& layout, std::span<const AttentionRow> rows,
                         std::span<const int32_t* const> picked);

/// Attends every row, kv head by kv head, to the blocks of `size` positions that it picked for the head, ascending, as far as
/// they lie before rows[i].positions.end. picked: [rows * kv_heads, blocks]. size: a divisor or a multiple of
/// kAttentionSplitPositions. Blocks are read where they lie.
void AttendBlocksPicked(const ComputeContext& context, const AttentionHeads& heads, const KvLayerView& cache,
                        int64_t size, std::span<const AttentionRow> rows, MatView<const int32_t> picked);

}  // namespace shoal
