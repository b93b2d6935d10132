// Which blocks of the KV cache hold which tokens, so that a sequence starts from what another has computed. A
// tree: each node is a block, and the way to it from a root spells all tokens up to its end. Sharing is by
// whole blocks, which nobody writes to any more. Source: Zheng et al. 2023, arXiv:2312.07104 (RadixAttention).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "base/ids.h"
#include "kv/block_image.h"
#include "kv/block_key.h"
#include "kv/block_pool.h"
#include "kv/kv_cache.h"
#include "sched/recency_list.h"

namespace shoal {

/// A place in the tree: a root, or behind a block of it.
using PrefixPlace = Id<struct PrefixPlaceTag, int32_t>;

/// Whether a block, or a slot, is one of those that matter; empty functions: all are.
struct Among {
  std::function<bool(BlockId)> block;
  std::function<bool(SlotId)> slot;
};

/// The index over the blocks of one generation, one owner of each block in it. Another owner is whoever uses
/// the block now; a block of which the index is the only owner is unused, and may be evicted. Whoever uses a
/// block uses all blocks before it. Allocates nothing after it was made. Not thread-safe.
class PrefixCache {
 public:
  /// caches: CachesKey. The pools must outlive it.
  PrefixCache(const BlockKey& caches, BlockPool& blocks, SlotPool& slots);

  /// Where sequences begin; long_rope: as SeqSlice::long_rope.
  PrefixPlace root(bool long_rope) const { return {roots_begin() + (long_rope ? 1 : 0)}; }
  bool is_root(PrefixPlace place) const { return place.value >= roots_begin(); }
  /// The place behind `tokens`, which fill one block, if they are cached behind `at`.
  std::optional<PrefixPlace> next(PrefixPlace at, std::span<const int32_t> tokens);
  /// Whether a block is cached; its place is its id.
  bool has(PrefixPlace place) const { return !is_root(place) && node(place).parent != kNone; }
  PrefixPlace before(PrefixPlace place) const { return {node(place).parent}; }
  BlockId block(PrefixPlace place) const { return BlockId{place.value}; }
  const BlockKey& key(PrefixPlace place) const { return node(place).key; }

  /// Enters a block that holds `tokens` behind `at`. It must have an owner, and so must all blocks before it.
  /// nullopt, and nothing happens, where other tokens have the same key. CHECKs that next() finds nothing.
  std::optional<PrefixPlace> add(PrefixPlace at, std::span<const int32_t> tokens, BlockId block);

  /// Takes over what `old` has in blocks and slots that the pools have, too, and that are `among` those that stay, in
  /// its order of use, with those before them. Nobody uses a block of the old one; this one is empty, of the same
  /// caches, and its pools have no owners.
  void take_over(const PrefixCache& old, const Among& among = {});

  /// An owner more for the block.
  void take(PrefixPlace place);
  /// An owner less for each of `blocks`, which need not be cached; those that are lie on the way to `deepest`.
  void give_back(const std::vector<BlockId>& blocks, PrefixPlace deepest);

  /// Blocks cached, in use or not.
  int32_t size() const { return size_; }
  /// Those that evict() may take.
  int32_t unused() const { return unused_.size(); }
  bool is_unused(PrefixPlace place) const { return !is_root(place) && unused_.contains(place.value); }
  /// Whether one owner alone uses the block of the place, and at most `behind` others follow it directly.
  bool has_one_user(PrefixPlace place, int behind) const {
    return !is_root(place) && node(place).children <= behind && blocks_.references(block(place)) == 2;
  }
  /// Forgets such a place, with nothing behind it: its block is its user's alone. Returns the place before it.
  PrefixPlace forget(PrefixPlace place);
  /// Frees `count` unused blocks, with their states: the longest unused first, and of a branch its end first.
  /// CHECKs that there are as many.
  void evict(int32_t count);

  /// The slot of the state behind a place; kNoState where there is none.
  SlotId state(PrefixPlace place) const { return is_root(place) ? kNoState : node(place).state; }
  /// Takes over the caller's ownership of `slot`, the state behind `place`, which has none yet.
  void keep_state(PrefixPlace place, SlotId slot);
  /// The state behind `place` was used now.
  void touch_state(PrefixPlace place);
  /// The state behind `place`, if there is one, is the first to be evicted.
  void demote_state(PrefixPlace place);
  int32_t states() const { return states_.size(); }
  /// Frees the slot that was not used for the longest time, of those that nobody else owns and that are not
  /// behind `spared`. False where there is none.
  bool evict_state(PrefixPlace spared);
  int32_t evictable_states(PrefixPlace spared) const;

  /// Blocks without one behind them that nobody uses, the last used first.
  std::vector<PrefixPlace> unused_ends() const;
  /// All blocks without one behind them: those in use, then the others.
  std::vector<PrefixPlace> ends() const;
  /// Blocks on the ways to `ends` and their states, each once, at most `most` in all: none without those before it.
  std::vector<CachedPlace> describe(std::span<const PrefixPlace> ends, size_t most) const;

  int64_t evictions() const { return evictions_; }  ///< Of blocks.
  /// Bytes of the index.
  int64_t bytes() const;

  /// Adds the index's own share to the owners of each block and slot.
  void count_owned(std::vector<int>& blocks, std::vector<int>& slots) const;
  /// Checks the tree, and that a block is unused exactly if the index is its only owner.
  absl::Status verify() const;

 private:
  static constexpr int32_t kNone = -1;
  /// What a lookup compares lies apart from the rest: where it goes next is in few cache lines, and the tokens
  /// of a block in two, so that the processor fetches those of many blocks at a time.
  struct alignas(64) BlockTokens {
    std::array<int32_t, kBlockPositions> ids;
  };
  struct Node {
    BlockKey key;
    int32_t parent = kNone;  // kNone: not in the tree.
    int32_t children = 0;
    int32_t next_in_bucket = kNone;
    SlotId state = kNoState;
  };

  int32_t roots_begin() const { return static_cast<int32_t>(nodes_.size()) - 2; }
  std::span<const int32_t> tokens(int32_t block) const { return tokens_[static_cast<size_t>(block)].ids; }
  int32_t& favourite(PrefixPlace place) { return favourites_[static_cast<size_t>(place.value)]; }
  Node& node(PrefixPlace place) { return nodes_[static_cast<size_t>(place.value)]; }
  const Node& node(PrefixPlace place) const { return nodes_[static_cast<size_t>(place.value)]; }
  int32_t& bucket(const BlockKey& key) { return buckets_[key.low & (buckets_.size() - 1)]; }
  int32_t find(const BlockKey& key) const;
  void remove(PrefixPlace place);
  void link(PrefixPlace place);
  absl::Status verify_node(PrefixPlace place) const;

  BlockPool& blocks_;
  SlotPool& slots_;
  std::vector<Node> nodes_;          // By block id; the two roots at the end.
  std::vector<int32_t> favourites_;  // Of each node, the child that was looked up last.
  std::vector<BlockTokens> tokens_;  // By block id.
  std::vector<int32_t> buckets_;
  int32_t size_ = 0;
  RecencyList unused_;  // Children before their parents, always: so the oldest has none.
  RecencyList states_;  // The nodes that have one.
  int64_t evictions_ = 0;
};

}  // namespace shoal
