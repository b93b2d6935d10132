#include "compute/state_spans.h"

#include "base/check.h"
#include "base/status.h"

namespace shoal {

std::span<const StateSpan> StateSpansOf(Arena& arena, std::span<const StepSlice> slices) {
  int64_t count = 0;
  for (const StepSlice& slice : slices) count += std::ssize(slice.state_to);
  const std::span<StateSpan> spans = arena.allocate<StateSpan>(count);
  auto out = spans.begin();
  for (const StepSlice& slice : slices) {
    if (slice.state_to.empty()) continue;  // Of rows that pass the layer for multi-token prediction alone.
    int64_t position = slice.position;
    SlotId from = slice.state_from;
    for (const StateWrite& write : slice.state_to) {
      SHOAL_CHECK(write.position > position && write.slot != from);
      *out++ = {slice.row_begin + position - slice.position, write.position - position, from, write.slot};
      position = write.position;
      from = write.slot;
    }
    SHOAL_CHECK_EQ(position, slice.position + slice.rows);
  }
  return spans;
}

absl::Status CheckStates(const KvCache& cache, std::span<const StepSlice> slices) {
  for (const StepSlice& slice : slices) {
    if (slice.state_to.empty()) continue;  // A model without states.
    const int64_t held = slice.state_from == kNoState ? 0 : cache.state_position(slice.state_from);
    if (held == slice.position) continue;
    return FailedPrecondition("state slot {}: expected the state behind {} tokens, found {}",
                              slice.state_from, slice.position,
                              held < 0 ? "none" : fmt::format("that behind {}", held));
  }
  return absl::OkStatus();
}

}  // namespace shoal
