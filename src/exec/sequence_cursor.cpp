#include "exec/sequence_cursor.h"

#include <algorithm>
#include <iterator>

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

// The slice of these tokens, without its states.
SeqSlice SequenceCursor::rows(std::span<const int32_t> tokens, int32_t sample_from) {
  SHOAL_CHECK(!tokens.empty());
  const int64_t end = position_ + std::ssize(tokens);
  const int64_t blocks = BlocksFor(end);
  SHOAL_CHECK_LE(blocks, std::ssize(room_.blocks));
  SeqSlice slice{.id = id_,
                 .position = static_cast<int32_t>(position_),
                 .sample_from = sample_from,
                 .long_rope = room_.long_rope};
  slice.tokens.assign(tokens.begin(), tokens.end());
  slice.blocks.assign(room_.blocks.begin(), room_.blocks.begin() + blocks);
  position_ = end;
  return slice;
}

SeqSlice SequenceCursor::next(std::span<const int32_t> tokens, bool sample,
                              std::span<const StateWrite> snapshots) {
  SeqSlice slice = rows(tokens, sample ? static_cast<int32_t>(tokens.size()) - 1 : kNoSample);
  reached_.clear();
  if (room_.slots.empty()) return slice;
  slice.state_from = state_;
  slot_ = (slot_ + 1) % room_.slots.size();
  state_ = room_.slots[slot_];
  slice.state_to.assign(snapshots.begin(), snapshots.end());
  slice.state_to.push_back({static_cast<int32_t>(position_), state_});
  return slice;
}

SeqSlice SequenceCursor::next_drafted(std::span<const int32_t> tokens, std::span<const int32_t> draft,
                                      std::span<const StateWrite> snapshots) {
  SHOAL_CHECK(!tokens.empty());
  const auto begin = static_cast<int32_t>(position_);
  std::vector<int32_t> all(tokens.begin(), tokens.end());
  all.insert(all.end(), draft.begin(), draft.end());
  SeqSlice slice = rows(all, static_cast<int32_t>(tokens.size()) - 1);
  if (room_.slots.empty()) return slice;
  slice.state_from = state_;
  std::vector<StateWrite>& writes = slice.state_to;
  writes.assign(snapshots.begin(), snapshots.end());
  size_t slot = slot_;
  const auto write_behind = [&](int64_t position) {
    const auto at = std::ranges::lower_bound(writes, position, {}, &StateWrite::position);
    if (at != writes.end() && at->position == position) return;  // A snapshot.
    slot = (slot + 1) % room_.slots.size();
    writes.insert(at, {static_cast<int32_t>(position), room_.slots[slot]});
  };
  // One slot is read, and one is for the end.
  const int64_t known = begin + std::ssize(tokens);
  const int64_t inner_end = std::min(known + std::ssize(room_.slots) - 2, position_);
  for (int64_t position = known; position < inner_end; ++position) write_behind(position);
  write_behind(position_);
  reached_ = {{begin, state_}};
  reached_.insert(reached_.end(), writes.begin(), writes.end());
  stand_at(writes.back());
  return slice;
}

void SequenceCursor::go_back_to(int64_t position) {
  SHOAL_CHECK_LE(position, position_);
  if (room_.slots.empty()) {
    position_ = position;
    return;
  }
  const auto behind = std::ranges::upper_bound(reached_, position, {}, &StateWrite::position);
  SHOAL_CHECK(behind != reached_.begin());
  stand_at(*std::prev(behind));
}

void SequenceCursor::stand_at(StateWrite state) {
  position_ = state.position;
  state_ = state.slot;
  const auto at = std::ranges::find(room_.slots, state.slot);
  if (at != room_.slots.end()) slot_ = static_cast<size_t>(at - room_.slots.begin());
}

}  // namespace shoal
