#include "compute/blocks/picked_attention.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "base/check.h"
#include "kv/block_pool.h"

namespace shoal {
namespace {

/// Copies that are held at once: of a row at least.
constexpr int64_t kCopiedBytes = int64_t{32} << 20;
/// Partial results that are held at once, in floats: of a row at least.
constexpr int64_t kPartialFloats = int64_t{4} << 20;

/// Positions [begin, begin + count) of a row's picks, which a block of copies has.
struct CopiedBlock {
  const AttentionRow* row;
  const int32_t* picked;
  int64_t count;
};

/// Elements of 2 or 4 bytes, which are not looked at.
template <typename Element>
void CopyBlock(const KvLayerView& from, const LatentRows& layout, const CopiedBlock& block,
               const BlockOfCopies& to) {
  const int64_t dim = from.head_dim;
  const Element* values[kBlockPositions];
  auto* const keys = reinterpret_cast<Element*>(to.keys);
  auto* const copies = reinterpret_cast<Element*>(to.values);
  for (int64_t j = 0; j < kBlockPositions; ++j) {
    // The last block is filled up with its last position, which no row sees there.
    const int64_t position = block.picked[std::min(j, block.count - 1)];
    const BlockId source = block.row->blocks[position / kBlockPositions];
    values[j] = reinterpret_cast<const Element*>(from.values + source.value * from.block_stride) +
                position % kBlockPositions * dim;
    std::memcpy(copies + j * dim, values[j], static_cast<size_t>(dim) * sizeof(Element));
  }
  const auto transpose = [&](int64_t key_begin, int64_t value_begin, int64_t count) {
    for (int64_t d = 0; d < count; ++d) {
      Element* const key = keys + (key_begin + d) * kBlockPositions;
      for (int64_t j = 0; j < kBlockPositions; ++j) key[j] = values[j][value_begin + d];
    }
  };
  transpose(0, layout.latent, layout.rotated);
  transpose(layout.rotated, 0, layout.latent);
  const int64_t used = layout.rotated + layout.latent;
  transpose(used, used, dim - used);
}

}  // namespace

void AttendLatentsPicked(const ComputeContext& context, const AttentionHeads& heads, const KvLayerView& cache,
                         const LatentRows& layout, std::span<const AttentionRow> rows,
                         std::span<const int32_t* const> picked) {
  SHOAL_CHECK_EQ(cache.kv_heads, 1);
  const int64_t half = KvBlockBytes(1, cache.head_dim, cache.dtype);
  for (size_t begin = 0; begin < rows.size();) {
    const ArenaScope scope(*context.arena);
    Arena& arena = *context.arena;
    size_t end = begin;
    int64_t count = 0;  // Of blocks.
    for (; end < rows.size(); ++end) {
      const int64_t more = BlocksFor(rows[end].positions.size());
      if (end > begin && (count + more) * 2 * half > kCopiedBytes) break;
      count += more;
    }
    const std::span<BlockId> ids = arena.allocate<BlockId>(count);
    const std::span<CopiedBlock> blocks = arena.allocate<CopiedBlock>(count);
    const std::span<AttentionRow> compact = arena.allocate<AttentionRow>(static_cast<int64_t>(end - begin));
    size_t next = 0;
    for (size_t r = begin; r < end; ++r) {
      compact[r - begin] = rows[r];
      compact[r - begin].blocks = ids.data() + next;
      const int64_t positions = rows[r].positions.size();
      for (int64_t p = 0; p < positions; p += kBlockPositions, ++next) {
        ids[next] = BlockId{static_cast<int32_t>(next)};
        blocks[next] = {&rows[r], picked[r] + p, std::min(positions - p, kBlockPositions)};
      }
    }
    const auto copy = [&](int64_t b, const BlockOfCopies& to) {
      const CopiedBlock& block = blocks[static_cast<size_t>(b)];
      if (to.element_bytes == sizeof(uint32_t)) {
        CopyBlock<uint32_t>(cache, layout, block, to);
      } else {
        CopyBlock<uint16_t>(cache, layout, block, to);
      }
    };
    heads.attend_to_copies(context, cache.dtype, count, copy, compact);
    begin = end;
  }
}

namespace {

/// One kv head of one row, and where the partial results of its blocks go.
class PickedHead {
 public:
  PickedHead(const AttentionHeads& heads, const KvLayerView& cache, int64_t size, const AttentionRow& row)
      : heads_(heads), cache_(cache), size_(size), row_(row) {
    group_ = heads.heads / heads.kv_heads;
    cache_.kv_heads = 1;
  }

