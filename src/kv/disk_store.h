// A folder of records (disk_record.h) on this machine's disk: what caches held, for when they need it again. A
// thread of its own reads and writes, beside the steps. Files are written under another name and then renamed, are
// checked whenever they are read, and the least recently used are deleted when the folder is full. Whatever goes
// wrong is a line in the log and a record less. The reasons are in docs/decisions/0017.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/file_handle.h"
#include "base/log_throttle.h"
#include "kv/disk_record.h"

namespace shoal {

/// A record came, or went.
struct RecordChange {
  BlockKey key;
  bool there = false;
  bool operator==(const RecordChange&) const = default;
};

/// Records to be read one after the other, up to the first that is not there.
struct LoadOrder {
  struct One {
    BlockKey key;
    size_t tokens = 0;  ///< Its record was written behind the first so many of the order's.
  };
  uint64_t id = 0;
  std::vector<int32_t> tokens;
  std::vector<One> records;
};

/// What a store has to tell of the records of one share.
class DiskMailbox {
 public:
  /// wake: called when records were loaded, or an order ended, from the store's thread, until close(). Must not call
  /// the mailbox. Changes wait for the next look.
  DiskMailbox(const BlockKey& share, std::function<void()> wake) : share_(share), wake_(std::move(wake)) {}

  struct Loaded {
    uint64_t order = 0;
    size_t index = 0;  ///< In LoadOrder::records.
    std::vector<std::byte> record;
    size_t images_begin = 0;  ///< Offset of the images in it.
  };
  struct News {
    std::vector<RecordChange> changes;  ///< In order.
    std::vector<Loaded> loaded;         ///< In order.
    std::vector<uint64_t> ended;        ///< Orders of which no more records come.
  };
  bool has_news() const { return has_news_; }
  News take();
  /// Nothing is told from now on.
  void close();

  const BlockKey& share() const { return share_; }

 private:
  friend class DiskStore;
  void tell(const RecordChange& change);
  void end(uint64_t order);
  /// Waits until what was told before has been taken, where that is much. False where nobody takes it.
  bool give(Loaded loaded);

  const BlockKey share_;
  std::mutex mutex_;
  std::condition_variable taken_;
  std::function<void()> wake_;
  News news_;
  int64_t staged_bytes_ = 0;
  bool closed_ = false;
  std::atomic<bool> has_news_{false};
};

class DiskStore {
 public:
  struct Options {
    std::string folder;
    int64_t bytes_max = 0;                                ///< Of all records.
    int64_t queue_bytes_max = int64_t{256} << 20;         ///< That wait to be written; more are dropped.
    Duration drain_max = std::chrono::seconds(1);         ///< For what still waits at the end.
    Duration full_disk_pause = std::chrono::seconds(10);  ///< Without writing, after a write failed.
  };
  /// Takes the folder for this process, made where there is none, and finds the records in it.
  /// FailedPrecondition: another process has it. Else as SystemError.
  static absl::StatusOr<std::shared_ptr<DiskStore>> Open(Options options);
  ~DiskStore();
  DiskStore(const DiskStore&) = delete;
  DiskStore& operator=(const DiskStore&) = delete;

  /// From now on the mailbox is told of changes.
  void subscribe(const std::shared_ptr<DiskMailbox>& mailbox);
  /// The keys of its records now. The mailbox forgets the changes until now.
  std::vector<BlockKey> keys(DiskMailbox& mailbox);

  /// Whether there is such a record, or it is to be written.
  bool contains(const RecordName& name) const;
  /// Queues a record (BeginRecord, and images) to be sealed and written. False: it was dropped, as too much waits, or
  /// the disk can't be written.
  bool save(const RecordName& name, size_t tokens, std::vector<std::byte> record);
  /// Queues an order: its records come through the mailbox, then its end. Never blocks.
  void load(const std::shared_ptr<DiskMailbox>& mailbox, LoadOrder order);
  /// The record turned out to be of no use: it is deleted, with a line in the log.
  void discard(const RecordName& name, const absl::Status& why);

  struct Stats {
    int64_t records = 0;
    int64_t bytes = 0;
    int64_t saved = 0;    ///< Records written,
    int64_t loaded = 0;   ///< and read.
    int64_t dropped = 0;  ///< Records that were not written: too much waited, or a write had failed.
    int64_t errors = 0;   ///< Of the system, and damaged records.
  };
  Stats stats() const;
  const std::string& folder() const { return options_.folder; }

 private:
  struct Entry {
    int64_t bytes = 0;
    std::list<RecordName>::iterator use;
  };
  struct Save {
    RecordName name;
    size_t tokens = 0;
    std::vector<std::byte> record;
  };
  struct Load {
    std::weak_ptr<DiskMailbox> mailbox;
    LoadOrder order;
  };

  explicit DiskStore(Options options);
  absl::Status take_folder();
  void scan();
  void run();
  void run_save(Save save);
  void run_load(const std::shared_ptr<DiskMailbox>& mailbox, const LoadOrder& order);
  absl::Status write(const Save& save) const;
  absl::StatusOr<std::vector<std::byte>> read(const RecordName& name, int64_t bytes) const;
  /// A record of the order, whole and of these tokens.
  absl::StatusOr<DiskMailbox::Loaded> load_one(const BlockKey& share, const LoadOrder& order, size_t index);
  std::string path_of(const RecordName& name) const;
  /// Takes records out of the index until `bytes` fit, and deletes them.
  void make_room(int64_t bytes);
  void remove(const RecordName& name);  ///< From the index, with the mutex held.
  void tell(const RecordName& name, bool there);
  void note_failed_write(const absl::Status& why);

  const Options options_;
  FileHandle lock_;
  LogThrottle complaints_{std::chrono::seconds(10)};
  mutable std::mutex mutex_;  ///< Guards what follows. Held while mailboxes are told, too.
  std::condition_variable wake_;
  std::unordered_map<RecordName, Entry> index_;
  std::list<RecordName> uses_;  ///< Least recently used first.
  int64_t bytes_ = 0;
  std::deque<Save> saves_;
  std::unordered_set<RecordName> saving_;
  int64_t queued_bytes_ = 0;
  std::deque<Load> loads_;
  std::vector<RecordName> discards_;
  std::vector<std::weak_ptr<DiskMailbox>> mailboxes_;
  Clock::time_point writes_from_{};  ///< Nothing is written before.
  Stats totals_;
  bool stopping_ = false;
  Clock::time_point stop_by_{};
  std::thread thread_;
};

}  // namespace shoal
