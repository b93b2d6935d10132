// Copies of what other nodes cache, kept here in case one of them is lost: fetched in the background while a session
// runs, and given to the node that has the lost one's layers next (docs/decisions/0032).
#pragma once

#include <condition_variable>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "base/clock.h"
#include "cluster/cache_move.h"
#include "kv/block_image.h"

namespace shoal {

/// A copy, or whole images of it where it is large: then `last` comes with the last of them.
struct CopyPiece {
  uint64_t number = 0;  ///< CacheCopy::number.
  CachedPlace place;
  bool last = false;
  std::span<const std::byte> images;
};
/// Takes them in order. An error ends the giving, and is its result.
using TakeCopies = absl::FunctionRef<absl::Status(const CopyPiece& piece)>;

/// Copies that may come at once, and how long is waited for the first.
inline constexpr int64_t kCopiesAtOnceBytes = int64_t{8} << 20;
inline constexpr Duration kCopiesWait = std::chrono::seconds(2);

/// Where the copies of one node come from. fetch() has one caller at a time.
class CopySource {
 public:
  virtual ~CopySource() = default;
  /// Copies behind number `after`, which the caller has; none where none come for a while. Else as of any call.
  virtual absl::Status fetch(uint64_t after, Deadline deadline, TakeCopies take) = 0;
  /// Ends calls in flight, and those to come, with Cancelled. Any thread.
  virtual void cancel() = 0;
};

/// A node whose copies are kept, and how many of them.
struct FollowedNode {
  std::string name;
  int64_t bytes_max = 0;
  std::unique_ptr<CopySource> source;
};

/// The copies, by node and place: another copy of a place takes the place of the one before. Any thread.
class CopyShelf {
 public:
  /// The coordinator `giver` (OrderGiver::id) numbers entries from now on: what another one numbered goes.
  void begin(uint64_t giver);
  /// From now on keeps so much of a node: beyond it, what came first goes, but not before the next keep_only() or put() of
  /// the node, as it may be asked for until then.
  void limit(const std::string& node, int64_t bytes_max);
  /// From now on keeps so much of all nodes together: beyond it, what came first goes, at once. Weights and caches need the
  /// memory.
  void cap(int64_t bytes_max);
  /// Whether there may be any copies of the node.
  bool takes(const std::string& node) const;
  /// Drops the copies of all other nodes, and of these what is beyond their limits.
  void keep_only(std::span<const std::string> nodes);
  /// InvalidArgument or DataLoss: these are no images of the place. Nothing of it is kept then. Without effect for a node
  /// without a limit.
  absl::Status put(const std::string& node, const CachedPlace& place, std::span<const std::byte> images);
  /// Gives what is here of places and layers of request.copies_of, in the order of the places. FailedPrecondition: these
  /// are no copies of this coordinator's.
  absl::Status give(const CacheRequest& request, Deadline deadline, TakeImages take) const;

  struct Stats {
    int64_t places = 0;
    int64_t bytes = 0;
    int64_t evicted = 0;  ///< Places that went as there was no room, since the start.
  };
  Stats stats() const;

 private:
  struct Kept {
    CachedPlace place;
    uint64_t put = 0;  ///< Orders places by when they came.
    int64_t bytes = 0;
    std::map<LayerId, std::vector<std::byte>> images;
  };
  struct Owner {
    int64_t bytes_max = 0;
    int64_t bytes = 0;
    std::map<CachePlace, Kept> places;
    std::map<uint64_t, CachePlace> oldest;
  };
  static void erase(Owner& owner, const CachePlace& place);
  void fit(Owner& owner);
  void fit_all();
  /// Those that are here of one place, by layer. The mutex is held.
  static std::vector<std::vector<std::byte>> images_of(const Owner& owner, const CachedPlace& place,
                                                       Range layers);

  mutable std::mutex mutex_;  ///< Guards what follows.
  uint64_t giver_ = 0;
  uint64_t puts_ = 0;
  int64_t bytes_max_ = std::numeric_limits<int64_t>::max();
  int64_t evicted_ = 0;
  std::map<std::string, Owner> owners_;
};

/// Fetches one node's copies for a shelf, on a thread of its own, until it ends.
class CopyFollower {
 public:
  /// all: the nodes that the session has copies of here. When the first copy comes, steps have run: all nodes have their
  /// sessions, and nobody asks for what the shelf has of others.
  CopyFollower(FollowedNode node, std::shared_ptr<CopyShelf> shelf, std::vector<std::string> all);
  ~CopyFollower();
  const std::string& name() const { return node_.name; }
  CopyFollower(const CopyFollower&) = delete;
  CopyFollower& operator=(const CopyFollower&) = delete;

 private:
  void run();
  bool nap(Duration time);

  const FollowedNode node_;
  const std::shared_ptr<CopyShelf> shelf_;
  const std::vector<std::string> all_;
  std::mutex mutex_;
  std::condition_variable stopped_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace shoal
