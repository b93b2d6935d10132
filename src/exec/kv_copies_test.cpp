#include "exec/kv_copies.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <thread>

#include "base/status.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr Duration kPatience = std::chrono::seconds(20);

std::vector<std::byte> Bytes(size_t count, int value = 0) {
  return std::vector<std::byte>(count, static_cast<std::byte>(value));
}

CachedPlace BlockOf(int32_t id, uint64_t entry) { return {BlockId{id}, {1, entry}, 32, entry}; }

std::vector<uint64_t> NumbersOf(const CacheCopies& copies) {
  std::vector<uint64_t> numbers;
  for (const auto& copy : copies) numbers.push_back(copy->number);
  return numbers;
}

TEST(CopyOutbox, GivesACopyUntilTheBuddySaysThatItHasIt) {
  CopyOutbox outbox(1000, nullptr);
  for (int32_t i = 0; i < 3; ++i) outbox.put(BlockOf(i, 7), Bytes(10));
  EXPECT_THAT(NumbersOf(*outbox.next(0, 20, Deadline::after(kPatience))), ElementsAre(1u, 2u));
  EXPECT_THAT(NumbersOf(*outbox.next(0, 1, Deadline::after(kPatience))), ElementsAre(1u));
  EXPECT_EQ(outbox.stats().copies, 0);
  EXPECT_THAT(NumbersOf(*outbox.next(2, 1000, Deadline::after(kPatience))), ElementsAre(3u));
  EXPECT_EQ(outbox.stats().copies, 2);
  EXPECT_EQ(outbox.stats().bytes, 20);
  EXPECT_EQ(outbox.stats().waiting_bytes, 10);
}

TEST(CopyOutbox, HasNoRoomUntilWhatWaitsIsTakenAndWakesThen) {
  int woken = 0;
  CopyOutbox outbox(15, [&woken] { ++woken; });
  outbox.put(BlockOf(0, 1), Bytes(10));
  EXPECT_TRUE(outbox.has_room());
  outbox.put(BlockOf(1, 2), Bytes(10));
  EXPECT_FALSE(outbox.has_room());
  ASSERT_TRUE(outbox.next(0, 1000, Deadline::after(kPatience)).ok());
  EXPECT_FALSE(outbox.has_room());  // They may not have arrived.
  EXPECT_EQ(woken, 0);
  EXPECT_THAT(*outbox.next(2, 1000, Deadline::after_ms(0)), IsEmpty());
  EXPECT_TRUE(outbox.has_room());
  EXPECT_EQ(woken, 1);
}

TEST(CopyOutbox, OneThatIsClosedEndsAWaitAndTakesNothing) {
  CopyOutbox outbox(15, nullptr);
  std::thread closer([&outbox] { outbox.close(); });
  EXPECT_EQ(outbox.next(0, 1000, Deadline::after(kPatience)).status().code(),
            absl::StatusCode::kFailedPrecondition);
  closer.join();
  outbox.put(BlockOf(0, 1), Bytes(10));
  EXPECT_FALSE(outbox.has_room());
  EXPECT_EQ(outbox.stats().waiting_bytes, 0);
}

/// Of which only the cache is asked: a copy of a block is its id.
class CacheAlone final : public BackendSession {
 public:
  absl::Status embed(std::span<const int32_t>, MatView<float>) override { return no(); }
  absl::Status forward(const StageStep&, MatView<float>) override { return no(); }
  absl::Status head(MatView<const float>, int64_t) override { return no(); }
  absl::StatusOr<SampledToken> sample(int64_t, const TokenDraw&) override { return no(); }
  absl::StatusOr<SampledToken> score(int64_t, const TokenScore&) override { return no(); }
  absl::Status read_hidden(MatView<const float>, MatView<float>) override { return no(); }
  absl::Status read_logits(MatView<const float>, MatView<float>) override { return no(); }
  bool holds(LayerId, ExpertId) const override { return false; }
  absl::Status run_experts(LayerId, const ExpertRows&, std::span<const ExpertCall>,
                           MatView<int64_t>) override {
    return no();
  }
  absl::Status run_expert(LayerId, ExpertId, const ExpertRows&, MatView<float>) override { return no(); }
  void add_sums(MatView<const int64_t>, MatView<float>) override {}
  int64_t kv_saturated() const override { return 0; }
  int64_t scratch_bytes() const override { return 0; }
  absl::Status export_cached(const CachePlace& place, const ImageId&, std::vector<std::byte>& out) override {
    const SlotId* slot = std::get_if<SlotId>(&place);
    if (slot != nullptr && slot->value == lost_slot) return no();
    out = Bytes(bytes_each);
    exported.push_back(slot != nullptr ? 100 + slot->value : std::get<BlockId>(place).value);
    return absl::OkStatus();
  }

