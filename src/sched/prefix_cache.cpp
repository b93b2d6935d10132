#include "sched/prefix_cache.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/status.h"

namespace shoal {
namespace {

size_t BucketsFor(int blocks) { return std::bit_ceil(static_cast<size_t>(std::max(blocks, 1))); }

bool Equal(std::span<const int32_t> a, std::span<const int32_t> b) {
  return std::memcmp(a.data(), b.data(), kBlockPositions * sizeof(int32_t)) == 0;
}

}  // namespace

PrefixCache::PrefixCache(const BlockKey& caches, BlockPool& blocks, SlotPool& slots)
    : blocks_(blocks),
      slots_(slots),
      nodes_(static_cast<size_t>(blocks.total()) + 2),
      favourites_(nodes_.size(), kNone),
      tokens_(static_cast<size_t>(blocks.total())),
      buckets_(BucketsFor(blocks.total()), kNone),
      unused_(blocks.total()),
      states_(blocks.total()) {
  for (const bool long_rope : {false, true}) node(root(long_rope)).key = RootKey(caches, long_rope);
}

int32_t PrefixCache::find(const BlockKey& key) const {
  int32_t at = buckets_[key.low & (buckets_.size() - 1)];
  while (at != kNone && nodes_[static_cast<size_t>(at)].key != key) {
    at = nodes_[static_cast<size_t>(at)].next_in_bucket;
  }
  return at;
}

std::optional<PrefixPlace> PrefixCache::next(PrefixPlace at, std::span<const int32_t> tokens) {
  SHOAL_CHECK_EQ(std::ssize(tokens), kBlockPositions);
  const int32_t usual = favourite(at);
  if (usual != kNone && Equal(this->tokens(usual), tokens)) return PrefixPlace{usual};
  if (node(at).children == 0) return std::nullopt;
  const int32_t found = find(KeyAfter(node(at).key, tokens));
  if (found == kNone) return std::nullopt;
  // Other tokens may have the same key by chance.
  if (node({found}).parent != at.value || !Equal(this->tokens(found), tokens)) return std::nullopt;
  favourite(at) = found;
  return PrefixPlace{found};
}

std::optional<PrefixPlace> PrefixCache::add(PrefixPlace at, std::span<const int32_t> tokens, BlockId block) {
  SHOAL_CHECK(!next(at, tokens).has_value());
  const PrefixPlace place{block.value};
  Node& added = node(place);
  SHOAL_CHECK(added.parent == kNone && !is_unused(at));
  const BlockKey key = KeyAfter(node(at).key, tokens);
  if (find(key) != kNone) return std::nullopt;
  blocks_.share(block);
  added.key = key;
  std::ranges::copy(tokens, tokens_[static_cast<size_t>(block.value)].ids.begin());
  added.parent = at.value;
  link(place);
  favourite(at) = place.value;
  return place;
}

// Its key and parent are there.
void PrefixCache::link(PrefixPlace place) {
  Node& added = node(place);
  added.next_in_bucket = std::exchange(bucket(added.key), place.value);
  ++node({added.parent}).children;
  ++size_;
}

void PrefixCache::take_over(const PrefixCache& old, const Among& among) {
  SHOAL_CHECK(size_ == 0 && old.unused() == old.size() &&
              node(root(false)).key == old.node(old.root(false)).key);
  std::vector<BlockId> blocks;
  // From the newest on a block comes before those behind it.
  for (int32_t at = old.unused_.newest(); at != kNone; at = old.unused_.older(at)) {
    if (at >= roots_begin() || (among.block && !among.block(BlockId{at}))) continue;
    const Node& from = old.node({at});
    const PrefixPlace parent =
        !old.is_root({from.parent}) ? PrefixPlace{from.parent} : root(from.parent == old.root(true).value);
    if (!is_root(parent) && (parent.value >= roots_begin() || node(parent).parent == kNone)) continue;
    node({at}) = {.key = from.key, .parent = parent.value};
    tokens_[static_cast<size_t>(at)] = old.tokens_[static_cast<size_t>(at)];
    link({at});
    unused_.add_oldest(at);
    blocks.push_back(BlockId{at});
  }
  blocks_.claim(blocks);
  std::vector<SlotId> slots;
  for (int32_t at = old.states_.newest(); at != kNone; at = old.states_.older(at)) {
    const SlotId slot = old.node({at}).state;
    if (at >= roots_begin() || node({at}).parent == kNone || slot.value >= slots_.total()) continue;
    if (among.slot && !among.slot(slot)) continue;
    node({at}).state = slot;
    states_.add_oldest(at);
    slots.push_back(slot);
  }
  slots_.claim(slots);
}

std::vector<PrefixPlace> PrefixCache::unused_ends() const {
  std::vector<PrefixPlace> ends;
  for (int32_t at = unused_.newest(); at != kNone; at = unused_.older(at)) {
    if (node({at}).children == 0) ends.push_back({at});
  }
  return ends;
}

std::vector<PrefixPlace> PrefixCache::ends() const {
  std::vector<PrefixPlace> ends;
  for (int32_t at = 0; at < roots_begin(); ++at) {
    if (has({at}) && node({at}).children == 0 && !unused_.contains(at)) ends.push_back({at});
  }
  const std::vector<PrefixPlace> unused = unused_ends();
  ends.insert(ends.end(), unused.begin(), unused.end());
  return ends;
}

std::vector<CachedPlace> PrefixCache::describe(std::span<const PrefixPlace> ends, size_t most) const {
  std::vector<CachedPlace> all;
  std::vector<bool> known(nodes_.size());
  for (const PrefixPlace end : ends) {
    std::vector<PrefixPlace> way;
    for (PrefixPlace at = end; !is_root(at); at = before(at)) way.push_back(at);
    for (size_t depth = 1; depth <= way.size(); ++depth) {
      const PrefixPlace at = way[way.size() - depth];
      if (known[static_cast<size_t>(at.value)]) continue;
      if (all.size() + 2 > most) return all;
      known[static_cast<size_t>(at.value)] = true;
      const auto position = static_cast<int32_t>(static_cast<int64_t>(depth) * kBlockPositions);
      all.push_back({block(at), key(at), position});
      if (state(at) != kNoState) all.push_back({state(at), key(at), position});
    }
  }
  return all;
}

void PrefixCache::take(PrefixPlace place) {
  if (is_unused(place)) unused_.remove(place.value);
  blocks_.share(block(place));
}

void PrefixCache::give_back(const std::vector<BlockId>& blocks, PrefixPlace deepest) {
  blocks_.release(blocks);
  for (PrefixPlace place = deepest; !is_root(place); place = before(place)) {
    if (blocks_.references(block(place)) > 1) break;  // Whoever uses it uses those before it, too.
    unused_.add_newest(place.value);
  }
}

void PrefixCache::evict(int32_t count) {
  std::vector<BlockId> freed;
  for (int32_t i = 0; i < count; ++i) {
    const PrefixPlace place{unused_.oldest()};
    SHOAL_CHECK(place.value != kNone);
    remove(place);
    freed.push_back(block(place));
  }
  evictions_ += count;
  blocks_.release(freed);
}

PrefixPlace PrefixCache::forget(PrefixPlace place) {
  SHOAL_CHECK(has_one_user(place, 0));
  const PrefixPlace previous = before(place);
  remove(place);
  blocks_.release({block(place)});
  return previous;
}

void PrefixCache::remove(PrefixPlace place) {
  Node& gone = node(place);
  SHOAL_CHECK_EQ(gone.children, 0);  // By the order of unused_.
  if (is_unused(place)) unused_.remove(place.value);
  if (gone.state != kNoState) {
    states_.remove(place.value);
    slots_.release({gone.state});
  }
  --node({gone.parent}).children;
  if (favourite({gone.parent}) == place.value) favourite({gone.parent}) = kNone;
  int32_t* link = &bucket(gone.key);
  while (*link != place.value) link = &node({*link}).next_in_bucket;
  *link = gone.next_in_bucket;
  gone = {};
  --size_;
}

void PrefixCache::keep_state(PrefixPlace place, SlotId slot) {
  SHOAL_CHECK(!is_root(place) && state(place) == kNoState && slots_.references(slot) > 0);
  node(place).state = slot;
  states_.add_newest(place.value);
}

void PrefixCache::touch_state(PrefixPlace place) {
  states_.remove(place.value);
  states_.add_newest(place.value);
}

void PrefixCache::demote_state(PrefixPlace place) {
  if (state(place) == kNoState) return;
  states_.remove(place.value);
  states_.add_oldest(place.value);
}

bool PrefixCache::evict_state(PrefixPlace spared) {
  for (int32_t at = states_.oldest(); at != kNone; at = states_.newer(at)) {
    Node& holder = node({at});
    if (at == spared.value || slots_.references(holder.state) > 1) continue;
    slots_.release({std::exchange(holder.state, kNoState)});
    states_.remove(at);
    return true;
  }
  return false;
}

int32_t PrefixCache::evictable_states(PrefixPlace spared) const {
  int32_t count = 0;
  for (int32_t at = states_.oldest(); at != kNone; at = states_.newer(at)) {
    count += at != spared.value && slots_.references(node({at}).state) == 1 ? 1 : 0;
  }
  return count;
}

int64_t PrefixCache::bytes() const {
  constexpr int64_t kLinks = 5 * sizeof(int32_t);  // Of both lists, and the favourite.
  return std::ssize(nodes_) * (int64_t{sizeof(Node)} + kLinks) +
         std::ssize(tokens_) * int64_t{sizeof(BlockTokens)} + std::ssize(buckets_) * int64_t{sizeof(int32_t)};
}

void PrefixCache::count_owned(std::vector<int>& blocks, std::vector<int>& slots) const {
  for (int32_t at = 0; at < roots_begin(); ++at) {
    const Node& one = node({at});
    if (one.parent == kNone) continue;
    ++blocks[static_cast<size_t>(at)];
    if (one.state != kNoState) ++slots[static_cast<size_t>(one.state.value)];
  }
}

absl::Status PrefixCache::verify_node(PrefixPlace place) const {
  const Node& one = node(place);
  const int owners = blocks_.references(block(place));
  if (owners < 1) return Internal("prefix cache: block {} is cached and free", block(place));
  if (is_unused(place) != (owners == 1)) {
    return Internal("prefix cache: block {} has {} owners, and is {}", block(place), owners,
                    is_unused(place) ? "unused" : "not unused");
  }
  if (!is_unused(place) && is_unused({one.parent})) {
    return Internal("prefix cache: block {} is used, and block {} before it is not", block(place),
                    one.parent);
  }
  if (find(one.key) != place.value) return Internal("prefix cache: block {} is not found", block(place));
  if (one.state != kNoState && slots_.references(one.state) < 1) {
    return Internal("prefix cache: state slot {} is kept and free", one.state);
  }
  return absl::OkStatus();
}

absl::Status PrefixCache::verify() const {
  std::vector<int32_t> children(nodes_.size());
  std::vector<bool> seen(nodes_.size());
  int32_t count = 0;
  int32_t states = 0;
  for (int32_t at = 0; at < roots_begin(); ++at) {
    const Node& one = node({at});
    if (one.parent == kNone) continue;
    RETURN_IF_ERROR(verify_node({at}));
    ++count;
    ++children[static_cast<size_t>(one.parent)];
    states += one.state != kNoState ? 1 : 0;
  }
  for (size_t at = 0; at < nodes_.size(); ++at) {
    if (children[at] == nodes_[at].children) continue;
    return Internal("prefix cache: place {} counts {} children, and has {}", at, nodes_[at].children,
                    children[at]);
  }
  for (int32_t at = unused_.oldest(); at != kNone; at = unused_.newer(at)) {
    if (seen[static_cast<size_t>(node({at}).parent)]) {
      return Internal("prefix cache: block {} would be evicted after the one before it", at);
    }
    seen[static_cast<size_t>(at)] = true;
  }
  if (count != size_ || states != states_.size()) {
    return Internal("prefix cache: {} blocks and {} states, counted as {} and {}", count, states, size_,
                    states_.size());
  }
  return absl::OkStatus();
}

}  // namespace shoal
