#include "exec/kv_copies.h"

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

/// Between two steps: some milliseconds of a core that copies and hashes.
constexpr int64_t kBytesAtOnce = int64_t{4} << 20;

}  // namespace

bool CopyOutbox::has_room() const {
  const std::lock_guard lock(mutex_);
  return !closed_ && bytes_ < bytes_max_;
}

void CopyOutbox::put(const CachedPlace& place, std::vector<std::byte> images) {
  const std::lock_guard lock(mutex_);
  if (closed_) return;
  bytes_ += std::ssize(images);
  copies_.push_back(std::make_shared<const CacheCopy>(CacheCopy{++last_, place, std::move(images)}));
  changed_.notify_all();
}

absl::StatusOr<CacheCopies> CopyOutbox::next(uint64_t after, int64_t bytes_max, Deadline deadline) {
  std::unique_lock lock(mutex_);
  const bool was_full = bytes_ >= bytes_max_;
  while (!copies_.empty() && copies_.front()->number <= after) {
    const int64_t bytes = std::ssize(copies_.front()->images);
    bytes_ -= bytes;
    ++taken_.copies;
    taken_.bytes += bytes;
    copies_.pop_front();
  }
  if (was_full && bytes_ < bytes_max_ && wake_) wake_();
  changed_.wait_until(lock, deadline.at, [this] { return closed_ || !copies_.empty(); });
  if (closed_) return FailedPrecondition("the session has ended");
  CacheCopies next;
  int64_t bytes = 0;
  for (const auto& copy : copies_) {
    bytes += std::ssize(copy->images);
    if (!next.empty() && bytes > bytes_max) break;
    next.push_back(copy);
  }
  return next;
}

void CopyOutbox::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  wake_ = nullptr;
  copies_.clear();
  bytes_ = 0;
  changed_.notify_all();
}

CopyOutbox::Stats CopyOutbox::stats() const {
  const std::lock_guard lock(mutex_);
  Stats stats = taken_;
  stats.waiting_bytes = bytes_;
  return stats;
}

void KvCopier::begin_step(const Step& step) {
  for (const CachedPlace& copy : step.copies) {
    const auto [found, fresh] = pending_.try_emplace(copy.place, copy.entry);
    if (!fresh && found->second == copy.entry) continue;
    found->second = copy.entry;
    order_.push_back(copy);
  }
  for (const SeqSlice& slice : step.slices) {
    const int64_t end = slice.position + std::ssize(slice.tokens);
    for (int64_t block = slice.position / kBlockPositions; block < BlocksFor(end); ++block) {
      forget(slice.blocks[static_cast<size_t>(block)]);
    }
    for (const StateWrite& write : slice.state_to) forget(write.slot);
  }
  for (const StoredRun& run : step.restores) {
    for (const BlockId block : run.blocks) forget(block);
    for (const StateWrite& state : run.states) forget(state.slot);
  }
  // Orders that were overtaken by others of their place must not pile up while nothing is fetched.
  if (order_.size() <= 2 * pending_.size() + static_cast<size_t>(kCopiesPerStepMax)) return;
  std::erase_if(order_, [this](const CachedPlace& one) {
    const auto found = pending_.find(one.place);
    return found == pending_.end() || found->second != one.entry;
  });
}

void KvCopier::copy_some() {
  int64_t bytes = 0;
  while (!order_.empty() && bytes < kBytesAtOnce && outbox_->has_room()) {
    const CachedPlace next = order_.front();
    order_.pop_front();
    const auto found = pending_.find(next.place);
    if (found == pending_.end() || found->second != next.entry) continue;
    pending_.erase(found);
    std::vector<std::byte> images;
    const absl::Status exported =
        compute_.export_cached(next.place, {identity_, next.key, next.position}, images);
    if (!exported.ok()) {
      complaints_.warn(fmt::format("kv buddy: a block is not copied: {}", Message(exported)));
      continue;
    }
    if (images.empty()) continue;  // None of the layers here has such a place.
    bytes += std::ssize(images);
    outbox_->put(next, std::move(images));
  }
  if (pending_.empty()) order_.clear();
}

}  // namespace shoal
