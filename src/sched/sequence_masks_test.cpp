// Masks of drafted tokens are those of the tokens as they come, whatever was drafted before, and tokens that must come
// are known as soon as the pool has seen them.
#include "sched/sequence_masks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <thread>

#include "base/status.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr SeqId kSequence{5};

/// Spells words, one letter a token, of a list; a word that ends begins again with any.
class Words final : public TokenConstraint {
 public:
  explicit Words(std::vector<std::vector<int32_t>> words, int64_t masks_max = 1'000'000)
      : words_(std::move(words)), masks_max_(masks_max) {}

  absl::Status mask(std::vector<uint32_t>& words) override {
    if (++masks_ > masks_max_) return ResourceExhausted("too many masks");
    words.assign(1, 0);
    for (const int32_t token : next()) words[0] |= uint32_t{1} << token;
    return absl::OkStatus();
  }
  absl::Status consume(int32_t token) override {
    if (std::ranges::count(next(), token) == 0) return InvalidArgument("no word goes on with {}", token);
    text_.push_back(token);
    return absl::OkStatus();
  }
  absl::Status rewind(int64_t count) override {
    text_.resize(text_.size() - static_cast<size_t>(count));
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<int32_t>> forced() override {
    std::vector<int32_t> tokens;
    Words ahead = *this;
    while (ahead.next().size() == 1) {
      tokens.push_back(ahead.next().front());
      RETURN_IF_ERROR(ahead.consume(tokens.back()));
    }
    return tokens;
  }
  absl::StatusOr<std::unique_ptr<TokenConstraint>> clone() const override {
    return std::make_unique<Words>(*this);
  }

 private:
  /// Tokens that may come, in the order of the words.
  std::vector<int32_t> next() const {
    size_t begin = 0;
    std::vector<int32_t> tokens;
    while (true) {
      tokens.clear();
      const auto word = std::vector<int32_t>(text_.begin() + static_cast<ptrdiff_t>(begin), text_.end());
      for (const auto& one : words_) {
        if (one.size() > word.size() && std::equal(word.begin(), word.end(), one.begin())) {
          if (std::ranges::count(tokens, one[word.size()]) == 0) tokens.push_back(one[word.size()]);
        }
      }
      if (!tokens.empty()) return tokens;
      for (const auto& one : words_) {  // No word begins with another here.
        if (one.size() <= word.size() && std::equal(one.begin(), one.end(), word.begin()))
          begin += one.size();
      }
    }
  }

  std::vector<std::vector<int32_t>> words_;
  int64_t masks_max_;
  int64_t masks_ = 0;
  std::vector<int32_t> text_;
};

/// Keeps the masks that it is sent.
class Masks final : public Engine {
 public:
  State state() const override { return {}; }
  void submit(uint64_t, Step, StepDone) override {}
  void give_up(uint64_t, const absl::Status&) override {}
  void set_state_listener(std::function<void()>) override {}
  void send_masks(uint64_t, StepId step, std::span<const TokenMask> masks) override {
    const std::lock_guard lock(mutex_);
    for (const TokenMask& mask : masks) by_step_[step].push_back(mask);
  }

