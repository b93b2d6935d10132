// Who has which blocks and slots of the caches, and what of them others may use. It decides where a sequence
// starts, what it leaves behind, and what is evicted; when, and who goes first, is the batch planner's.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "base/ids.h"
#include "exec/engine.h"
#include "kv/block_pool.h"
#include "sched/disk_index.h"
#include "sched/entry_numbers.h"
#include "sched/prefix_cache.h"
#include "sched/sequence.h"

namespace shoal {

/// Since the start, over all generations.
struct PrefixCacheStats {
  int64_t hits = 0;           ///< Sequences that started from cached tokens, and
  int64_t misses = 0;         ///< from none; preempted and restarted ones count each time.
  int64_t tokens_reused = 0;  ///< Tokens that were not computed again.
  int64_t evictions = 0;      ///< Blocks.
  int64_t waits = 0;          ///< For a prefix that another sequence was computing.
  int64_t kept = 0;           ///< Blocks that were there again after the cluster was rebuilt.
};

/// Of one generation after the other. Belongs to the scheduler's thread.
class CacheLedger {
 public:
  /// share: whether sequences start from what others have computed.
  explicit CacheLedger(bool share) : share_(share) { reset({}); }
  CacheLedger(const CacheLedger&) = delete;
  CacheLedger& operator=(const CacheLedger&) = delete;

  /// All caches are empty. No sequence may have room in them.
  void reset(const EngineLimits& limits);
  /// The generation has ended, with its steps and restores; take_back() all that sequences have first. What is cached
  /// stays known, for whether the caches are still there is not.
  void lose();
  /// What of the caches is worth keeping where layers move (Engine::want_caches), and how long computing it takes.
  struct Wanted {
    std::vector<CachedPlace> places;
    Duration worth{};
  };
  /// After lose(): what is cached of these sequences, or all where there are none. Remembered for renew().
  Wanted want(std::span<const Sequence* const> sequences);
  /// As reset(), after lose(); but the caches hold what they held, as far as `kept` says, without what is `missing`
  /// (Engine::State::missing).
  void renew(const EngineLimits& limits, KeptCaches kept, std::span<const uint64_t> missing = {});

  enum class Admission : uint8_t {
    kGiven,
    kNoRoom,
    kLater,  ///< Another sequence is computing more of its prefix than is cached: it is worth the wait.
  };
  /// Gives a waiting sequence room for its tokens, and sets its cursor behind those that are cached: at least
  /// one is left to compute. `air`: blocks to be left over.
  Admission admit(Sequence& sequence, int64_t air);

  /// Blocks that give() has: free, or cached and unused.
  int64_t available() const { return pool_.free_count() + cached(); }
  /// More blocks for a sequence, evicting if it must. CHECKs that they are available.
  void give(Sequence& sequence, int64_t blocks);

  /// Gives blocks of a running sequence back that lie behind the windows of all layers. They leave the prefix cache for
  /// it, where nobody else uses them: so this is for when room runs out. False: there is none, or a step in flight
  /// names the sequence.
  bool shed(Sequence& sequence);
  /// Whether it has such blocks, once no step in flight names it.
  bool can_shed(const Sequence& sequence) const;

  /// The slice of the sequence's next `rows` tokens.
  SeqSlice next_slice(Sequence& sequence, int64_t rows, bool sample);
  /// That of all its tokens that are in no step yet, and of a draft.
  SeqSlice drafted_slice(Sequence& sequence, std::span<const int32_t> draft);
  /// That slice came back, and no other is in flight: what the sequence has of it ends at `end`. Returns up to where the
  /// caches have it: there, or where the last state is before it.
  int64_t go_back(Sequence& sequence, int64_t end);

  /// A step of the sequence came back: its positions before `end` are in the caches. Full blocks are others'
  /// to use from now on.
  void wrote(Sequence& sequence, int64_t end);

  /// What the disks have, and what they are to save and to restore.
  DiskIndex& disk() { return disk_; }
  const DiskIndex& disk() const { return disk_; }
  /// Puts the orders to disks and to stages with buddies into a step: the next one, always, as the blocks may be written
  /// again from then on. Copies may be too many for one.
  void put_orders(Step& step);
  /// All that is cached is to be copied by stages with buddies, whatever was ordered before.
  void copy_all();
  /// The restore of a sequence ended; no step in flight names it. It starts behind what was restored.
  void restored(Sequence& sequence, const RestoreOutcome& outcome);

  /// The sequence gets no further slices: nobody is to wait for blocks of it that no step in flight writes.
  void withdraw(Sequence& sequence) { withdraw(sequence, sequence.cursor.position()); }
  /// Takes all that it has, if anything. No step in flight may name it. Its full blocks stay cached.
  void take_back(Sequence& sequence);

  const BlockPool& pool() const { return pool_; }
  /// Blocks that are cached and in nobody's use: the pool counts them as used.
  int32_t cached() const { return prefixes_->unused(); }
  PrefixCacheStats stats() const;

  /// I7, and that owners are those of `sequences`, which are all that have room.
  absl::Status verify(std::span<const Sequence* const> sequences) const;

 private:
  /// What is cached of a sequence.
  struct Match {
    std::vector<PrefixPlace> path;  // All full blocks that are cached.
    int64_t usable = 0;             // How many of them it can start behind.
    PrefixPlace start;              // Behind them.
  };

  bool keeps_states() const { return limits_.state_slots > 0; }
  Match match(const Sequence& sequence);
  bool better_later(Sequence& sequence, const Match& match);
  std::optional<int64_t> snapshot_of(Sequence& leader, int64_t after, int64_t until) const;
  bool make_slots_free(int count, PrefixPlace spared);
  std::optional<SlotId> spare_slot();
  void begin(Sequence& sequence, const Match& match);
  int64_t shared_with_others(const Sequence& sequence) const;
  bool give_back_behind(Sequence& sequence);
  void count_start(const Sequence& sequence);
  void keep_last(Sequence& sequence);
  int64_t restorable_until(const Sequence& sequence, const Match& match);
  void begin_restore(Sequence& sequence, int64_t until);
  StoredRun run_of(const Sequence& sequence, int64_t first_block, int64_t end_block) const;
  void save(const Sequence& sequence, std::span<const BlockKey> fresh, std::span<const StateWrite> states);
  void promise(Sequence& sequence);
  void plan_snapshots(Sequence& sequence, int64_t matched_blocks);
  void fulfil(Sequence& sequence, int64_t block);
  void withdraw(Sequence& sequence, int64_t position);
  std::vector<BlockKey> share_blocks(Sequence& sequence);
  void number(PrefixPlace place, const CachePlace& cached, int64_t position);
  void order_copies(Step& step);
  std::vector<StateWrite> keep_snapshots(Sequence& sequence);

  const bool share_;
  EngineLimits limits_;
  BlockPool pool_{0};
  SlotPool slots_{0};  // For states of sequences.
  std::optional<PrefixCache> prefixes_;
  std::unordered_map<BlockKey, Sequence*> promised_;  // Who is going to write the block.
  DiskIndex disk_;
  std::vector<StoredRun> saves_;     // For the next step.
  std::vector<StoredRun> restores_;  // For the next step.
  std::vector<CachedPlace> wanted_;  // Of the generation that has ended.
  struct Copy {
    CachedPlace cached;
    PrefixPlace place;
  };
  std::deque<Copy> copies_;  // To be ordered, of what is still cached then.
  EntryNumbers entries_;
  PrefixCacheStats totals_;
};

}  // namespace shoal
