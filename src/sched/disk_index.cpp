#include "sched/disk_index.h"

#include <algorithm>

#include "base/check.h"
#include "base/log.h"
#include "kv/kv_cache.h"

namespace shoal {
namespace {

constexpr int kStagesMax = 64;  // Bits of a word.
/// Of fewer rows a step's time says little of a row's.
constexpr int64_t kPrefillRowsMin = 16;
constexpr double kNewestWeight = 0.3;
constexpr double kAfterNo = 0.9;

void Mix(double& mean, double value) {
  mean = mean == 0 ? value : (1 - kNewestWeight) * mean + kNewestWeight * value;
}

}  // namespace

void DiskIndex::reset(int stages) {
  stages_max_ = stages;
  if (stages > kStagesMax) LogWarning("kv disk: off, as there are more than {} stages", kStagesMax);
  active_ = false;
  stages_.clear();
  places_.clear();
  on_all_ = 0;
  outstanding_.clear();
}

uint64_t DiskIndex::bit_of(NodeId node) {
  const auto found = std::ranges::find(stages_, node, &Stage::node);
  const auto index = found - stages_.begin();
  if (found == stages_.end()) {
    if (index >= std::min(stages_max_, kStagesMax)) return 0;
    stages_.push_back({.node = node});
  }
  return uint64_t{1} << index;
}

bool DiskIndex::on_all(const BlockKey& key) const {
  if (!active_) return false;
  const auto found = places_.find(key);
  return found != places_.end() && found->second == all();
}

void DiskIndex::change(uint64_t bit, const RecordChange& change) {
  uint64_t& places = places_[change.key];
  on_all_ -= places == all() ? 1 : 0;
  places = change.there ? places | bit : places & ~bit;
  on_all_ += places == all() ? 1 : 0;
  if (places == 0) places_.erase(change.key);
}

void DiskIndex::forget(uint64_t bit) {
  for (auto& [key, places] : places_) places &= ~bit;
  std::erase_if(places_, [](const auto& entry) { return entry.second == 0; });
  on_all_ = 0;  // It takes all stages.
}

bool DiskIndex::pays() {
  if (restore_ns_per_block_ <= kBlockPositions * prefill_ns_per_row_ || prefill_ns_per_row_ == 0) return true;
  restore_ns_per_block_ *= kAfterNo;
  ++totals_.passed_over;
  return false;
}

// Of a prompt in many chunks all stages work at the same time: the slowest one decides.
void DiskIndex::observe_prefill(int64_t rows, std::span<const StageTiming> timings) {
  if (rows < kPrefillRowsMin) return;
  double slowest_ns = 0;
  for (const StageTiming& timing : timings) {
    slowest_ns = std::max(slowest_ns, timing.elapsed_ns());
  }
  if (slowest_ns > 0) Mix(prefill_ns_per_row_, slowest_ns / static_cast<double>(rows));
}

void DiskIndex::observe_restore(const RestoreOutcome& outcome) {
  if (outcome.blocks == 0 || outcome.ns == 0) return;
  Mix(restore_ns_per_block_, static_cast<double>(outcome.ns) / outcome.blocks);
}

void DiskIndex::expect(SeqId id) {
  const bool inserted = outstanding_.try_emplace(id).second;
  SHOAL_CHECK(inserted);  // A sequence that is being restored is not admitted again.
}

std::vector<RestoreOutcome> DiskIndex::report(NodeId node, const KvReport& report) {
  const uint64_t bit = bit_of(node);
  if (bit == 0) return {};
  Stage& stage = *std::ranges::find(stages_, node, &Stage::node);
  stage = {node, report.active, report.bytes, report.dropped, report.errors};
  if (report.restart) forget(bit);
  for (const RecordChange& one : report.changes) change(bit, one);
  active_ = std::ssize(stages_) == stages_max_ && std::ranges::all_of(stages_, &Stage::active);
  std::vector<RestoreOutcome> complete;
  for (const RestoreOutcome& one : report.restored) {
    const auto found = outstanding_.find(one.id);
    if (found == outstanding_.end() || (found->second.told & bit) != 0) continue;
    Outstanding& restore = found->second;
    const bool first = restore.told == 0;
    restore.told |= bit;
    RestoreOutcome& least = restore.outcome;
    least = {.id = one.id,
             .blocks = first ? one.blocks : std::min(least.blocks, one.blocks),
             .state = one.state && (first || least.state),
             .bytes = least.bytes + one.bytes,
             .ns = std::max(least.ns, one.ns)};
    if (restore.told != all()) continue;
    observe_restore(least);
    complete.push_back(least);
    outstanding_.erase(found);
  }
  return complete;
}

void DiskIndex::count_restore(bool whole, int64_t tokens) {
  totals_.hits += tokens > 0 ? 1 : 0;
  totals_.tokens_restored += tokens;
  totals_.failures += whole ? 0 : 1;
}

DiskTierStats DiskIndex::stats() const {
  DiskTierStats stats = totals_;
  stats.active = active_;
  stats.blocks = active_ ? on_all_ : 0;
  for (const Stage& stage : stages_) {
    stats.bytes += stage.bytes;
    stats.dropped += stage.dropped;
    stats.errors += stage.errors;
  }
  return stats;
}

}  // namespace shoal