  /// The first word of each mask of the step, once they are there.
  std::vector<uint32_t> of(StepId step) {
    std::vector<uint32_t> words;
    for (const TokenMask& mask : wait_for(step)) words.push_back(mask.status.ok() ? mask.words.front() : 0);
    return words;
  }
  std::vector<TokenMask> wait_for(StepId step) {
    for (int i = 0; i < 30'000; ++i) {
      {
        const std::lock_guard lock(mutex_);
        if (by_step_.contains(step)) return by_step_[step];
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return {};
  }

 private:
  std::mutex mutex_;
  std::map<StepId, std::vector<TokenMask>> by_step_;
};

constexpr uint32_t Bit(int32_t token) { return uint32_t{1} << token; }

class SequenceMasksTest : public ::testing::Test {
 protected:
  void begin(Words words) {
    masks_ =
        std::make_shared<SequenceMasks>(kSequence, std::make_shared<Words>(std::move(words)), pool_, engine_);
    masks_->begin();
  }
  std::vector<uint32_t> want(int64_t position, std::vector<int32_t> draft) {
    ++step_.value;
    masks_->wanted_by(1, step_, position, draft);
    return engine_.of(step_);
  }
  bool forces(const std::vector<int32_t>& tokens) {
    for (int i = 0; i < 30'000 && masks_->forced() != tokens; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return masks_->forced() == tokens;
  }

  Masks engine_;
  MaskPool pool_{2};
  std::shared_ptr<SequenceMasks> masks_;
  StepId step_;
};

// Two words: 1 2 3 4, and 5 2 7.
Words TwoWords(int64_t masks_max = 1'000'000) { return Words({{1, 2, 3, 4}, {5, 2, 7}}, masks_max); }

TEST_F(SequenceMasksTest, EachDraftedTokenHasItsMask) {
  begin(TwoWords());
  EXPECT_THAT(want(10, {}), ElementsAre(Bit(1) | Bit(5)));
  EXPECT_THAT(want(10, {1, 2, 3}), ElementsAre(Bit(1) | Bit(5), Bit(2), Bit(3), Bit(4)));
  for (const TokenMask& mask : engine_.wait_for(step_)) EXPECT_EQ(mask.id, kSequence);
  EXPECT_EQ(engine_.wait_for(step_)[0].position, 10);
  EXPECT_EQ(engine_.wait_for(step_)[3].position, 13);
  EXPECT_THAT(want(10, {5, 2}), ElementsAre(Bit(1) | Bit(5), Bit(2), Bit(7)));
  EXPECT_THAT(want(10, {5}), ElementsAre(Bit(1) | Bit(5), Bit(2)));
  EXPECT_THAT(want(10, {}), ElementsAre(Bit(1) | Bit(5)));
}

TEST_F(SequenceMasksTest, BehindATokenThatMayNotComeAnyMaskWillDo) {
  begin(TwoWords());
  const std::vector<uint32_t> masks = want(0, {1, 7, 3});
  ASSERT_EQ(masks.size(), 4u);
  EXPECT_EQ(masks[0], Bit(1) | Bit(5));
  EXPECT_EQ(masks[1], Bit(2));
  EXPECT_NE(masks[2], 0u);
  EXPECT_NE(masks[3], 0u);
  EXPECT_THAT(want(0, {1, 2}), ElementsAre(Bit(1) | Bit(5), Bit(2), Bit(3)));
}

TEST_F(SequenceMasksTest, TokensThatComeAsDraftedOrOtherwiseLeaveTheSameState) {
  begin(TwoWords());
  want(0, {1, 2, 3});
  for (const int32_t token : {1, 2, 3}) masks_->accept(token);
  EXPECT_THAT(want(3, {4, 5}), ElementsAre(Bit(4), Bit(1) | Bit(5), Bit(2)));
  masks_->accept(4);
  masks_->accept(1);  // Not 5.
  EXPECT_THAT(want(5, {2, 3, 4, 5}), ElementsAre(Bit(2), Bit(3), Bit(4), Bit(1) | Bit(5), Bit(2)));
  masks_->accept(2);
  EXPECT_THAT(want(6, {}), ElementsAre(Bit(3)));
}

TEST_F(SequenceMasksTest, WhatMustComeIsKnownOnceItWasSeenAndPassesAsItComes) {
  begin(TwoWords());
  want(0, {});
  EXPECT_THAT(masks_->forced(), IsEmpty());
  masks_->accept(1);
  EXPECT_TRUE(forces({2, 3, 4}));
  masks_->accept(2);
  EXPECT_TRUE(forces({3, 4}));
  want(2, {3, 4});
  masks_->accept(3);
  masks_->accept(4);
  EXPECT_THAT(masks_->forced(), IsEmpty());
  masks_->accept(5);
  EXPECT_TRUE(forces({2, 7}));
}

TEST_F(SequenceMasksTest, ALimitThatLookingAheadReachesIsNoneOfTheText) {
  begin(TwoWords(6));
  want(0, {1, 2, 3, 4, 5});  // All six.
  for (const int32_t token : {1, 2, 3, 4, 1}) masks_->accept(token);
  EXPECT_THAT(want(5, {2, 3}), ElementsAre(Bit(2), ::testing::Ne(0u), ::testing::Ne(0u)));
  masks_->accept(2);
  EXPECT_THAT(want(6, {}), ElementsAre(Bit(3)));
}

}  // namespace
}  // namespace shoal
