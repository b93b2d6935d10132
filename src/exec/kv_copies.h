// What a node copies out of its cache for its buddy, a node that keeps it in case this one is lost: the executor makes
// the copies between two steps, and whoever fetches for the buddy takes them from another thread.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/log_throttle.h"
#include "compute/backend.h"
#include "exec/step.h"
#include "kv/block_image.h"

namespace shoal {

/// Images of one place, of all layers of a node that have such a place.
struct CacheCopy {
  uint64_t number = 0;  ///< From 1 on, ascending within a session.
  CachedPlace place;
  std::vector<std::byte> images;
};
using CacheCopies = std::vector<std::shared_ptr<const CacheCopy>>;

/// Copies that wait until the buddy has them. Any thread.
class CopyOutbox {
 public:
  /// bytes_max: of copies that wait. wake: called when there is room again, until close(); must not call the outbox.
  CopyOutbox(int64_t bytes_max, std::function<void()> wake) : bytes_max_(bytes_max), wake_(std::move(wake)) {}

  /// Whether another copy may be put: one more than bytes_max holds, as a copy may be larger than that.
  bool has_room() const;
  void put(const CachedPlace& place, std::vector<std::byte> images);

  /// The oldest copies behind number `after`, up to so many bytes but one at least; none where none comes until the
  /// deadline. Those up to `after` are the buddy's, and go. FailedPrecondition: the session has ended.
  absl::StatusOr<CacheCopies> next(uint64_t after, int64_t bytes_max, Deadline deadline);
  /// Nobody is woken from now on, and no copy is given any more.
  void close();

  struct Stats {
    int64_t copies = 0;  ///< Taken by the buddy.
    int64_t bytes = 0;
    int64_t waiting_bytes = 0;
  };
  Stats stats() const;

 private:
  const int64_t bytes_max_;
  mutable std::mutex mutex_;  ///< Guards what follows.
  std::condition_variable changed_;
  std::function<void()> wake_;
  std::deque<std::shared_ptr<const CacheCopy>> copies_;
  uint64_t last_ = 0;
  int64_t bytes_ = 0;
  Stats taken_;
  bool closed_ = false;
};

/// Knows what is yet to be copied, and never copies what a step has written to since it was ordered. Of the executor's
/// thread.
class KvCopier {
 public:
  /// Both outlive the copier.
  KvCopier(BackendSession& compute, const BlockKey& identity, std::shared_ptr<CopyOutbox> outbox)
      : compute_(compute), identity_(identity), outbox_(std::move(outbox)) {}

  /// Takes in what the step orders, and forgets the places that it writes to. It passed ValidateStep.
  void begin_step(const Step& step);
  /// Whether copy_some() would copy.
  bool can_copy() const { return !pending_.empty() && outbox_->has_room(); }
  /// Between two steps: copies up to a few MiB, as there is room.
  void copy_some();

 private:
  void forget(const CachePlace& place) { pending_.erase(place); }

  BackendSession& compute_;
  const BlockKey identity_;  ///< As ImageId::identity.
  const std::shared_ptr<CopyOutbox> outbox_;
  std::deque<CachedPlace> order_;  ///< Oldest first; those that are not pending any more are passed over.
  std::map<CachePlace, uint64_t> pending_;  ///< The entry that is to be copied.
  LogThrottle complaints_{std::chrono::seconds(10)};
};

}  // namespace shoal
