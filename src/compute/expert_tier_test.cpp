#include "compute/expert_tier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <map>
#include <numeric>
#include <set>

#include "base/random.h"
#include "base/status.h"

namespace shoal {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr int64_t kSlotBytes = 64;
constexpr int64_t kExperts = 24;

/// Experts whose bytes are their numbers, on a disk whose reads may be held up or fail.
class Disk {
 public:
  absl::StatusOr<ExpertTier::Loaded> read(int64_t expert, std::byte* memory) {
    std::unique_lock lock(mutex_);
    begun_.push_back(expert);
    changed_.notify_all();
    changed_.wait(lock, [&] { return !closed_; });
    if (broken_.contains(expert)) return DataLoss("expert {} is damaged", expert);
    std::fill_n(reinterpret_cast<int64_t*>(memory), kSlotBytes / 8, expert);
    return ExpertTier::Loaded{kSlotBytes, false};
  }
  void close(bool closed) {
    const std::lock_guard lock(mutex_);
    closed_ = closed;
    changed_.notify_all();
  }
  void break_expert(int64_t expert, bool broken) {
    const std::lock_guard lock(mutex_);
    broken ? (void)broken_.insert(expert) : (void)broken_.erase(expert);
  }
  std::vector<int64_t> begun() const {
    const std::lock_guard lock(mutex_);
    return begun_;
  }
  /// Returns when so many reads have begun.
  void wait_for_reads(size_t count) {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, std::chrono::seconds(60), [&] { return begun_.size() >= count; }));
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool closed_ = false;
  std::set<int64_t> broken_;
  std::vector<int64_t> begun_;
};

class ExpertTierTest : public ::testing::Test {
 protected:
  void open(int64_t slots, int readers = 1, Duration read_max = std::chrono::minutes(5)) {
    auto tier = ExpertTier::Create(
        {.experts = kExperts,
         .slots = slots,
         .slot_bytes = kSlotBytes,
         .readers = readers,
         .read = [this](int64_t expert, std::byte* memory) { return disk_.read(expert, memory); },
         .place =
             [this](int64_t expert, const std::shared_ptr<std::byte>& memory) {
               places_[static_cast<size_t>(expert)] = memory;
             },
         .name = [](int64_t expert) { return fmt::format("expert {}", expert); },
         .read_max = read_max});
    ASSERT_TRUE(tier.ok()) << tier.status();
    tier_ = *std::move(tier);
  }
  ~ExpertTierTest() override { disk_.close(false); }

