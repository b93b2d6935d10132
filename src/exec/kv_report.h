// What a node tells the coordinator of the blocks that it keeps on disk, and of those that it was to restore.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "base/ids.h"
#include "kv/disk_store.h"
#include "wire/frame.h"

namespace shoal {

/// What became of a StoredRun that a step ordered to be restored. What is not among them holds nothing.
struct RestoreOutcome {
  SeqId id;
  int32_t blocks = 0;  ///< Restored, from the first on.
  bool state = false;  ///< So was the state behind all of them.
  int64_t bytes = 0;   ///< Read.
  int64_t ns = 0;      ///< From the order to the end.
  bool operator==(const RestoreOutcome&) const = default;
};

/// A node's disk, as it is or as it has changed.
struct KvReport {
  bool restart = false;               ///< `changes` begin with nothing; else with what was told before.
  bool active = false;                ///< It keeps blocks on disk.
  std::vector<RecordChange> changes;  ///< In order; keys of blocks, and StateKeys.
  std::vector<RestoreOutcome> restored;
  int64_t bytes = 0;    ///< On disk now.
  int64_t dropped = 0;  ///< Records that were not written, since the node's start.
  int64_t errors = 0;   ///< Of the disk, since the node's start.
  bool operator==(const KvReport&) const = default;
};

/// A report holds no more changes than this: the rest follows in others.
inline constexpr size_t kKvChangesMax = 1 << 17;

Frame EncodeKvReport(Epoch epoch, const KvReport& report);
/// InvalidArgument names the field.
absl::StatusOr<KvReport> DecodeKvReport(const Frame& frame);

/// Asks a node for a report with restart.
Frame EncodeKvQuestion(Epoch epoch);
bool IsKvQuestion(const Frame& frame);

}  // namespace shoal
