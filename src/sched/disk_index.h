// What the coordinator knows of the disks of all stages: which blocks are on every one of them, which restores are
// out, and whether a restore is faster than computing. What it knows may be late: stages answer each restore with
// what they found.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/ids.h"
#include "exec/kv_report.h"
#include "exec/step.h"
#include "kv/block_key.h"

namespace shoal {

/// Of the disk tier. Counts are since the start, over all generations.
struct DiskTierStats {
  bool active = false;          ///< All stages keep blocks on disk.
  int64_t blocks = 0;           ///< Blocks, and states, that all stages have on disk now.
  int64_t bytes = 0;            ///< On all disks together, of all models.
  int64_t hits = 0;             ///< Sequences that started from restored blocks.
  int64_t tokens_restored = 0;  ///< Tokens that were not computed again thanks to that.
  int64_t failures = 0;         ///< Restores that gave less than was ordered.
  int64_t passed_over = 0;      ///< Times that computing was expected to be faster.
  int64_t dropped = 0;  ///< Blocks that were not written: a disk was too slow, or full. Of all stages.
  int64_t errors = 0;   ///< Of disks, and damaged files. Of all stages.
};

/// Of one generation after the other. Belongs to the scheduler's thread.
class DiskIndex {
 public:
  /// Nothing is known, and no restore is out. stages: how many must have a block.
  void reset(int stages);

  /// Whether blocks are worth saving: every stage keeps some on disk.
  bool active() const { return active_; }
  /// Whether all stages have the record of this key, a BlockKey or StateKey, on disk.
  bool on_all(const BlockKey& key) const;

  /// Whether a block is read faster than it is computed, as far as either was measured: else by the first try. After
  /// each no the disk is believed to be a tenth faster, so that it is tried again some time.
  bool pays();
  /// A step that computed `rows` of prompts.
  void observe_prefill(int64_t rows, std::span<const StageTiming> timings);

  /// Of a prompt, on the slowest stage, as measured lately; 0: not yet.
  double prefill_ns_per_row() const { return prefill_ns_per_row_; }

  /// A restore was ordered. CHECKs that none is out for the sequence.
  void expect(SeqId id);
  /// Restores of which not all stages have told the end.
  int outstanding() const { return static_cast<int>(outstanding_.size()); }
  /// Takes in what a stage says. Returns the restores of which all stages have told the end now: what all of them have
  /// restored. What nobody asked for is ignored.
  std::vector<RestoreOutcome> report(NodeId node, const KvReport& report);

  /// What became of a restore of `wanted` blocks: `tokens` of them are used.
  void count_restore(bool whole, int64_t tokens);
  DiskTierStats stats() const;

 private:
  struct Stage {
    NodeId node;
    bool active = false;
    int64_t bytes = 0;
    int64_t dropped = 0;
    int64_t errors = 0;
  };
  struct Outstanding {
    uint64_t told = 0;  // A bit for each stage.
    RestoreOutcome outcome;
  };

  /// A bit for the stage: in the order in which they first told something. 0: it is one too many.
  uint64_t bit_of(NodeId node);
  uint64_t all() const { return stages_max_ >= 64 ? ~uint64_t{0} : (uint64_t{1} << stages_max_) - 1; }
  void change(uint64_t bit, const RecordChange& change);
  void forget(uint64_t bit);
  void observe_restore(const RestoreOutcome& outcome);

  int stages_max_ = 0;
  bool active_ = false;
  std::vector<Stage> stages_;
  std::unordered_map<BlockKey, uint64_t> places_;  // A bit for each stage that has it.
  int64_t on_all_ = 0;
  std::unordered_map<SeqId, Outstanding> outstanding_;
  double prefill_ns_per_row_ = 0;    // 0: not measured.
  double restore_ns_per_block_ = 0;  // 0: not measured.
  DiskTierStats totals_;
};

}  // namespace shoal
