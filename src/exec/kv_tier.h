// A node's disk tier within one session: copies blocks out of the caches for the store to write, and what the store
// has read into the caches. The store's thread never touches a cache: both copies are made by the executor, which
// also answers in time when the disk does not.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "base/log_throttle.h"
#include "base/range.h"
#include "compute/backend.h"
#include "exec/kv_report.h"
#include "exec/step.h"
#include "kv/block_image.h"
#include "kv/disk_store.h"

namespace shoal {

/// Used by the executor's thread only.
class KvTier {
 public:
  struct Options {
    BackendSession* compute = nullptr;  ///< Outlives the tier.
    std::shared_ptr<DiskStore> store;   ///< nullptr: nothing is kept, and nothing is there.
    BlockKey identity;                  ///< As ImageId::identity.
    Range layers;                       ///< Held here.
    std::function<void()> wake;         ///< Has the executor come to take_report(). From any thread.
    Duration restore_timeout = std::chrono::seconds(5);
  };
  explicit KvTier(Options options);
  /// Drops what is still to be restored.
  ~KvTier();

  /// Makes the step's saves, and begins its restores. They passed ValidateStep.
  void begin_step(const Step& step);

  /// The next report tells everything anew.
  void begin_anew() { restart_ = true; }

  /// Takes in what the store has read, and returns what is to be told; nullopt: nothing. To be called again and again.
  std::optional<KvReport> take_report();

 private:
  /// A record of a run.
  struct Part {
    BlockKey record;  ///< Key of the record.
    CachePlace place;
    ImageId id;
  };
  struct Restore {
    SeqId sequence;
    std::vector<Part> parts;
    size_t blocks = 0;  ///< Of the parts; a state follows them.
    size_t done = 0;    ///< Parts restored.
    int64_t bytes = 0;
    int64_t begun_ns = 0;
    Deadline deadline;
  };

  std::vector<Part> parts_of(const StoredRun& run) const;
  void save(const StoredRun& run);
  void begin_restore(const StoredRun& run);
  void import(const DiskMailbox::Loaded& loaded);
  void end_restore(uint64_t order);
  void end_late_restores();
  void tell_changes(KvReport& report);

  const Options options_;
  const BlockKey share_;
  std::shared_ptr<DiskMailbox> mailbox_;  ///< nullptr without a store.
  std::map<uint64_t, Restore> restores_;  ///< By the order's id.
  uint64_t next_order_ = 1;
  bool restart_ = false;
  std::vector<RecordChange> changes_;     ///< To be told.
  std::vector<RestoreOutcome> outcomes_;  ///< To be told.
  LogThrottle complaints_{std::chrono::seconds(10)};
};

}  // namespace shoal
