#include "exec/sequence_cursor.h"

#include "base/check.h"
#include "kv/block_pool.h"

namespace shoal {

SequenceCursor::SequenceCursor(SeqId id, SequenceRoom room) : id_(id), room_(std::move(room)) {
  SHOAL_CHECK_NE(room_.slots.size(), size_t{1});
}

void SequenceCursor::add_blocks(std::span<const BlockId> blocks) {
  room_.blocks.insert(room_.blocks.end(), blocks.begin(), blocks.end());
}

void SequenceCursor::start_at(int64_t position, SlotId state) {
  position_ = position;
  state_ = state;
}

SlotId SequenceCursor::keep_state(SlotId fresh) {
  SHOAL_CHECK(!room_.slots.empty() && state_ == room_.slots[slot_]);
  room_.slots[slot_] = fresh;
  return state_;
}

SeqSlice SequenceCursor::next_drafted(int32_t token, std::span<const int32_t> draft) {
  SHOAL_CHECK(room_.slots.empty());
  std::vector<int32_t> tokens = {token};
  tokens.insert(tokens.end(), draft.begin(), draft.end());
  SeqSlice slice = next(tokens, true);
  slice.sample_from = 0;
  return slice;
}

void SequenceCursor::go_back_to(int64_t position) {
  SHOAL_CHECK(room_.slots.empty());
  SHOAL_CHECK_LE(position, position_);
  position_ = position;
}

SeqSlice SequenceCursor::next(std::span<const int32_t> tokens, bool sample,
                              std::span<const StateWrite> snapshots) {
  SHOAL_CHECK(!tokens.empty());
  const int64_t end = position_ + std::ssize(tokens);
  const int64_t blocks = BlocksFor(end);
  SHOAL_CHECK_LE(blocks, std::ssize(room_.blocks));
  SeqSlice slice{.id = id_,
                 .position = static_cast<int32_t>(position_),
                 .sample_from = sample ? static_cast<int32_t>(tokens.size()) - 1 : kNoSample,
                 .long_rope = room_.long_rope};
  slice.tokens.assign(tokens.begin(), tokens.end());
  slice.blocks.assign(room_.blocks.begin(), room_.blocks.begin() + blocks);
  if (!room_.slots.empty()) {
    slice.state_from = state_;
    slot_ = (slot_ + 1) % room_.slots.size();
    state_ = room_.slots[slot_];
    slice.state_to.assign(snapshots.begin(), snapshots.end());
    slice.state_to.push_back({static_cast<int32_t>(end), state_});
  }
  position_ = end;
  return slice;
}

}  // namespace shoal
