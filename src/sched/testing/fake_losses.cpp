// How the fake engine is lost, what that leaves in its caches, and what it begins anew with.
#include <set>
#include <variant>

#include "base/status.h"
#include "sched/testing/fake_engine.h"

namespace shoal {

void FakeEngine::lose(const absl::Status& status) {
  std::function<void()> listener;
  {
    std::lock_guard lock(mutex_);
    state_.status = status;
    listener = listener_;
  }
  wake_.notify_all();
  if (listener) listener();
}

// What a step leaves that failed half-way, at its worst.
void FakeEngine::tear(const Step& step) {
  constexpr int32_t kRubbish = -7;
  for (const SeqSlice& slice : step.slices) {
    for (int64_t i = slice.position; i < slice.position + std::ssize(slice.tokens); ++i) {
      const BlockId block = slice.blocks[static_cast<size_t>(i / kBlockPositions)];
      cells_[std::pair(block.value, i % kBlockPositions)] = {kRubbish, slice.long_rope};
    }
    for (const StateWrite& write : slice.state_to) states_[write.slot] = {kRubbish};
  }
  for (const StoredRun& run : step.restores) {
    for (const BlockId block : run.blocks) cells_[std::pair(block.value, 0)] = {kRubbish, false};
    for (const StateWrite& write : run.states) states_[write.slot] = {kRubbish};
  }
}

void FakeEngine::want_caches(uint64_t generation, std::vector<CachedPlace> places, Duration) {
  std::lock_guard lock(mutex_);
  if (!state_.status.ok() && generation == state_.generation) wanted_ = std::move(places);
}

void FakeEngine::keep_wanted() {
  std::set<BlockId> blocks;
  std::set<SlotId> slots;
  for (const CachedPlace& one : *wanted_) {
    if (const SlotId* slot = std::get_if<SlotId>(&one.place)) {
      slots.insert(*slot);
    } else {
      blocks.insert(std::get<BlockId>(one.place));
    }
  }
  std::erase_if(states_, [&](const auto& entry) { return !slots.contains(entry.first); });
  std::erase_if(cells_, [&](const auto& entry) { return !blocks.contains(BlockId{entry.first.first}); });
}

// The buddy is slow: it is behind by some steps.
void FakeEngine::execute_copies(const Step& step) {
  constexpr int kAtOnce = 2;
  for (const CachedPlace& one : step.copies) {
    if (one.entry == 0) violation(fmt::format("step {}: a copy has no number", step.id));
    to_copy_[one.place] = one.entry;
  }
  for (const SeqSlice& slice : step.slices) {
    const int64_t end = slice.position + std::ssize(slice.tokens);
    for (int64_t block = slice.position / kBlockPositions; block < BlocksFor(end); ++block) {
      to_copy_.erase(slice.blocks[static_cast<size_t>(block)]);
    }
    for (const StateWrite& write : slice.state_to) to_copy_.erase(write.slot);
  }
  for (const StoredRun& run : step.restores) {
    for (const BlockId block : run.blocks) to_copy_.erase(block);
    for (const StateWrite& write : run.states) to_copy_.erase(write.slot);
  }
  for (int i = 0; i < kAtOnce && !to_copy_.empty(); ++i) {
    const auto [place, entry] = *to_copy_.begin();
    to_copy_.erase(to_copy_.begin());
    copy(place, entry);
  }
}

void FakeEngine::copy(const CachePlace& place, uint64_t entry) {
  Copied copied{.entry = entry};
  if (const SlotId* slot = std::get_if<SlotId>(&place)) {
    copied.state = states_[*slot];
  } else {
    const int32_t block = std::get<BlockId>(place).value;
    for (int64_t i = 0; i < kBlockPositions; ++i) copied.cells[i] = cells_[std::pair(block, i)];
  }
  copied_[place] = std::move(copied);
}

// The new owner has nothing but the copies. Returns what it lacks.
std::vector<uint64_t> FakeEngine::restore_copies() {
  std::set<uint64_t> missing;
  states_.clear();
  cells_.clear();
  for (const CachedPlace& one : *wanted_) {
    const auto found = copied_.find(one.place);
    if (found == copied_.end() || found->second.entry != one.entry) {
      missing.insert(one.entry);
    } else if (const SlotId* slot = std::get_if<SlotId>(&one.place)) {
      states_[*slot] = found->second.state;
    } else {
      const int32_t block = std::get<BlockId>(one.place).value;
      for (const auto& [offset, cell] : found->second.cells) cells_[std::pair(block, offset)] = cell;
    }
  }
  return {missing.begin(), missing.end()};
}

void FakeEngine::recover(EngineLimits limits, KeptCaches keep) {
  std::function<void()> listener;
  std::deque<Pending> lost;
  {
    std::lock_guard lock(mutex_);
    lost.swap(queue_);
    if (keep == KeptCaches::kWanted && !wanted_.has_value()) keep = KeptCaches::kNone;
    state_ = {.status = absl::OkStatus(),
              .generation = state_.generation + 1,
              .limits = limits,
              .keeps_caches = keep};
    options_.limits = limits;
    next_step_ = 1;
    known_.clear();
    for (const Pending& pending : lost) tear(pending.step);
    const bool empty = keep == KeptCaches::kNone;
    std::erase_if(states_,
                  [&](const auto& entry) { return empty || entry.first.value >= limits.state_slots; });
    std::erase_if(cells_, [&](const auto& entry) { return empty || entry.first.first >= limits.blocks; });
    if (keep == KeptCaches::kWanted) keep_wanted();
    if (keep == KeptCaches::kWanted && from_copies_) {
      state_.missing = std::make_shared<const std::vector<uint64_t>>(restore_copies());
    }
    from_copies_ = false;
    to_copy_.clear();
    wanted_.reset();
    masks_.clear();
    disk_reports_.clear();
    restoring_.clear();
    listener = listener_;
  }
  // A real engine, too, may answer the steps of the old generation after the new one has begun.
  for (Pending& pending : lost) pending.done(Unavailable("the step was lost"));
  wake_.notify_all();
  if (listener) listener();
  tell_disks();
  while (options_.threaded && run_disk()) {
  }
}

}  // namespace shoal
