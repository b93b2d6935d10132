// The slots in which the state of one sequence lies, one after another.
#pragma once

#include <utility>
#include <vector>

#include "base/check.h"
#include "exec/engine.h"
#include "exec/step.h"

namespace shoal {

/// Each slice reads the slot that the one before it wrote, and writes the next. With a slot more than steps
/// may be in flight (StateSlotsPerSequence), what a step read is still there when it comes back or fails,
/// whatever later steps have done meanwhile.
class StateRing {
 public:
  /// Of a model without states.
  StateRing() = default;
  /// At least two slots, which nobody else writes to.
  explicit StateRing(std::vector<SlotId> slots) : slots_(std::move(slots)) {
    SHOAL_CHECK_GE(slots_.size(), size_t{2});
  }

  const std::vector<SlotId>& slots() const { return slots_; }
  /// The slot that the slice placed last wrote, where there are slots.
  SlotId last() const { return slots_.empty() ? kNoState : slots_[at_]; }

  /// Says where `slice`, the next of the sequence (or its first again, at position 0), has its state.
  void place(SeqSlice& slice) {
    if (slots_.empty()) return;
    if (slice.position > 0) slice.state_from = slots_[at_];
    at_ = (at_ + 1) % slots_.size();
    const auto end = slice.position + static_cast<int32_t>(slice.tokens.size());
    slice.state_to = {{end, slots_[at_]}};
  }

 private:
  std::vector<SlotId> slots_;
  size_t at_ = 0;
};

/// The ring of a sequence that has the slots from `first` on, as many as the engine asks for.
inline StateRing RingFrom(const EngineLimits& limits, SlotId first) {
  std::vector<SlotId> slots;
  for (int i = 0; i < limits.state_slots_each(); ++i) slots.push_back(SlotId{first.value + i});
  return slots.empty() ? StateRing() : StateRing(std::move(slots));
}

}  // namespace shoal
