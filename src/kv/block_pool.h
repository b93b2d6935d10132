// The coordinator's allocator of KV blocks and of slots for recurrent states. Workers never allocate; the
// coordinator tells them which blocks and slots a sequence uses.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/ids.h"
#include "numeric/cache_shape.h"

namespace shoal {

/// The number of blocks that `positions` positions need.
constexpr int64_t BlocksFor(int64_t positions) { return (positions + kBlockPositions - 1) / kBlockPositions; }

/// Ids [0, total), each free or held by one or more owners. Not thread-safe: it belongs to the scheduler's
/// thread.
template <typename Id>
class IdPool {
 public:
  explicit IdPool(int total);

  int total() const { return static_cast<int>(references_.size()); }
  int free_count() const { return static_cast<int>(free_.size()); }
  int used_count() const { return total() - free_count(); }

  /// Takes `count` ids with one owner each, the free ones with the lowest ids. Returns ResourceExhausted, and
  /// takes none, if there are not enough.
  absl::StatusOr<std::vector<Id>> allocate(int count);

  /// Takes these, with one owner each. CHECKs that they are free.
  void claim(const std::vector<Id>& ids);

  /// Adds an owner to an id. CHECKs that it has one.
  void share(Id id);

  /// Removes one owner from each id; an id without owners is free. CHECKs that they have owners.
  void release(const std::vector<Id>& ids);

  /// The number of owners of an id; 0: free.
  int references(Id id) const;

  /// Checks I7: free + used = total, and an id is on the free list, once, exactly if it has no owner. Returns
  /// Internal, naming the id, otherwise.
  absl::Status verify() const;

 private:
  std::vector<int> references_;
  std::vector<Id> free_;  // Descending: the lowest is taken from the back.
};

extern template class IdPool<BlockId>;
extern template class IdPool<SlotId>;

using BlockPool = IdPool<BlockId>;
using SlotPool = IdPool<SlotId>;

}  // namespace shoal
