#include "sched/prompt_lookup.h"

#include <algorithm>

#include "base/check.h"
#include "base/random.h"

namespace shoal {
namespace {

constexpr size_t kBucketsMin = 1024;

/// Tokens before and including `a` and `b`, a < b, that are equal: kMatchMax at most.
int64_t CommonSuffix(std::span<const int32_t> tokens, int64_t a, int64_t b) {
  int64_t length = 0;
  while (length < PromptLookup::kMatchMax && length <= a &&
         tokens[static_cast<size_t>(a - length)] == tokens[static_cast<size_t>(b - length)]) {
    ++length;
  }
  return length;
}

}  // namespace

size_t PromptLookup::bucket(std::span<const int32_t> tokens, int64_t position) const {
  uint64_t hash = 0;
  for (int64_t i = position - kMatchMin + 1; i <= position; ++i) {
    hash = Mix64(hash ^ static_cast<uint32_t>(tokens[static_cast<size_t>(i)]));
  }
  return static_cast<size_t>(hash) & (latest_.size() - 1);
}

void PromptLookup::insert(std::span<const int32_t> tokens, int64_t position) {
  if (position < kMatchMin - 1) return;
  int32_t& latest = latest_[bucket(tokens, position)];
  previous_[static_cast<size_t>(position)] = latest;
  latest = static_cast<int32_t>(position);
}

// Twice the buckets: each token is inserted twice on average.
void PromptLookup::grow(std::span<const int32_t> tokens) {
  latest_.assign(std::max(kBucketsMin, 2 * latest_.size()), -1);
  for (int64_t i = 0; i < indexed(); ++i) insert(tokens, i);
}

void PromptLookup::extend(std::span<const int32_t> tokens, int64_t most) {
  const int64_t end = std::min<int64_t>(std::ssize(tokens), indexed() + most);
  for (int64_t i = indexed(); i < end; ++i) {
    const bool follows =
        source_ >= 0 && tokens[static_cast<size_t>(source_ + 1)] == tokens[static_cast<size_t>(i)];
    source_ = follows ? source_ + 1 : -1;
    if (previous_.size() == latest_.size()) grow(tokens);
    previous_.push_back(-1);
    insert(tokens, i);
  }
}

Draft PromptLookup::draft(std::span<const int32_t> tokens, int64_t most) {
  SHOAL_CHECK_EQ(indexed(), std::ssize(tokens));
  Draft draft;
  const int64_t last = indexed() - 1;
  // Common tokens have more places than are compared; a match that goes on is not lost among them.
  if (source_ >= 0) draft.matched = CommonSuffix(tokens, source_, last);
  int64_t place = last >= 0 ? previous_[static_cast<size_t>(last)] : -1;
  for (int64_t i = 0; i < kCandidatesMax && place >= 0 && draft.matched < kMatchMax; ++i) {
    const int64_t matched = CommonSuffix(tokens, place, last);
    if (matched > draft.matched) {
      draft.matched = matched;
      source_ = place;
    }
    place = previous_[static_cast<size_t>(place)];
  }
  if (draft.matched < kMatchMin) return {};  // Other tokens with the same hash.
  for (int64_t i = 0; i < most; ++i) {
    const int64_t from = source_ + 1 + i;
    draft.tokens.push_back(from <= last ? tokens[static_cast<size_t>(from)]
                                        : draft.tokens[static_cast<size_t>(from - last - 1)]);
  }
  return draft;
}

}  // namespace shoal