  std::vector<int32_t> exported;
  size_t bytes_each = 10;
  int32_t lost_slot = -1;

 private:
  static absl::Status no() { return Unimplemented("a cache alone"); }
};

class KvCopierTest : public ::testing::Test {
 protected:
  static Step order(std::vector<CachedPlace> copies) {
    Step step;
    step.copies = std::move(copies);
    return step;
  }
  /// Of tokens at positions [first, end) of a sequence with the blocks 5, 6, 7.
  static Step write(int32_t first, int32_t end) {
    Step step;
    SeqSlice slice;
    slice.position = first;
    slice.tokens.resize(static_cast<size_t>(end - first));
    slice.blocks = {BlockId{5}, BlockId{6}, BlockId{7}};
    slice.state_to = {{end, SlotId{3}}};
    step.slices.push_back(std::move(slice));
    return step;
  }

  CacheAlone cache_;
  const std::shared_ptr<CopyOutbox> outbox_ = std::make_shared<CopyOutbox>(100, nullptr);
  KvCopier copier_{cache_, {}, outbox_};
};

TEST_F(KvCopierTest, CopiesWhatStepsOrderInTheirOrder) {
  copier_.begin_step(order({BlockOf(5, 1), BlockOf(2, 2)}));
  copier_.begin_step(order({BlockOf(9, 3), {SlotId{1}, {1, 1}, 32, 4}}));
  copier_.copy_some();
  EXPECT_THAT(cache_.exported, ElementsAre(5, 2, 9, 101));
  EXPECT_FALSE(copier_.can_copy());
}

TEST_F(KvCopierTest, NeverCopiesWhatALaterStepWritesTo) {
  copier_.begin_step(
      order({BlockOf(5, 1), BlockOf(6, 2), BlockOf(7, 3), {SlotId{3}, {1, 1}, 32, 4}, BlockOf(8, 5)}));
  copier_.begin_step(write(40, 65));  // The second and the third block.
  copier_.copy_some();
  EXPECT_THAT(cache_.exported, ElementsAre(5, 8));
}

TEST_F(KvCopierTest, NeverCopiesWhatIsBeingRestored) {
  copier_.begin_step(order({BlockOf(5, 1), BlockOf(6, 2), {SlotId{3}, {1, 1}, 32, 4}}));
  Step restore;
  restore.restores.push_back({.blocks = {BlockId{6}}, .states = {{32, SlotId{3}}}});
  copier_.begin_step(restore);
  copier_.copy_some();
  EXPECT_THAT(cache_.exported, ElementsAre(5));
}

TEST_F(KvCopierTest, CopiesOnceWhatIsOrderedAgainAfterItWasWritten) {
  copier_.begin_step(order({BlockOf(5, 1)}));
  copier_.begin_step(write(0, 32));
  copier_.begin_step(order({BlockOf(5, 2)}));
  copier_.copy_some();
  EXPECT_THAT(cache_.exported, ElementsAre(5));
  const auto copies = outbox_->next(0, 1000, Deadline::after(kPatience));
  ASSERT_TRUE(copies.ok());
  EXPECT_EQ(copies->front()->place.entry, 2u);
}

TEST_F(KvCopierTest, WaitsForRoomAndLeavesOutAStateThatIsGone) {
  cache_.lost_slot = 1;
  cache_.bytes_each = 60;
  copier_.begin_step(order({{SlotId{1}, {1, 1}, 32, 4}, BlockOf(1, 1), BlockOf(2, 2), BlockOf(3, 3)}));
  copier_.copy_some();
  EXPECT_THAT(cache_.exported, ElementsAre(1, 2));  // The second one fills it.
  EXPECT_FALSE(copier_.can_copy());
  copier_.copy_some();
  EXPECT_THAT(cache_.exported, ElementsAre(1, 2));
  ASSERT_TRUE(outbox_->next(2, 1, Deadline::after_ms(0)).ok());
  EXPECT_TRUE(copier_.can_copy());
  copier_.copy_some();
  EXPECT_THAT(cache_.exported, ElementsAre(1, 2, 3));
}

}  // namespace
}  // namespace shoal