  /// Whether an expert's bytes are where it is said to be.
  bool is_there(int64_t expert) const {
    const std::shared_ptr<std::byte>& memory = places_[static_cast<size_t>(expert)];
    const auto* values = reinterpret_cast<const int64_t*>(memory.get());
    return std::all_of(values, values + kSlotBytes / 8, [&](int64_t value) { return value == expert; });
  }
  using Groups = std::vector<std::vector<int64_t>>;
  /// The groups of experts that were computed, all of them in their places.
  absl::StatusOr<Groups> want(const std::vector<int64_t>& experts, const std::function<void()>& during = {}) {
    Groups groups;
    Arena arena;
    RETURN_IF_ERROR(tier_->with(arena, experts, [&](std::span<const int64_t> which) {
      std::vector<int64_t>& group = groups.emplace_back();
      for (const int64_t i : which) group.push_back(experts[static_cast<size_t>(i)]);
      if (during) during();
      for (const int64_t expert : group) EXPECT_TRUE(is_there(expert)) << expert;
      return absl::OkStatus();
    }));
    return groups;
  }
  /// Until no read is begun or queued.
  void settle(int64_t reads) {
    const Deadline deadline = Deadline::after(std::chrono::seconds(60));
    while (tier_->stats().bytes_read < reads * kSlotBytes) {
      ASSERT_FALSE(deadline.expired());
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  Disk disk_;
  std::array<std::shared_ptr<std::byte>, kExperts> places_;
  std::unique_ptr<ExpertTier> tier_;
};

TEST_F(ExpertTierTest, EveryExpertIsReadIntoItsPlaceOnce) {
  open(4);
  EXPECT_THAT(*want({3, 9}), Not(IsEmpty()));
  EXPECT_THAT(*want({3, 9}), ElementsAre(ElementsAre(3, 9)));
  EXPECT_THAT(disk_.begun(), ElementsAre(3, 9));
  const ExpertTierStats stats = tier_->stats();
  EXPECT_EQ(stats.misses, 2);
  EXPECT_EQ(stats.hits, 2);
  EXPECT_EQ(stats.bytes_read, 2 * kSlotBytes);
  EXPECT_EQ(stats.resident_bytes, 4 * kSlotBytes);
}

TEST_F(ExpertTierTest, MoreExpertsThanSlotsAreComputedInGroups) {
  for (const int64_t slots : {1, 2, 3}) {
    open(slots, 2);
    std::vector<int64_t> all(kExperts);
    std::iota(all.begin(), all.end(), 0);
    const auto groups = want(all);
    ASSERT_TRUE(groups.ok());
    std::vector<int64_t> seen;
    for (const std::vector<int64_t>& group : *groups) {
      EXPECT_LE(std::ssize(group), slots);
      seen.insert(seen.end(), group.begin(), group.end());
    }
    std::ranges::sort(seen);
    EXPECT_EQ(seen, all);
  }
}

TEST_F(ExpertTierTest, ThoseThatAreHereAreComputedWhileOthersAreRead) {
  open(4);
  const int64_t here[] = {7, 8};
  ASSERT_TRUE(tier_->warm(here).ok());
  disk_.close(true);
  // The first group runs although no read can end before it has.
  const auto groups = want({1, 7, 8}, [&] {
    disk_.wait_for_reads(3);
    disk_.close(false);
  });
  EXPECT_THAT(*groups, ElementsAre(ElementsAre(7, 8), ElementsAre(1)));
}

TEST_F(ExpertTierTest, TheExpertThatWasWantedLeastOftenGivesWay) {
  open(2);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(want({5}).ok());
  ASSERT_TRUE(want({6}).ok());
  ASSERT_TRUE(want({7}).ok());  // For 6, although 5 was used longer ago.
  ASSERT_TRUE(want({5}).ok());
  EXPECT_THAT(disk_.begun(), ElementsAre(5, 6, 7));
  ASSERT_TRUE(want({6}).ok());  // For 7, which was wanted once.
  ASSERT_TRUE(want({5}).ok());
  EXPECT_THAT(disk_.begun(), ElementsAre(5, 6, 7, 6));
}

TEST_F(ExpertTierTest, ExpertsInUseKeepTheirPlaces) {
  open(2);
  const auto groups = want({1, 2}, [&] {
    const int64_t others[] = {10, 11, 12};
    tier_->expect(others);
    tier_->read_ahead(others);
  });
  ASSERT_TRUE(groups.ok());
}

TEST_F(ExpertTierTest, WhatIsExpectedIsReadAtOnceAndStaysUntilItIsWanted) {
  open(4);
  const int64_t here[] = {1, 2, 3, 4};
  ASSERT_TRUE(tier_->warm(here).ok());
  const int64_t expected[] = {3, 10, 11};
  tier_->expect(expected);
  settle(6);
  const int64_t guesses[] = {12, 13};
  tier_->read_ahead(guesses);
  EXPECT_THAT(*want({3, 10, 11}), ElementsAre(ElementsAre(3, 10, 11)));
  const ExpertTierStats stats = tier_->stats();
  EXPECT_EQ(stats.hits, 1);  // Each is counted once.
  EXPECT_EQ(stats.misses, 2);
  EXPECT_EQ(stats.ahead, 1);
}

TEST_F(ExpertTierTest, WhatAStepWantsIsCountedOnceWhateverIsServedInBetween) {
  open(4);
  const int64_t expected[] = {1, 2};
  tier_->expect(expected);
  EXPECT_TRUE(want({3}).ok());  // Asked for by another node, while this one's step waits.
  EXPECT_TRUE(want({1, 2}).ok());
  EXPECT_EQ(tier_->stats().misses, 3);
  EXPECT_EQ(tier_->stats().hits, 0);
  tier_->expect(expected);  // Of a step that fails then.
  const int64_t next[] = {3};
  tier_->expect(next);
  EXPECT_TRUE(want({3}).ok());
  EXPECT_TRUE(want({1, 2}).ok());
  EXPECT_EQ(tier_->stats().hits, 5);
  disk_.close(true);
  const int64_t guess[] = {9};
  tier_->read_ahead(guess);
  tier_->expect(guess);
  disk_.close(false);
  EXPECT_TRUE(want({9}).ok());
  EXPECT_EQ(tier_->stats().misses, 4);
  EXPECT_EQ(tier_->stats().hits, 5);
  EXPECT_EQ(tier_->stats().ahead_used, 1);
}

TEST_F(ExpertTierTest, AReadThatFailsIsAnErrorAndIsTriedAgain) {
  open(3);
  disk_.break_expert(4, true);
  const auto failed = want({3, 4, 5});
  EXPECT_EQ(failed.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(ToString(failed.status()), HasSubstr("expert 4 is damaged"));
  const int64_t expected[] = {4};
  tier_->expect(expected);
  EXPECT_FALSE(want({4}).ok());
  disk_.break_expert(4, false);
  EXPECT_TRUE(want({3, 4, 5}).ok());
}

TEST_F(ExpertTierTest, AnErrorOfComputingLeavesNothingInUse) {
  open(1);
  Arena arena;
  const int64_t one[] = {1};
  EXPECT_EQ(tier_->with(arena, one, [](std::span<const int64_t>) { return OutOfRange("not finite"); }),
            OutOfRange("not finite"));
  EXPECT_TRUE(want({2}).ok());  // In the only slot.
}

TEST_F(ExpertTierTest, GuessesHaveAQuarterOfTheSlotsAndAreCounted) {
  open(8);
  const int64_t here[] = {0, 1, 2, 3, 4, 5, 6, 7};
  ASSERT_TRUE(tier_->warm(here).ok());
  const int64_t guesses[] = {20, 21, 22};
  tier_->read_ahead(guesses);
  settle(10);
  EXPECT_EQ(tier_->stats().ahead, 2);
  EXPECT_THAT(*want({20}), ElementsAre(ElementsAre(20)));
  EXPECT_EQ(tier_->stats().hits, 1);
  EXPECT_EQ(tier_->stats().ahead_used, 1);
  EXPECT_EQ(tier_->stats().ahead_wasted, 0);
  tier_->read_ahead({});  // The guess of 21 is over: it may go.
  for (int64_t expert = 8; expert < 16; ++expert) ASSERT_TRUE(want({expert}).ok());
  EXPECT_EQ(tier_->stats().ahead_wasted, 1);
  EXPECT_EQ(tier_->stats().ahead, 2);
}

TEST_F(ExpertTierTest, AGuessThatCannotBeReadHarmsNobody) {
  open(4);
  disk_.break_expert(9, true);
  const int64_t guess[] = {9};
  tier_->read_ahead(guess);
  disk_.wait_for_reads(1);
  EXPECT_TRUE(want({1, 2, 3, 4}).ok());
  disk_.break_expert(9, false);
  EXPECT_TRUE(want({9}).ok());
}

TEST_F(ExpertTierTest, AGuessThatIsWaitedForComesBeforeOtherGuesses) {
  open(8);
  disk_.close(true);
  const int64_t first[] = {1};
  tier_->expect(first);  // Keeps the only reader busy.
  disk_.wait_for_reads(1);
  const int64_t guesses[] = {20, 21};
  tier_->read_ahead(guesses);
  const int64_t expected[] = {21};
  tier_->expect(expected);
  disk_.close(false);
  EXPECT_TRUE(want({21}).ok());
  settle(3);
  EXPECT_THAT(disk_.begun(), ElementsAre(1, 21, 20));
}

TEST_F(ExpertTierTest, ADiskThatDoesNotAnswerEndsTheStepAndNotTheProcess) {
  open(2, 1, std::chrono::milliseconds(20));
  disk_.close(true);
  const auto hung = want({6});
  EXPECT_EQ(hung.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(ToString(hung.status()), HasSubstr("expert 6"));
  disk_.close(false);
  settle(1);
  EXPECT_TRUE(want({6}).ok());
}

TEST_F(ExpertTierTest, CallsFromSeveralThreadsShareFewSlots) {
  open(3, 2);
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      RandomStream random(t);
      Arena arena;
      for (int round = 0; round < 200; ++round) {
        std::set<int64_t> some;
        while (some.size() < 5) some.insert(static_cast<int64_t>(random.below(kExperts)));
        const std::vector<int64_t> experts(some.begin(), some.end());
        if (round % 3 == 0) tier_->read_ahead(experts);
        size_t computed = 0;
        const absl::Status status = tier_->with(arena, experts, [&](std::span<const int64_t> which) {
          computed += which.size();
          return absl::OkStatus();
        });
        if (!status.ok() || computed != experts.size()) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(ExpertTierTest, OtherThreadsMayGoOnWithTheReads) {
  open(4);
  ASSERT_EQ(tier_->warm(std::vector<int64_t>{0, 1}), absl::OkStatus());
  ASSERT_EQ(tier_->start_readers(3), absl::OkStatus());
  disk_.close(true);
  const int64_t expected[] = {2, 3};
  tier_->expect(expected);
  disk_.wait_for_reads(4);  // Two at a time, where one thread would be held up at the first.
  disk_.close(false);
  ASSERT_TRUE(want({0, 1, 2, 3}).ok());
  EXPECT_EQ(disk_.begun().size(), 4u);
}

TEST_F(ExpertTierTest, ALoadThatIsNoLongerWantedEndsBetweenTwoReads) {
  open(4);
  const auto ended = [this] { return !disk_.begun().empty(); };
  EXPECT_EQ(tier_->warm(std::vector<int64_t>{0, 1, 2, 3}, ended).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(tier_->warm({}, [] { return false; }), absl::OkStatus());
}

TEST_F(ExpertTierTest, ItEndsWhileReadsAreQueued) {
  open(4);
  disk_.close(true);
  const int64_t expected[] = {1, 2, 3, 4};
  tier_->expect(expected);
  disk_.wait_for_reads(1);
  std::thread ends([&] { tier_.reset(); });
  disk_.close(false);
  ends.join();
}

}  // namespace
}  // namespace shoal
