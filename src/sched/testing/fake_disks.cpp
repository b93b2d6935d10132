// The disks of the fake engine's stages.
#include "base/status.h"
#include "sched/testing/fake_engine.h"

namespace shoal {

void FakeEngine::tell_disks() {
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < disks_.size(); ++i) {
    KvReport report{.restart = true, .active = true};
    for (const auto& [key, tokens] : disks_[i]) report.changes.push_back({key, true});
    disk_reports_.emplace_back(state_.generation, NodeId{static_cast<int32_t>(i)}, std::move(report));
  }
}

bool FakeEngine::run_disk() {
  KvListener listener;
  std::tuple<uint64_t, NodeId, KvReport> told;
  {
    std::lock_guard lock(mutex_);
    if (disk_reports_.empty()) return false;
    told = std::move(disk_reports_.front());
    disk_reports_.pop_front();
    for (const RestoreOutcome& one : std::get<KvReport>(told).restored) {
      if (--restoring_[one.id].second == 0) restoring_.erase(one.id);
    }
    listener = kv_listener_;
  }
  if (listener) listener(std::get<0>(told), std::get<1>(told), std::move(std::get<2>(told)));
  return true;
}

int64_t FakeEngine::restored() const {
  std::lock_guard lock(mutex_);
  return restored_;
}

std::vector<BlockKey> FakeEngine::keys_of(const StoredRun& run) {
  std::vector<BlockKey> keys;
  BlockKey key = run.root;
  for (std::span tokens(run.tokens); tokens.size() >= kBlockPositions;
       tokens = tokens.subspan(kBlockPositions)) {
    key = KeyAfter(key, tokens.first(kBlockPositions));
    keys.push_back(key);
  }
  return keys;
}

// Nobody may name a block that a disk may still write to.
void FakeEngine::check_restoring(const Step& step) {
  const auto check = [&](SeqId id, const std::vector<BlockId>& blocks) {
    for (const auto& [sequence, restore] : restoring_) {
      for (const BlockId block : blocks) {
        if (std::ranges::count(restore.first, block) == 0) continue;
        violation(fmt::format("step {}: block {} of sequence {} is being restored for {}", step.id, block, id,
                              sequence));
      }
    }
  };
  for (const SeqSlice& slice : step.slices) check(slice.id, slice.blocks);
  for (const StoredRun& run : step.restores) check(run.id, run.blocks);
  for (const StoredRun& run : step.restores) {
    if (disks_.empty()) violation(fmt::format("step {}: a restore without disks", step.id));
    restoring_[run.id] = {run.blocks, static_cast<int>(disks_.size())};
  }
}

// What is saved must be what the tokens say.
void FakeEngine::execute_saves(const Step& step) {
  std::vector<KvReport> reports(disks_.size(), KvReport{.active = true});
  const auto write = [&](const BlockKey& key, std::span<const int32_t> tokens) {
    for (size_t i = 0; i < disks_.size(); ++i) {
      if (disk_fault_ && disk_fault_()) continue;
      disks_[i].insert_or_assign(key, std::vector(tokens.begin(), tokens.end()));
      reports[i].changes.push_back({key, true});
    }
  };
  for (const StoredRun& run : step.saves) {
    if (disks_.empty()) violation(fmt::format("step {}: a save without disks", step.id));
    const std::vector<BlockKey> keys = keys_of(run);
    const bool long_rope = run.root == RootKey(options_.limits.caches, true);
    const size_t first = keys.size() - run.blocks.size();
    for (size_t i = 0; i < run.blocks.size(); ++i) {
      const size_t begin = (first + i) * kBlockPositions;
      for (size_t at = 0; at < kBlockPositions; ++at) {
        const Cell& cell = cells_[{run.blocks[i].value, static_cast<int64_t>(at)}];
        if (cell.token == run.tokens[begin + at] && cell.long_rope == long_rope) continue;
        violation(fmt::format("step {}: block {} is saved and holds something else", step.id, run.blocks[i]));
        break;
      }
      write(keys[first + i], std::span(run.tokens).first(begin + kBlockPositions));
    }
    for (const StateWrite& state : run.states) {
      const auto tokens = std::span(run.tokens).first(static_cast<size_t>(state.position));
      if (!std::ranges::equal(states_[state.slot], tokens)) {
        violation(fmt::format("step {}: slot {} is saved and holds another state", step.id, state.slot));
      }
      write(StateKey(keys[static_cast<size_t>(state.position / kBlockPositions - 1)]), tokens);
    }
  }
  for (size_t i = 0; i < disks_.size(); ++i) {
    if (reports[i].changes.empty()) continue;
    disk_reports_.emplace_back(state_.generation, NodeId{static_cast<int32_t>(i)}, std::move(reports[i]));
  }
}

// Each disk up to its first record that is lost. What not all of them have holds nonsense.
void FakeEngine::execute_restore(const StoredRun& run) {
  std::vector<BlockKey> keys = keys_of(run);
  const bool long_rope = run.root == RootKey(options_.limits.caches, true);
  const size_t first = keys.size() - run.blocks.size();
  size_t least = run.blocks.size();
  bool state = true;
  for (size_t i = 0; i < disks_.size(); ++i) {
    KvReport report{.active = true};
    const auto read = [&](const BlockKey& key, size_t tokens) {
      const auto found = disks_[i].find(key);
      const bool lost = found == disks_[i].end() || (disk_fault_ && disk_fault_());
      if (!lost && std::ranges::equal(found->second, std::span(run.tokens).first(tokens))) return true;
      if (found != disks_[i].end()) disks_[i].erase(found);
      report.changes.push_back({key, false});
      return false;
    };
    size_t blocks = 0;
    while (blocks < run.blocks.size() && read(keys[first + blocks], (first + blocks + 1) * kBlockPositions))
      ++blocks;
    const bool whole = blocks == run.blocks.size();
    const bool with_state = whole && !run.states.empty() && read(StateKey(keys.back()), run.tokens.size());
    least = std::min(least, blocks);
    state = state && with_state;
    restored_ += static_cast<int64_t>(blocks);
    report.restored.push_back({.id = run.id,
                               .blocks = static_cast<int32_t>(blocks),
                               .state = with_state,
                               .bytes = 1000,
                               .ns = 1000 * (1 + static_cast<int64_t>(blocks))});
    disk_reports_.emplace_back(state_.generation, NodeId{static_cast<int32_t>(i)}, std::move(report));
  }
  for (size_t i = 0; i < run.blocks.size(); ++i) {
    for (size_t at = 0; at < kBlockPositions; ++at) {
      const int32_t token = i < least ? run.tokens[(first + i) * kBlockPositions + at] : -2;
      cells_[{run.blocks[i].value, static_cast<int64_t>(at)}] = {token, long_rope};
    }
  }
  for (const StateWrite& write : run.states) {
    states_[write.slot] = state ? run.tokens : std::vector<int32_t>{-2};
  }
}

}  // namespace shoal
