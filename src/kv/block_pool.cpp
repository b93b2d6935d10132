#include "kv/block_pool.h"

#include <algorithm>
#include <functional>

#include "base/check.h"
#include "base/status.h"

namespace shoal {

BlockPool::BlockPool(int total) : total_(total), used_(static_cast<size_t>(std::max(total, 0)), false) {
  SHOAL_CHECK_GE(total, 0);
  free_.reserve(static_cast<size_t>(total));
  for (int id = total - 1; id >= 0; --id) free_.push_back(BlockId{id});  // Taken from the back: lowest first.
}

absl::StatusOr<std::vector<BlockId>> BlockPool::allocate(int count) {
  SHOAL_CHECK_GE(count, 0);
  if (count > free_count()) {
    return ResourceExhausted("kv: {} blocks of {} positions wanted, {} of {} free", count, kBlockPositions,
                             free_count(), total_);
  }
  std::vector<BlockId> blocks(free_.rbegin(), free_.rbegin() + count);
  free_.resize(free_.size() - static_cast<size_t>(count));
  for (const BlockId block : blocks) used_[static_cast<size_t>(block.value)] = true;
  return blocks;
}

void BlockPool::release(const std::vector<BlockId>& blocks) {
  for (const BlockId block : blocks) {
    SHOAL_CHECK(block.value >= 0 && block.value < total_);
    SHOAL_CHECK(used_[static_cast<size_t>(block.value)]);
    used_[static_cast<size_t>(block.value)] = false;
    free_.push_back(block);
  }
  // Low ids first keeps the touched part of the cache small. The list is short: one entry per 32 positions.
  std::sort(free_.begin(), free_.end(), std::greater<>());
}

absl::Status BlockPool::verify() const {
  std::vector<bool> seen(static_cast<size_t>(total_), false);
  for (const BlockId block : free_) {
    if (block.value < 0 || block.value >= total_) {
      return Internal("kv: free list holds block {}, but there are {}", block.value, total_);
    }
    if (used_[static_cast<size_t>(block.value)])
      return Internal("kv: block {} is free and in use", block.value);
    if (seen[static_cast<size_t>(block.value)]) return Internal("kv: block {} is free twice", block.value);
    seen[static_cast<size_t>(block.value)] = true;
  }
  for (int id = 0; id < total_; ++id) {
    if (!seen[static_cast<size_t>(id)] && !used_[static_cast<size_t>(id)]) {
      return Internal("kv: block {} is neither free nor in use", id);
    }
  }
  return absl::OkStatus();
}

}  // namespace shoal
