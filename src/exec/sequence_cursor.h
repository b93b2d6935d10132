// Where a sequence stands in the caches, and the slices that take it further. The one place that makes
// slices.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "exec/step.h"
#include "kv/kv_cache.h"

namespace shoal {

/// What a sequence has of the caches, and for how long it keeps it.
struct SequenceRoom {
  std::vector<BlockId> blocks;  ///< Block table; may grow.
  /// Of a model that keeps states: EngineLimits::state_slots_each() slots that nobody else writes to.
  std::vector<SlotId> slots;
  bool long_rope = false;  ///< As SeqSlice::long_rope.
};

/// Each slice begins where the one before it ended, or at the first of its drafted tokens that was wrong. A state goes
/// round the slots: a slice reads the one that the slice before it wrote, and writes the next. With a slot more than
/// steps may be in flight (StateSlotsPerSequence), what a step read is still there when it comes back or fails, whatever
/// later steps have done meanwhile.
class SequenceCursor {
 public:
  /// Has no room: no slice can be made.
  SequenceCursor() = default;
  /// A sequence of which nothing is cached. CHECKs that there is no slot, or at least two.
  SequenceCursor(SeqId id, SequenceRoom room);

  /// Positions [0, position) are cached, or in a step in flight.
  int64_t position() const { return position_; }
  const std::vector<BlockId>& blocks() const { return room_.blocks; }
  const std::vector<SlotId>& slots() const { return room_.slots; }
  bool long_rope() const { return room_.long_rope; }
  /// The slot of the state behind position(); kNoState where there is none.
  SlotId state() const { return state_; }

  void add_blocks(std::span<const BlockId> blocks);

  /// The sequence goes on behind `position` tokens that its blocks hold already (of which another may have
  /// been the sequence); `state` holds theirs, of a model that keeps states.
  void start_at(int64_t position, SlotId state);

  /// The slice that feeds `tokens`, the next of the sequence; `sample`: after the last of them. `snapshots` are
  /// states to be kept on the way, before the last token, in slots that are not of the ring. CHECKs that there
  /// are tokens, and blocks for them.
  SeqSlice next(std::span<const int32_t> tokens, bool sample, std::span<const StateWrite> snapshots = {});

  /// The slice that feeds `tokens`, the last that the sequence has, and tokens drafted to follow them; it is sampled
  /// from the last of `tokens` on. What it writes for drafts that are wrong is never read: the slice from go_back_to()
  /// on overwrites it. `snapshots` as of next(), but of drafted tokens, too. The ring keeps the states behind `tokens`,
  /// behind the first drafts, as far as it has slots, and behind the last. CHECKs that there are tokens, and blocks for
  /// all. No other slice of the sequence may be in flight.
  SeqSlice next_drafted(std::span<const int32_t> tokens, std::span<const int32_t> draft,
                        std::span<const StateWrite> snapshots = {});

  /// Behind a slice of next_drafted() (or any, without states): positions from `position` on hold wrong drafts. The next
  /// slice begins there or, where states are kept, behind the last of them that has seen no more; which may be the one
  /// that the slice began with. CHECKs that it is not ahead, nor before that slice.
  void go_back_to(int64_t position);

  /// The slot of the state behind position() leaves the ring, as a snapshot, and `fresh` takes its place: the
  /// next slice reads it and writes another. CHECKs that the last slice wrote it.
  SlotId keep_state(SlotId fresh);

  /// Positions [32 index, 32 index + 32) lie in `block` from now on, which holds the same.
  void replace_block(size_t index, BlockId block) { room_.blocks[index] = block; }
  /// The sequence has no block there any more, and its rows see none.
  void drop_block(size_t index) { room_.blocks[index] = kNoBlock; }

 private:
  SeqSlice rows(std::span<const int32_t> tokens, int32_t sample_from);
  void stand_at(StateWrite state);

  SeqId id_;
  SequenceRoom room_;
  int64_t position_ = 0;
  size_t slot_ = 0;  // Index of state_ where it is one of the ring.
  SlotId state_ = kNoState;
  std::vector<StateWrite>
      reached_;  // States that the last slice, if drafted, began with and wrote; ascending.
};

/// `count` consecutive ids.
template <typename Id>
std::vector<Id> IdsFrom(Id first, int64_t count) {
  std::vector<Id> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(Id{first.value + static_cast<int32_t>(i)});
  return ids;
}

}  // namespace shoal
