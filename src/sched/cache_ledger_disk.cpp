// The ledger's part of the disk tier: what goes there, and what comes from there.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "sched/cache_ledger.h"

namespace shoal {

// Blocks that the sequence can start behind where the stages restore what is behind `match`, all of it on every
// stage's disk; match.usable where there is nothing, or computing is faster.
int64_t CacheLedger::restorable_until(const Sequence& sequence, const Match& match) {
  if (!disk_.active()) return match.usable;
  const int64_t blocks_max = sequence.cacheable() / kBlockPositions;
  BlockKey key = prefixes_->key(match.start);
  int64_t until = match.usable;
  for (int64_t block = match.usable; block < blocks_max; ++block) {
    key = KeyAfter(key, std::span(sequence.tokens)
                            .subspan(static_cast<size_t>(block * kBlockPositions), size_t{kBlockPositions}));
    if (!disk_.on_all(key)) break;
    if (!keeps_states() || disk_.on_all(StateKey(key))) until = block + 1;
  }
  return until > match.usable && disk_.pays() ? until : match.usable;
}

// Blocks [first, end) of the sequence, with all tokens before their end.
StoredRun CacheLedger::run_of(const Sequence& sequence, int64_t first_block, int64_t end_block) const {
  const std::vector<BlockId>& blocks = sequence.cursor.blocks();
  StoredRun run{.id = sequence.id, .root = prefixes_->key(prefixes_->root(sequence.cursor.long_rope()))};
  run.tokens.assign(sequence.tokens.begin(), sequence.tokens.begin() + end_block * kBlockPositions);
  run.blocks.assign(blocks.begin() + first_block, blocks.begin() + end_block);
  return run;
}

// Into blocks that the sequence computes if nothing comes. A state goes to the slot that its first slice reads.
void CacheLedger::begin_restore(Sequence& sequence, int64_t until) {
  const int64_t from = sequence.standing.shared_blocks;
  StoredRun run = run_of(sequence, from, until);
  if (keeps_states()) {
    run.states.push_back({static_cast<int32_t>(until * kBlockPositions), sequence.cursor.slots()[0]});
  }
  sequence.standing.restoring = until - from;
  restores_.push_back(std::move(run));
  disk_.expect(sequence.id);
}

void CacheLedger::restored(Sequence& sequence, const RestoreOutcome& outcome) {
  CacheStanding& standing = sequence.standing;
  const int64_t wanted = std::exchange(standing.restoring, 0);
  SHOAL_CHECK_GT(wanted, 0);  // It was expected, once.
  int64_t blocks = std::min<int64_t>(outcome.blocks, wanted);
  // There is one state, behind all blocks.
  if (keeps_states() && (blocks < wanted || !outcome.state)) blocks = 0;
  disk_.count_restore(blocks == wanted, blocks * kBlockPositions);
  if (blocks > 0) {
    const int64_t position = sequence.cursor.position() + blocks * kBlockPositions;
    sequence.cursor.start_at(position, keeps_states() ? sequence.cursor.slots()[0] : kNoState);
    if (keeps_states()) keep_last(sequence);
    wrote(sequence, position);
  }
  count_start(sequence);
}

// What the disks of all stages have already is left out.
void CacheLedger::save(const Sequence& sequence, std::span<const BlockKey> fresh,
                       std::span<const StateWrite> states) {
  const auto missing = std::ranges::find_if(fresh, [&](const BlockKey& key) { return !disk_.on_all(key); });
  const CacheStanding& standing = sequence.standing;
  if (missing == fresh.end() && states.empty()) return;
  StoredRun run = run_of(sequence, standing.shared_blocks - (fresh.end() - missing), standing.shared_blocks);
  run.states.assign(states.begin(), states.end());
  saves_.push_back(std::move(run));
}

void CacheLedger::put_orders(Step& step) {
  step.saves = std::exchange(saves_, {});
  step.restores = std::exchange(restores_, {});
  order_copies(step);
}

}  // namespace shoal
