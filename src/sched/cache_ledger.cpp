#include "sched/cache_ledger.h"

#include <algorithm>
#include <unordered_set>
#include <utility>
#include <variant>

#include "base/check.h"
#include "base/status.h"

namespace shoal {
namespace {

/// A sequence waits so often, then it computes what others may be computing. Each wait ends with the block, or
/// with the sequence that was going to write it.
constexpr int kWaitsMax = 16;
/// Blocks before a prompt's last full one whose state is kept as well: chat templates end a prompt with an
/// opening of the answer that the next turn's prompt need not repeat.
constexpr int64_t kOpeningBlocks = 2;
/// Of all that goes. The time of a prompt's row may not have been measured yet; and the least is for a busy machine.
constexpr Duration kWorthUnmeasured = std::chrono::seconds(5);
constexpr Duration kWorthMin = std::chrono::seconds(2);
constexpr Duration kWorthMax = std::chrono::seconds(30);

std::span<const int32_t> TokensOf(const Sequence& sequence, int64_t block) {
  return std::span(sequence.tokens)
      .subspan(static_cast<size_t>(block * kBlockPositions), static_cast<size_t>(kBlockPositions));
}

/// Blocks that a sequence can start behind: its last token is to be computed.
int64_t StartBlocksMax(const Sequence& sequence) { return sequence.cacheable() / kBlockPositions; }

void AddPosition(std::vector<int64_t>& positions, int64_t position) {
  const auto at = std::ranges::lower_bound(positions, position);
  if (at == positions.end() || *at != position) positions.insert(at, position);
}

}  // namespace

void CacheLedger::reset(const EngineLimits& limits) {
  if (prefixes_.has_value()) totals_.evictions += prefixes_->evictions();
  limits_ = limits;
  pool_ = BlockPool(limits.blocks);
  slots_ = SlotPool(limits.state_slots);
  prefixes_.emplace(limits.caches, pool_, slots_);
  entries_.resize(limits.blocks, limits.state_slots);
  lose();
}

void CacheLedger::lose() {
  promised_.clear();
  disk_.reset(limits_.steps_in_flight);
  saves_.clear();
  restores_.clear();
  copies_.clear();
}

CacheLedger::Wanted CacheLedger::want(std::span<const Sequence* const> sequences) {
  std::vector<PrefixPlace> ends;
  for (const Sequence* sequence : sequences) {
    const Match match = this->match(*sequence);
    if (!match.path.empty()) ends.push_back(match.path.back());
  }
  if (sequences.empty()) ends = prefixes_->unused_ends();
  wanted_ = prefixes_->describe(ends, kCachedPlacesMax);
  for (CachedPlace& one : wanted_) one.entry = entries_.of(one.place);
  const auto blocks = std::ranges::count_if(
      wanted_, [](const CachedPlace& one) { return std::holds_alternative<BlockId>(one.place); });
  const double ns = static_cast<double>(blocks * kBlockPositions) * disk_.prefill_ns_per_row();
  const double least = static_cast<double>(kWorthMin.count());
  const double most = static_cast<double>(kWorthMax.count());
  return {wanted_, ns > 0 ? Duration(static_cast<int64_t>(std::clamp(ns, least, most))) : kWorthUnmeasured};
}

void CacheLedger::renew(const EngineLimits& limits, KeptCaches kept, std::span<const uint64_t> missing) {
  if (kept == KeptCaches::kNone || limits.caches != limits_.caches) return reset(limits);
  Among among;
  if (kept == KeptCaches::kWanted) {
    std::unordered_set<BlockId> blocks;
    std::unordered_set<SlotId> slots;
    for (const CachedPlace& one : wanted_) {
      if (std::ranges::binary_search(missing, one.entry)) continue;
      if (const SlotId* slot = std::get_if<SlotId>(&one.place)) {
        slots.insert(*slot);
      } else {
        blocks.insert(std::get<BlockId>(one.place));
      }
    }
    among = {.block = [blocks = std::move(blocks)](BlockId id) { return blocks.contains(id); },
             .slot = [slots = std::move(slots)](SlotId id) { return slots.contains(id); }};
  }
  const PrefixCache old = *std::move(prefixes_);  // It knows pools, but asks them nothing any more.
  reset(limits);
  prefixes_->take_over(old, among);
  totals_.kept += prefixes_->size();
  copy_all();
}

CacheLedger::Match CacheLedger::match(const Sequence& sequence) {
  Match match;
  PrefixPlace at = prefixes_->root(limits_.long_rope(std::ssize(sequence.tokens)));
  match.start = at;
  // Where one ring takes all slots, there is none left for a state that an earlier generation kept.
  const bool reads_states = keeps_states() && slots_.total() > limits_.state_slots_each();
  for (int64_t block = 0; share_ && block < StartBlocksMax(sequence); ++block) {
    const std::optional<PrefixPlace> next = prefixes_->next(at, TokensOf(sequence, block));
    if (!next.has_value()) break;
    at = *next;
    match.path.push_back(at);
    if (keeps_states() && (!reads_states || prefixes_->state(at) == kNoState)) continue;
    match.usable = std::ssize(match.path);
    match.start = at;
  }
  return match;
}

// Whether to wait for what another is going to write. Marks what for.
bool CacheLedger::better_later(Sequence& sequence, const Match& match) {
  if (promised_.empty() || sequence.awaited.waits >= kWaitsMax) return false;
  const int64_t cached = std::ssize(match.path);
  BlockKey key = prefixes_->key(cached > 0 ? match.path.back() : match.start);
  std::vector<BlockKey> keys;  // Of the blocks behind those that are cached.
  Sequence* leader = nullptr;
  for (int64_t block = cached; block < StartBlocksMax(sequence); ++block) {
    key = KeyAfter(key, TokensOf(sequence, block));
    const auto promise = promised_.find(key);
    if (promise == promised_.end() || (leader != nullptr && promise->second != leader)) break;
    leader = promise->second;
    keys.push_back(key);
  }
  if (leader == nullptr) return false;
  int64_t until = cached + std::ssize(keys);
  if (keeps_states()) {
    const auto position = snapshot_of(*leader, match.usable * kBlockPositions, until * kBlockPositions);
    if (!position.has_value()) return false;
    until = *position / kBlockPositions;
    if (until <= cached) return false;
  }
  sequence.awaited.key = keys[static_cast<size_t>(until - cached - 1)];
  ++sequence.awaited.waits;
  ++totals_.waits;
  return true;
}

// The last position in (after, until] behind which the leader's state is going to be kept: at `until` where it
// is not too late to ask for it.
std::optional<int64_t> CacheLedger::snapshot_of(Sequence& leader, int64_t after, int64_t until) const {
  CacheStanding& standing = leader.standing;
  if (leader.cursor.position() < until) {
    AddPosition(standing.snapshots_due, until);
    return until;
  }
  std::optional<int64_t> last;
  for (const StateWrite& snapshot : standing.snapshots) {
    if (snapshot.position > after && snapshot.position <= until) {
      last = std::max<int64_t>(last.value_or(0), snapshot.position);
    }
  }
  return last;
}

bool CacheLedger::make_slots_free(int count, PrefixPlace spared) {
  if (slots_.free_count() + prefixes_->evictable_states(spared) < count) return false;
  while (slots_.free_count() < count) prefixes_->evict_state(spared);
  return true;
}

// For a snapshot: one that nobody needs.
std::optional<SlotId> CacheLedger::spare_slot() {
  if (slots_.free_count() == 0 && !prefixes_->evict_state(prefixes_->root(false))) return std::nullopt;
  return (*slots_.allocate(1))[0];
}

CacheLedger::Admission CacheLedger::admit(Sequence& sequence, int64_t air) {
  AwaitedPrefix& awaited = sequence.awaited;
  if (awaited.key.has_value() && promised_.contains(*awaited.key)) return Admission::kLater;
  awaited.key.reset();
  const Match match = this->match(sequence);
  if (share_ && better_later(sequence, match)) return Admission::kLater;
  const auto taken = std::span(match.path).first(static_cast<size_t>(match.usable));
  const int64_t need = BlocksFor(std::ssize(sequence.tokens)) - match.usable;
  const int64_t unused =
      std::ranges::count_if(taken, [&](PrefixPlace place) { return prefixes_->is_unused(place); });
  if (available() - unused < need + air) return Admission::kNoRoom;
  if (keeps_states() && !make_slots_free(limits_.state_slots_each(), match.start)) return Admission::kNoRoom;
  begin(sequence, match);
  return Admission::kGiven;
}

void CacheLedger::begin(Sequence& sequence, const Match& match) {
  const bool long_rope = limits_.long_rope(std::ssize(sequence.tokens));
  SequenceRoom room{.long_rope = long_rope};
  for (int64_t i = 0; i < match.usable; ++i) {
    const PrefixPlace place = match.path[static_cast<size_t>(i)];
    prefixes_->take(place);
    room.blocks.push_back(prefixes_->block(place));
  }
  if (keeps_states()) room.slots = *slots_.allocate(limits_.state_slots_each());  // As many are free.
  sequence.cursor = SequenceCursor(sequence.id, std::move(room));
  sequence.awaited = {};
  const int64_t position = match.usable * kBlockPositions;
  sequence.standing = {
      .written = position, .shared = match.start, .shared_blocks = match.usable, .closed = !share_};
  if (position > 0) {
    const SlotId state = prefixes_->state(match.start);
    sequence.cursor.start_at(position, state);
    if (state != kNoState) {
      slots_.share(state);
      prefixes_->touch_state(match.start);
      sequence.standing.read_from.push_back({static_cast<int32_t>(position), state});
    }
  }
  give(sequence, BlocksFor(std::ssize(sequence.tokens)) - match.usable);
  const int64_t until = share_ ? restorable_until(sequence, match) : match.usable;
  if (until > match.usable) {
    begin_restore(sequence, until);
  } else {
    count_start(sequence);
  }
  if (!share_) return;
  promise(sequence);
  if (keeps_states()) plan_snapshots(sequence, std::ssize(match.path));
}

void CacheLedger::count_start(const Sequence& sequence) {
  const int64_t position = sequence.cursor.position();
  ++(position > 0 ? totals_.hits : totals_.misses);
  totals_.tokens_reused += position;
}

void CacheLedger::give(Sequence& sequence, int64_t blocks) {
  const int64_t missing = blocks - pool_.free_count();
  if (missing > 0) prefixes_->evict(static_cast<int32_t>(missing));
  const auto given = pool_.allocate(static_cast<int>(blocks));
  SHOAL_CHECK(given.ok());
  sequence.cursor.add_blocks(*given);
}

void CacheLedger::promise(Sequence& sequence) {
  CacheStanding& standing = sequence.standing;
  standing.promised_from = standing.shared_blocks;
  BlockKey key = prefixes_->key(standing.shared);
  const int64_t full = std::ssize(sequence.tokens) / kBlockPositions;
  for (int64_t block = standing.shared_blocks; block < full; ++block) {
    key = KeyAfter(key, TokensOf(sequence, block));
    standing.promised.push_back(key);
    promised_.try_emplace(key, &sequence);
  }
}

// The states worth keeping: at the end of the prompt, where the next turn goes on; a little before it; and
// where the sequence leaves what others have in common with it, as more of them may come.
void CacheLedger::plan_snapshots(Sequence& sequence, int64_t matched_blocks) {
  const int64_t last = StartBlocksMax(sequence);
  for (const int64_t block : {matched_blocks, last - kOpeningBlocks, last}) {
    const int64_t position = block * kBlockPositions;
    if (position > sequence.cursor.position()) AddPosition(sequence.standing.snapshots_due, position);
  }
}

SeqSlice CacheLedger::next_slice(Sequence& sequence, int64_t rows, bool sample) {
  CacheStanding& standing = sequence.standing;
  const int64_t begin = sequence.cursor.position();
  const int64_t end = begin + rows;
  const bool decodes = begin >= std::ssize(sequence.request.prompt);
  standing.again = 0;
  std::vector<StateWrite> inside;
  bool keep_last = keeps_states() && share_ && decodes && end % kBlockPositions == 0;
  std::vector<int64_t>& due = standing.snapshots_due;
  const auto passed = std::ranges::upper_bound(due, end);
  // Those before were passed by a restore, or by a drafted slice, which kept what it could.
  for (const int64_t position : std::span(std::ranges::upper_bound(due, begin), passed)) {
    if (position == end) {
      keep_last = true;
    } else if (const std::optional<SlotId> slot = spare_slot()) {
      inside.push_back({static_cast<int32_t>(position), *slot});
    }
  }
  due.erase(due.begin(), passed);
  standing.snapshots.insert(standing.snapshots.end(), inside.begin(), inside.end());
  SeqSlice slice = sequence.cursor.next(
      std::span(sequence.tokens).subspan(static_cast<size_t>(begin), static_cast<size_t>(rows)), sample,
      inside);
  if (keep_last) this->keep_last(sequence);
  return slice;
}

// The state at the end of a block goes to a slot of its own, as a snapshot if the drafts before it are right.
SeqSlice CacheLedger::drafted_slice(Sequence& sequence, std::span<const int32_t> draft) {
  const int64_t begin = sequence.cursor.position();
  const std::span<const int32_t> known = std::span(sequence.tokens).subspan(static_cast<size_t>(begin));
  const int64_t block_end = (begin / kBlockPositions + 1) * kBlockPositions;
  std::vector<StateWrite> inside;
  if (keeps_states() && share_ && block_end <= begin + std::ssize(known) + std::ssize(draft)) {
    if (const std::optional<SlotId> slot = spare_slot())
      inside.push_back({static_cast<int32_t>(block_end), *slot});
  }
  CacheStanding& standing = sequence.standing;
  standing.again = 0;
  standing.snapshots.insert(standing.snapshots.end(), inside.begin(), inside.end());
  return sequence.cursor.next_drafted(known, draft, inside);
}

int64_t CacheLedger::go_back(Sequence& sequence, int64_t end) {
  SequenceCursor& cursor = sequence.cursor;
  cursor.go_back_to(end);
  const int64_t position = cursor.position();
  if (!keeps_states()) return position;
  CacheStanding& standing = sequence.standing;
  standing.again = std::max<int64_t>(std::ssize(sequence.tokens) - 1 - position, 0);
  std::vector<SlotId> wrong;
  std::erase_if(standing.snapshots, [&](const StateWrite& snapshot) {
    if (snapshot.position <= position) return false;
    wrong.push_back(snapshot.slot);
    return true;
  });
  slots_.release(wrong);
  const auto read = std::ranges::find(standing.snapshots, cursor.state(), &StateWrite::slot);
  if (read == standing.snapshots.end()) return position;
  slots_.share(read->slot);  // It goes to the prefix cache, and the next slice reads it.
  standing.read_from.push_back(*read);
  return position;
}

// The state behind all that is scheduled becomes a snapshot.
void CacheLedger::keep_last(Sequence& sequence) {
  const std::optional<SlotId> slot = spare_slot();
  if (!slot.has_value()) return;
  const StateWrite kept{static_cast<int32_t>(sequence.cursor.position()), sequence.cursor.keep_state(*slot)};
  slots_.share(kept.slot);  // It goes to the prefix cache, and the next slice reads it.
  sequence.standing.snapshots.push_back(kept);
  sequence.standing.read_from.push_back(kept);
}

void CacheLedger::wrote(Sequence& sequence, int64_t end) {
  CacheStanding& standing = sequence.standing;
  standing.written = end;
  std::vector<SlotId> read;
  std::erase_if(standing.read_from, [&](const StateWrite& from) {
    if (from.position >= end) return false;  // The slice that reads it is yet to come, or to come back.
    read.push_back(from.slot);
    return true;
  });
  slots_.release(read);
  const std::vector<BlockKey> fresh = share_blocks(sequence);
  const std::vector<StateWrite> states = keep_snapshots(sequence);
  if (disk_.active()) save(sequence, fresh, states);
  if (sequence.steps_in_flight > 0) return;
  pool_.release(std::exchange(standing.replaced, {}));
  give_back_behind(sequence);
}

// Blocks that no later row sees, and that are in nobody else's use.
bool CacheLedger::give_back_behind(Sequence& sequence) {
  CacheStanding& standing = sequence.standing;
  const int64_t end = FirstVisible(standing.written, limits_.window) / kBlockPositions;
  std::vector<BlockId> behind;
  for (int64_t i = std::max(standing.given_back, standing.shared_blocks); i < end; ++i) {
    const auto index = static_cast<size_t>(i);
    const BlockId block = sequence.cursor.blocks()[index];
    if (block == kNoBlock) continue;
    behind.push_back(block);
    sequence.cursor.drop_block(index);
  }
  if (standing.closed) standing.given_back = std::max(standing.given_back, end);
  pool_.release(behind);
  return !behind.empty();
}

// How many of its blocks stay shared once those that it uses alone have left the prefix cache.
int64_t CacheLedger::shared_with_others(const Sequence& sequence) const {
  const CacheStanding& standing = sequence.standing;
  int64_t shared = standing.shared_blocks;
  PrefixPlace at = standing.shared;
  while (prefixes_->has_one_user(at, shared == standing.shared_blocks ? 0 : 1)) {
    at = prefixes_->before(at);
    --shared;
  }
  return shared;
}

bool CacheLedger::can_shed(const Sequence& sequence) const {
  const CacheStanding& standing = sequence.standing;
  const int64_t end = FirstVisible(standing.written, limits_.window) / kBlockPositions;
  return end > (standing.closed ? standing.given_back : 0) && end > shared_with_others(sequence);
}

bool CacheLedger::shed(Sequence& sequence) {
  CacheStanding& standing = sequence.standing;
  if (sequence.steps_in_flight > 0 || !can_shed(sequence)) return false;
  const int64_t shared = shared_with_others(sequence);
  while (standing.shared_blocks > shared) {
    standing.shared = prefixes_->forget(standing.shared);
    --standing.shared_blocks;
  }
  standing.closed = true;
  standing.given_back = 0;
  withdraw(sequence, 0);
  return give_back_behind(sequence);
}

// Full blocks go to the prefix cache. Where it has an equal one that is used from now on. Returns the keys of those
// that are shared now and were not before.
std::vector<BlockKey> CacheLedger::share_blocks(Sequence& sequence) {
  CacheStanding& standing = sequence.standing;
  std::vector<BlockKey> fresh;
  while (!standing.closed && (standing.shared_blocks + 1) * kBlockPositions <= standing.written) {
    const int64_t index = standing.shared_blocks;
    const std::span<const int32_t> tokens = TokensOf(sequence, index);
    const BlockId own = sequence.cursor.blocks()[static_cast<size_t>(index)];
    fulfil(sequence, index);
    std::optional<PrefixPlace> place = prefixes_->next(standing.shared, tokens);
    if (place.has_value()) {
      prefixes_->take(*place);
      standing.replaced.push_back(own);
      sequence.cursor.replace_block(static_cast<size_t>(index), prefixes_->block(*place));
    } else {
      place = prefixes_->add(standing.shared, tokens, own);
      if (place.has_value()) number(*place, own, (index + 1) * kBlockPositions);
    }
    standing.closed = !place.has_value();
    if (standing.closed) {
      withdraw(sequence, 0);
      break;
    }
    standing.shared = *place;
    ++standing.shared_blocks;
    fresh.push_back(prefixes_->key(*place));
  }
  return fresh;
}

// Returns those that went to the prefix cache.
std::vector<StateWrite> CacheLedger::keep_snapshots(Sequence& sequence) {
  CacheStanding& standing = sequence.standing;
  std::vector<StateWrite> kept;
  std::erase_if(standing.snapshots, [&](const StateWrite& snapshot) {
    if (snapshot.position > standing.written) return false;
    const int64_t blocks = snapshot.position / kBlockPositions;
    PrefixPlace place = standing.shared;
    for (int64_t at = standing.shared_blocks; at > blocks; --at) place = prefixes_->before(place);
    if (blocks > standing.shared_blocks || prefixes_->state(place) != kNoState) {
      slots_.release({snapshot.slot});
      return true;
    }
    prefixes_->keep_state(place, snapshot.slot);
    number(place, snapshot.slot, snapshot.position);
    kept.push_back(snapshot);
    if (snapshot.position > std::ssize(sequence.request.prompt)) {
      if (standing.last_state.has_value()) prefixes_->demote_state(*standing.last_state);
      standing.last_state = place;
    }
    return true;
  });
  return kept;
}

// The block is written: who waited for it looks again.
void CacheLedger::fulfil(Sequence& sequence, int64_t block) {
  const CacheStanding& standing = sequence.standing;
  const int64_t index = block - standing.promised_from;
  if (index < 0 || index >= std::ssize(standing.promised)) return;
  const auto promise = promised_.find(standing.promised[static_cast<size_t>(index)]);
  if (promise != promised_.end() && promise->second == &sequence) promised_.erase(promise);
}

// Its promises of blocks that end behind `position`.
void CacheLedger::withdraw(Sequence& sequence, int64_t position) {
  const CacheStanding& standing = sequence.standing;
  const int64_t end = standing.promised_from + std::ssize(standing.promised);
  for (int64_t block = std::max(standing.promised_from, position / kBlockPositions); block < end; ++block) {
    fulfil(sequence, block);
  }
}

void CacheLedger::take_back(Sequence& sequence) {
  if (sequence.cursor.blocks().empty()) return;  // It has no room.
  withdraw(sequence, 0);
  CacheStanding& standing = sequence.standing;
  std::vector<BlockId> blocks = sequence.cursor.blocks();
  std::erase(blocks, kNoBlock);
  blocks.insert(blocks.end(), standing.replaced.begin(), standing.replaced.end());
  prefixes_->give_back(blocks, standing.shared);
  std::vector<SlotId> slots = sequence.cursor.slots();
  for (const auto* list : {&standing.snapshots, &standing.read_from}) {
    for (const StateWrite& one : *list) slots.push_back(one.slot);
  }
  slots_.release(slots);
  sequence.cursor = SequenceCursor();
  standing = {};
}

PrefixCacheStats CacheLedger::stats() const {
  PrefixCacheStats stats = totals_;
  stats.evictions += prefixes_->evictions();
  return stats;
}

absl::Status CacheLedger::verify(std::span<const Sequence* const> sequences) const {
  RETURN_IF_ERROR(pool_.verify());
  RETURN_IF_ERROR(slots_.verify());
  RETURN_IF_ERROR(prefixes_->verify());
  std::vector<int> blocks(static_cast<size_t>(pool_.total()));
  std::vector<int> slots(static_cast<size_t>(slots_.total()));
  for (const Sequence* sequence : sequences) {
    const CacheStanding& standing = sequence->standing;
    for (const BlockId block : sequence->cursor.blocks()) {
      if (block != kNoBlock) ++blocks[static_cast<size_t>(block.value)];
    }
    for (const BlockId block : standing.replaced) ++blocks[static_cast<size_t>(block.value)];
    for (const SlotId slot : sequence->cursor.slots()) ++slots[static_cast<size_t>(slot.value)];
    for (const StateWrite& one : standing.snapshots) ++slots[static_cast<size_t>(one.slot.value)];
    for (const StateWrite& one : standing.read_from) ++slots[static_cast<size_t>(one.slot.value)];
  }
  prefixes_->count_owned(blocks, slots);
  for (int32_t i = 0; i < pool_.total(); ++i) {
    const int held = blocks[static_cast<size_t>(i)];
    if (held == pool_.references(BlockId{i})) continue;
    return Internal("block {}: {} owners, the pool counts {}", i, held, pool_.references(BlockId{i}));
  }
  for (int32_t i = 0; i < slots_.total(); ++i) {
    const int held = slots[static_cast<size_t>(i)];
    if (held == slots_.references(SlotId{i})) continue;
    return Internal("state slot {}: {} owners, the pool counts {}", i, held, slots_.references(SlotId{i}));
  }
  return absl::OkStatus();
}

}  // namespace shoal
