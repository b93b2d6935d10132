// The ledger's part of buddies: what stages are to copy for them.
#include <algorithm>
#include <variant>

#include "sched/cache_ledger.h"

namespace shoal {

// It has entered the prefix cache at `place`: a block, or the state behind it.
void CacheLedger::number(PrefixPlace place, const CachePlace& cached, int64_t position) {
  const uint64_t entry = entries_.enter(cached);
  if (!limits_.copies) return;
  copies_.push_back({{cached, prefixes_->key(place), static_cast<int32_t>(position), entry}, place});
}

// What was evicted meanwhile may be written to by this very step.
void CacheLedger::order_copies(Step& step) {
  while (!copies_.empty() && std::ssize(step.copies) < kCopiesPerStepMax) {
    const Copy& copy = copies_.front();
    const SlotId* slot = std::get_if<SlotId>(&copy.cached.place);
    const bool there = prefixes_->has(copy.place) && prefixes_->key(copy.place) == copy.cached.key &&
                       (slot == nullptr || prefixes_->state(copy.place) == *slot);
    if (there && entries_.of(copy.cached.place) == copy.cached.entry) step.copies.push_back(copy.cached);
    copies_.pop_front();
  }
}

// Buddies may be others than before, or have lost what they had.
void CacheLedger::copy_all() {
  if (!limits_.copies) return;
  copies_.clear();
  PrefixPlace place;
  for (CachedPlace cached : prefixes_->describe(prefixes_->ends(), kCachedPlacesMax)) {
    if (const BlockId* block = std::get_if<BlockId>(&cached.place)) place = {block->value};
    cached.entry = entries_.of(cached.place);
    copies_.push_back({cached, place});
  }
}

}  // namespace shoal
