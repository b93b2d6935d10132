#include "exec/step_validation.h"

#include <algorithm>
#include <limits>
#include <string>
#include <unordered_set>
#include <utility>
#include <variant>
#include <vector>

#include "base/status.h"

namespace shoal {
namespace {

/// What a result frame of 256 MiB can carry.
constexpr int64_t kLogitsMax = (int64_t{256} << 20) / 4 - (1 << 16);

/// The state of one slice: where it comes from, and where it goes.
absl::Status ValidateStates(const SeqSlice& slice, const StepLimits& limits) {
  const auto known = [&](SlotId slot) { return slot.value >= 0 && slot.value < limits.state_slots; };
  if (limits.state_slots == 0) {
    if (slice.state_from == kNoState && slice.state_to.empty()) return absl::OkStatus();
    return InvalidArgument("state slots: expected none, as this model keeps no states");
  }
  if (slice.position == 0 ? slice.state_from != kNoState : !known(slice.state_from)) {
    return InvalidArgument("state from slot {} at position {}: expected {}", slice.state_from, slice.position,
                           slice.position == 0 ? fmt::format("{}, as nothing came before", kNoState)
                                               : fmt::format("one of {}", limits.state_slots));
  }
  const int64_t end = slice.position + std::ssize(slice.tokens);
  int64_t before = slice.position;
  for (const StateWrite& write : slice.state_to) {
    if (!known(write.slot)) {
      return InvalidArgument("state to slot {}: this node has {} slots", write.slot, limits.state_slots);
    }
    if (write.position <= before || write.position > end) {
      return InvalidArgument("state behind {} tokens: expected ascending numbers above {}, {} the last",
                             write.position, slice.position, end);
    }
    before = write.position;
  }
  if (before != end) return InvalidArgument("state behind {} tokens: expected a slot for it, got none", end);
  return absl::OkStatus();
}

/// No slot is written twice, or written and read: a failed step could not be run again.
absl::Status ValidateSlotUse(const Step& step) {
  std::unordered_set<SlotId> written;
  for (const SeqSlice& slice : step.slices) {
    for (const StateWrite& write : slice.state_to) {
      if (written.insert(write.slot).second) continue;
      return InvalidArgument("step {}, sequence {}: state slot {} is written twice", step.id, slice.id,
                             write.slot);
    }
  }
  for (const SeqSlice& slice : step.slices) {
    if (!written.contains(slice.state_from)) continue;
    return InvalidArgument("step {}, sequence {}: state slot {} is read and written", step.id, slice.id,
                           slice.state_from);
  }
  return absl::OkStatus();
}

absl::Status ValidateSlice(const SeqSlice& slice, const StepLimits& limits) {
  const auto tokens = static_cast<int64_t>(slice.tokens.size());
  const auto blocks = static_cast<int64_t>(slice.blocks.size());
  const int64_t end = slice.position + tokens;
  if (slice.position < 0 || tokens == 0 || end > limits.context) {
    return InvalidArgument("positions [{}, {}): expected a part of [0, {})", slice.position, end,
                           limits.context);
  }
  if (blocks < BlocksFor(end)) {
    return InvalidArgument("block table of {} blocks: {} positions need {}", blocks, end, BlocksFor(end));
  }
  if (slice.sample_from != kNoSample && (slice.sample_from < 0 || slice.sample_from >= tokens)) {
    return InvalidArgument("sampled from row {} on: expected one of {}, or {} for none", slice.sample_from,
                           tokens, kNoSample);
  }
  if (std::ssize(slice.scored) > tokens) {
    return InvalidArgument("{} scored tokens: expected at most one for each of {} rows", slice.scored.size(),
                           tokens);
  }
  if ((slice.masked || slice.draft) && slice.sample_from == kNoSample) {
    return InvalidArgument("{}: nothing is sampled from it", slice.masked ? "masked" : "draft");
  }
  if (!slice.long_rope && end > limits.short_rope_positions) {
    return InvalidArgument("positions [{}, {}) without long rope: short frequencies end at {}",
                           slice.position, end, limits.short_rope_positions);
  }
  if (slice.long_rope && limits.short_rope_positions == std::numeric_limits<int64_t>::max()) {
    return InvalidArgument("long rope: this model has no second set of frequencies");
  }
  int64_t block_end = 0;
  for (const BlockId block : slice.blocks) {
    block_end += kBlockPositions;
    if (block == kNoBlock && block_end <= FirstVisible(slice.position, limits.window)) continue;
    if (block.value < 0 || block.value >= limits.blocks) {
      return InvalidArgument("block {}: this node has {} blocks", block, limits.blocks);
    }
  }
  return ValidateStates(slice, limits);
}

absl::Status ValidateRun(const StoredRun& run, const StepLimits& limits, bool restore) {
  const auto tokens = std::ssize(run.tokens);
  if (tokens == 0 || tokens % kBlockPositions != 0 || tokens > limits.context) {
    return InvalidArgument("{} tokens: expected whole blocks of {}, up to {}", tokens, kBlockPositions,
                           limits.context);
  }
  if (std::ssize(run.blocks) > tokens / kBlockPositions) {
    return InvalidArgument("{} blocks: expected at most {} for {} tokens", run.blocks.size(),
                           tokens / kBlockPositions, tokens);
  }
  for (const BlockId block : run.blocks) {
    if (block.value < 0 || block.value >= limits.blocks) {
      return InvalidArgument("block {}: this node has {} blocks", block, limits.blocks);
    }
  }
  const int64_t states = !restore ? std::ssize(run.states) : limits.state_slots > 0 ? 1 : 0;
  if (std::ssize(run.states) != states) {
    return InvalidArgument("{} states to restore, expected {}", run.states.size(), states);
  }
  for (const StateWrite& state : run.states) {
    const bool place =
        restore ? state.position == tokens
                : state.position > 0 && state.position <= tokens && state.position % kBlockPositions == 0;
    if (place && state.slot.value >= 0 && state.slot.value < limits.state_slots) continue;
    return InvalidArgument("state behind {} of {} tokens in slot {}: this node has {} slots", state.position,
                           tokens, state.slot, limits.state_slots);
  }
  return absl::OkStatus();
}

/// What goes to disk, and comes from there.
absl::Status ValidateRuns(const Step& step, const StepLimits& limits) {
  for (const StoredRun& run : step.saves) {
    RETURN_IF_ERROR(Annotate(ValidateRun(run, limits, false), fmt::format("step {}, save", step.id)));
  }
  for (const StoredRun& run : step.restores) {
    RETURN_IF_ERROR(Annotate(ValidateRun(run, limits, true),
                             fmt::format("step {}, restore of sequence {}", step.id, run.id)));
  }
  return absl::OkStatus();
}

absl::Status ValidateCopy(const CachedPlace& copy, const StepLimits& limits) {
  const bool slot = std::holds_alternative<SlotId>(copy.place);
  const int32_t id = NumberOf(copy.place);
  const int there = slot ? limits.state_slots : limits.blocks;
  const bool position = copy.position > 0 && copy.position % kBlockPositions == 0;
  if (id >= 0 && id < there && position && copy.entry != 0) return absl::OkStatus();
  return InvalidArgument(
      "{} {} behind {} tokens, entry {}: this node has {}, whole blocks and entries from 1 on",
      slot ? "state slot" : "block", id, copy.position, copy.entry, there);
}

/// What goes to buddies.
absl::Status ValidateCopies(const Step& step, const StepLimits& limits) {
  if (std::ssize(step.copies) > kCopiesPerStepMax) {
    return InvalidArgument("step {}: {} copies, expected at most {}", step.id, step.copies.size(),
                           kCopiesPerStepMax);
  }
  for (const CachedPlace& copy : step.copies) {
    RETURN_IF_ERROR(Annotate(ValidateCopy(copy, limits), fmt::format("step {}, copy", step.id)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateStep(const Step& step, const StepLimits& limits) {
  const int64_t rows = step.rows();
  if (rows > limits.rows_max) {
    return InvalidArgument("step {}: {} rows, expected at most {}", step.id, rows, limits.rows_max);
  }
  if (step.want_logits && rows * limits.vocabulary > kLogitsMax) {
    return InvalidArgument("step {}: logits of {} rows of {} are wanted, expected at most {} of them in all",
                           step.id, rows, limits.vocabulary, kLogitsMax);
  }
  std::unordered_set<SeqId> seen;
  for (const SeqSlice& slice : step.slices) {
    const std::string where = fmt::format("step {}, sequence {}", step.id, slice.id);
    if (!seen.insert(slice.id).second) return InvalidArgument("{}: two slices of one sequence", where);
    RETURN_IF_ERROR(Annotate(ValidateSlice(slice, limits), where));
  }
  if (limits.state_slots > 0) RETURN_IF_ERROR(ValidateSlotUse(step));
  RETURN_IF_ERROR(ValidateRuns(step, limits));
  RETURN_IF_ERROR(ValidateCopies(step, limits));
  for (const NewSequence& sequence : step.begins) {
    const auto tokens = static_cast<int64_t>(sequence.tokens.size());
    if (sequence.prompt_tokens < 0 || sequence.prompt_tokens > tokens) {
      return InvalidArgument("step {}, sequence {}: {} prompt tokens of {}", step.id, sequence.id,
                             sequence.prompt_tokens, tokens);
    }
  }
  return absl::OkStatus();
}

}  // namespace shoal