  /// Floats of the partial results of a block.
  static int64_t BlockFloats(const AttentionHeads& heads, int64_t size) {
    const int64_t splits = std::max<int64_t>(1, size / kAttentionSplitPositions);
    return splits * (heads.heads / heads.kv_heads) * AttentionPartialFloats(heads.head_dim);
  }

  void select(int64_t kv_head) {
    const int64_t skipped = kv_head * KvBlockBytes(1, heads_.head_dim, cache_.dtype);
    cache_.keys += skipped;
    cache_.values += skipped;
    row_.query += kv_head * group_ * heads_.head_dim;
    row_.out += kv_head * group_ * heads_.head_dim;
    sinks_ = heads_.sinks.empty() ? nullptr : heads_.sinks.data() + kv_head * group_;
  }

  void attend(const Kernels& kernels, int32_t block, float* partials) const {
    AttentionRow part = row_;
    part.positions = positions_of(block);
    kernels.attention_partial({.cache = cache_,
                               .group = group_,
                               .scale = heads_.scale,
                               .softcap = heads_.softcap,
                               .row = part,
                               .splits = AttentionSplits(part.positions),
                               .kv_heads = {0, 1},
                               .partials = partials});
  }

  /// Only the last block may have fewer splits than the others.
  void merge(const Kernels& kernels, std::span<const int32_t> blocks, const float* partials) const {
    int64_t splits = 0;
    for (const int32_t block : blocks) splits += AttentionSplits(positions_of(block)).size();
    kernels.attention_merge({.partials = partials,
                             .splits = splits,
                             .heads = group_,
                             .head_dim = heads_.head_dim,
                             .sinks = sinks_,
                             .out = row_.out,
                             .head_range = {0, group_}});
  }

 private:
  Range positions_of(int32_t block) const {
    return {block * size_, std::min((block + 1) * size_, row_.positions.end)};
  }

  const AttentionHeads& heads_;
  KvLayerView cache_;
  int64_t size_;
  AttentionRow row_;
  int64_t group_ = 1;
  const float* sinks_ = nullptr;
};

}  // namespace

void AttendBlocksPicked(const ComputeContext& context, const AttentionHeads& heads, const KvLayerView& cache,
                        int64_t size, std::span<const AttentionRow> rows, MatView<const int32_t> picked) {
  SHOAL_CHECK(kAttentionSplitPositions % size == 0 || size % kAttentionSplitPositions == 0);
  const int64_t blocks = picked.cols;
  const int64_t block_floats = PickedHead::BlockFloats(heads, size);
  const int64_t row_floats = heads.kv_heads * blocks * block_floats;
  const int64_t at_once = std::max<int64_t>(1, kPartialFloats / row_floats);
  const int64_t multiplies = 2 * size * (heads.heads / heads.kv_heads) * heads.head_dim;  // Of a block.
  for (int64_t begin = 0; begin < std::ssize(rows); begin += at_once) {
    const ArenaScope scope(*context.arena);
    const int64_t count = std::min(at_once, std::ssize(rows) - begin);
    const std::span<float> partials = context.arena->allocate<float>(count * row_floats);
    const auto head_at = [&](int64_t i) {  // Of count * kv_heads.
      PickedHead head(heads, cache, size, rows[static_cast<size_t>(begin + i / heads.kv_heads)]);
      head.select(i % heads.kv_heads);
      return head;
    };
    const int64_t all_heads = count * heads.kv_heads;
    const int64_t first = begin * heads.kv_heads;  // Row of `picked`.
    context.for_ranges(all_heads * blocks, all_heads * blocks * multiplies, [&](Range part) {
      for (int64_t cell = part.begin; cell < part.end; ++cell) {
        const int32_t block = picked.at(first + cell / blocks, cell % blocks);
        head_at(cell / blocks).attend(*context.kernels, block, partials.data() + cell * block_floats);
        if (cell + 1 < part.end) context.pool->note_progress();
      }
    });
    context.for_ranges(all_heads, all_heads * blocks * block_floats, [&](Range part) {
      for (int64_t i = part.begin; i < part.end; ++i) {
        head_at(i).merge(*context.kernels, {picked.row(first + i), static_cast<size_t>(blocks)},
                         partials.data() + i * blocks * block_floats);
      }
    });
  }
}

}  // namespace shoal
