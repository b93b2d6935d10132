// The coordinator's allocator of KV blocks. Workers never allocate: they are told which blocks a sequence
// uses.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/ids.h"
#include "numeric/cache_shape.h"

namespace shoal {

/// Blocks that `positions` positions need.
constexpr int64_t BlocksFor(int64_t positions) { return (positions + kBlockPositions - 1) / kBlockPositions; }

/// Free list of block ids 0 .. total-1. Not thread safe: it belongs to the scheduler's thread.
class BlockPool {
 public:
  explicit BlockPool(int total);

  int total() const { return total_; }
  int free_count() const { return static_cast<int>(free_.size()); }
  int used_count() const { return total_ - free_count(); }

  /// Takes `count` blocks, lowest ids first where it can. ResourceExhausted (and nothing taken) if there are
  /// not enough.
  absl::StatusOr<std::vector<BlockId>> allocate(int count);

  /// Gives blocks back. Giving back a block that is free is our bug (CHECK).
  void release(const std::vector<BlockId>& blocks);

  /// I7: free + used = total, no block twice. Internal, naming the block, otherwise.
  absl::Status verify() const;

 private:
  int total_;
  std::vector<BlockId> free_;
  std::vector<bool> used_;
};

}  // namespace shoal
