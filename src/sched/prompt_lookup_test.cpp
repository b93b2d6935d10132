#include "sched/prompt_lookup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <numeric>

#include "base/random.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int64_t kAll = std::numeric_limits<int32_t>::max();

Draft DraftOf(const std::vector<int32_t>& tokens, int64_t most) {
  PromptLookup lookup;
  lookup.extend(tokens, kAll);
  return lookup.draft(tokens, most);
}

TEST(PromptLookup, DraftsWhatFollowedTheLatestTokensBefore) {
  const Draft draft = DraftOf({9, 1, 2, 3, 4, 5, 8, 1, 2, 3}, 3);
  EXPECT_EQ(draft.matched, 3);
  EXPECT_THAT(draft.tokens, ElementsAre(4, 5, 8));
}

TEST(PromptLookup, TwoTokensAreNoMatch) {
  EXPECT_THAT(DraftOf({1, 2, 3, 7, 1, 2}, 4).tokens, IsEmpty());
  EXPECT_THAT(DraftOf({1, 2}, 4).tokens, IsEmpty());
  EXPECT_THAT(DraftOf({}, 4).tokens, IsEmpty());
}

TEST(PromptLookup, TheLongestMatchIsTakenAndOfEqualOnesTheLatest) {
  EXPECT_THAT(DraftOf({5, 1, 2, 3, 40, 6, 1, 2, 3, 50, 5, 1, 2, 3}, 1).tokens, ElementsAre(40));
  EXPECT_THAT(DraftOf({5, 1, 2, 3, 40, 6, 1, 2, 3, 50, 7, 1, 2, 3}, 1).tokens, ElementsAre(50));
}

TEST(PromptLookup, ADraftThatReachesTheEndGoesOnWithItself) {
  EXPECT_THAT(DraftOf({1, 2, 3, 4, 1, 2, 3}, 9).tokens, ElementsAre(4, 1, 2, 3, 4, 1, 2, 3, 4));
  EXPECT_THAT(DraftOf({7, 7, 7, 7}, 5).tokens, ElementsAre(7, 7, 7, 7, 7));
}

// A text whose every line begins with the same tokens: more places than are compared.
TEST(PromptLookup, AMatchThatGoesOnIsNotLostAmongCommonTokens) {
  std::vector<int32_t> tokens;
  int32_t next = 100;
  for (int line = 0; line < 200; ++line) {
    tokens.insert(tokens.end(), {1, 2, 3});
    for (int i = 0; i < 5; ++i) tokens.push_back(next++);
  }
  const std::vector<int32_t> copied(tokens.begin() + 80,
                                    tokens.begin() + 400);  // Whole lines near the beginning.
  PromptLookup lookup;
  tokens.insert(tokens.end(), copied.begin(), copied.begin() + 8);
  for (size_t i = 8; i < copied.size(); ++i) {
    lookup.extend(tokens, kAll);
    EXPECT_THAT(lookup.draft(tokens, 1).tokens, ElementsAre(copied[i])) << i;
    tokens.push_back(copied[i]);
  }
}

TEST(PromptLookup, IndexesAsManyTokensAtATimeAsItIsTold) {
  std::vector<int32_t> tokens(1000);
  std::iota(tokens.begin(), tokens.end(), 0);
  PromptLookup lookup;
  for (const int64_t expected : {400, 800, 1000, 1000}) {
    lookup.extend(tokens, 400);
    EXPECT_EQ(lookup.indexed(), expected);
  }
}

/// The longest earlier match of the end of `tokens`, by comparing all places.
int64_t LongestMatch(std::span<const int32_t> tokens) {
  int64_t longest = 0;
  const int64_t last = std::ssize(tokens) - 1;
  for (int64_t place = 0; place < last; ++place) {
    int64_t matched = 0;
    while (matched < PromptLookup::kMatchMax && matched <= place &&
           tokens[static_cast<size_t>(place - matched)] == tokens[static_cast<size_t>(last - matched)]) {
      ++matched;
    }
    longest = std::max(longest, matched);
  }
  return longest;
}

// Few ids and short texts, so that all places are compared; the index grows past its first size.
TEST(PromptLookup, FindsWhatASearchOfAllPlacesFinds) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    RandomStream random(seed);
    const uint64_t ids = 12 + random.below(30);
    std::vector<int32_t> tokens;
    PromptLookup lookup;
    int found = 0;
    size_t from = 0;  // Where a passage is copied from, and how much of it is left.
    size_t left = 0;
    while (tokens.size() < 3000) {
      if (left == 0 && tokens.size() > 40 && random.below(30) == 0) {
        from = random.below(tokens.size() - 20);
        left = 20;
      }
      tokens.push_back(left > 0 ? tokens[from++] : static_cast<int32_t>(random.below(ids)));
      if (left > 0) --left;
      if (random.below(4) != 0) continue;  // Several tokens at once, as where drafts are accepted.
      lookup.extend(tokens, kAll);
      const Draft draft = lookup.draft(tokens, 4);
      const int64_t longest = LongestMatch(tokens);
      // A longer one may hide behind more places than are compared.
      EXPECT_LE(draft.matched, longest);
      EXPECT_EQ(draft.matched >= PromptLookup::kMatchMin, longest >= PromptLookup::kMatchMin);
      if (draft.matched == longest && longest >= PromptLookup::kMatchMin) ++found;
      EXPECT_EQ(draft.tokens.size(), draft.matched > 0 ? 4u : 0u);
    }
    EXPECT_GT(found, 150);
  }
}

}  // namespace
}  // namespace shoal
