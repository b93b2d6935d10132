#include "cluster/kv_buddy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <map>
#include <mutex>
#include <string>

#include "base/status.h"
#include "kv/kv_cache.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

constexpr Duration kPatience = std::chrono::seconds(20);
constexpr uint64_t kGiver = 9;
const BlockKey kIdentity{3, 4};

/// The layers [2, 4) of a node: attention, and a recurrent one.
class CopyShelfTest : public ::testing::Test {
 protected:
  CopyShelfTest() {
    shelf_->begin(kGiver);
    shelf_->limit("x", int64_t{1} << 30);
  }

  static CachedPlace block(int32_t id, uint64_t entry, uint64_t key = 5) {
    return {BlockId{id}, {key, 0}, 32, entry};
  }
  std::vector<std::byte> images_of(const CachedPlace& place) {
    std::vector<std::byte> images;
    if (const SlotId* slot = std::get_if<SlotId>(&place.place))
      cache_->set_state_position(*slot, place.position);
    EXPECT_EQ(ExportImages(*cache_, place.place, {kIdentity, place.key, place.position}, images),
              absl::OkStatus());
    return images;
  }
  absl::Status put(const CachedPlace& place) { return shelf_->put("x", place, images_of(place)); }
  /// Layers and positions of the images that are given.
  absl::StatusOr<std::vector<std::pair<int32_t, uint64_t>>> given(std::vector<CachedPlace> places,
                                                                  Range layers = {2, 4},
                                                                  uint64_t giver = kGiver,
                                                                  const std::string& of = "x") {
    std::vector<std::pair<int32_t, uint64_t>> all;
    const absl::Status status =
        shelf_->give({giver, kIdentity, layers, std::move(places), of}, Deadline::after(kPatience),
                     [&](std::span<const std::byte> images) -> absl::Status {
                       while (!images.empty()) {
                         ASSIGN_OR_RETURN(const ImageView view, ParseImage(images));
                         all.emplace_back(view.layer.value, view.id.key.high);
                         images = images.subspan(static_cast<size_t>(view.bytes));
                       }
                       return absl::OkStatus();
                     });
    RETURN_IF_ERROR(status);
    return all;
  }

  const std::unique_ptr<KvCache> cache_ =
      *KvCache::Create({2, 5}, {{1, 16}, {0, 0, 64}, {1, 16}}, DType::kF16, 4, 4);
  const std::shared_ptr<CopyShelf> shelf_ = std::make_shared<CopyShelf>();
};

TEST_F(CopyShelfTest, GivesWhatItHasOfTheLayersThatAreAskedFor) {
  ASSERT_EQ(put(block(1, 1, 5)), absl::OkStatus());
  ASSERT_EQ(put({SlotId{1}, {5, 0}, 32, 2}), absl::OkStatus());
  EXPECT_THAT(*given({block(1, 1, 5), {SlotId{1}, {5, 0}, 32, 2}, block(2, 3, 6)}, {2, 5}),
              ElementsAre(Pair(2, 5u), Pair(4, 5u), Pair(3, 5u)));
  EXPECT_THAT(*given({block(1, 1, 5), {SlotId{1}, {5, 0}, 32, 2}}, {2, 3}), ElementsAre(Pair(2, 5u)));
  EXPECT_EQ(shelf_->stats().places, 2);
}

TEST_F(CopyShelfTest, TextsWithTheSameKeyAreToldApartByTheirNumbers) {
  ASSERT_EQ(put(block(1, 1)), absl::OkStatus());
  EXPECT_THAT(*given({block(1, 2)}), IsEmpty());
  EXPECT_THAT(*given({block(1, 0)}), IsEmpty());
  ASSERT_EQ(put(block(1, 2)), absl::OkStatus());
  EXPECT_THAT(*given({block(1, 1)}), IsEmpty());  // One place holds one thing.
  EXPECT_THAT(*given({block(1, 2)}), ElementsAre(Pair(2, 5u)));
}

TEST_F(CopyShelfTest, WhatOneCoordinatorNumberedIsNothingToAnother) {
  ASSERT_EQ(put(block(1, 1)), absl::OkStatus());
  EXPECT_EQ(given({block(1, 1)}, {2, 4}, kGiver + 1).status().code(), absl::StatusCode::kFailedPrecondition);
  shelf_->begin(kGiver + 1);
  shelf_->limit("x", 1 << 20);
  EXPECT_THAT(*given({block(1, 1)}, {2, 4}, kGiver + 1), IsEmpty());
}

TEST_F(CopyShelfTest, BeyondItsLimitWhatCameFirstGoes) {
  const auto each = std::ssize(images_of(block(1, 1)));
  shelf_->limit("x", 2 * each);
  for (int32_t i = 0; i < 4; ++i) ASSERT_EQ(put(block(i, static_cast<uint64_t>(10 + i))), absl::OkStatus());
  EXPECT_THAT(*given({block(0, 10), block(1, 11)}), IsEmpty());
  EXPECT_EQ(given({block(2, 12), block(3, 13)})->size(), 2u);
  EXPECT_EQ(shelf_->stats().bytes, 2 * each);
  EXPECT_EQ(shelf_->stats().evicted, 2);
}

TEST_F(CopyShelfTest, ALowerLimitTakesNothingAwayBeforeTheFirstWork) {
  const auto each = std::ssize(images_of(block(1, 1)));
  for (int32_t i = 0; i < 3; ++i) ASSERT_EQ(put(block(i, static_cast<uint64_t>(10 + i))), absl::OkStatus());
  shelf_->limit("x", each);  // With the order to open, when its layers' new owner may yet ask.
  EXPECT_EQ(given({block(0, 10), block(1, 11), block(2, 12)})->size(), 3u);
  const std::vector<std::string> followed = {"x"};
  shelf_->keep_only(followed);
  EXPECT_THAT(*given({block(0, 10), block(1, 11)}), IsEmpty());
  EXPECT_EQ(shelf_->stats().bytes, each);
}

TEST_F(CopyShelfTest, BeyondItsCapWhatCameFirstGoesWhoseverItIs) {
  const std::vector<std::byte> images = images_of(block(1, 1));
  const auto each = std::ssize(images);
  shelf_->limit("y", 9 * each);
  for (uint64_t i = 0; i < 3; ++i) {
    ASSERT_EQ(put(block(static_cast<int32_t>(i), 10 + i)), absl::OkStatus());
    const CachedPlace place = block(static_cast<int32_t>(i), 20 + i);
    ASSERT_EQ(shelf_->put("y", place, images_of(place)), absl::OkStatus());
  }
  shelf_->cap(3 * each);
  EXPECT_EQ(shelf_->stats().bytes, 3 * each);
  EXPECT_EQ(shelf_->stats().evicted, 3);
  EXPECT_EQ(given({block(0, 10), block(1, 11), block(2, 12)})->size(), 1u);
  EXPECT_EQ(given({block(0, 20), block(1, 21), block(2, 22)}, {2, 4}, kGiver, "y")->size(), 2u);
  EXPECT_TRUE(shelf_->takes("y"));
  shelf_->cap(0);
  EXPECT_EQ(shelf_->stats().bytes, 0);
  EXPECT_FALSE(shelf_->takes("y"));
  ASSERT_EQ(put(block(1, 30)), absl::OkStatus());
  EXPECT_EQ(shelf_->stats().bytes, 0);
  shelf_->cap(2 * each);  // There is room again.
  ASSERT_EQ(put(block(1, 31)), absl::OkStatus());
  EXPECT_EQ(shelf_->stats().bytes, each);
  EXPECT_FALSE(shelf_->takes("z"));
}

TEST_F(CopyShelfTest, ADamagedImageOrOneOfAnotherPlaceLeavesNothing) {
  std::vector<std::byte> damaged = images_of(block(1, 1));
  damaged.back() ^= std::byte{1};
  EXPECT_EQ(shelf_->put("x", block(1, 1), damaged).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(shelf_->put("x", block(1, 1, 6), images_of(block(1, 1, 5))).code(),
            absl::StatusCode::kInvalidArgument);
  CachedPlace state = block(1, 1);
  state.place = SlotId{1};
  EXPECT_EQ(shelf_->put("x", state, images_of(block(1, 1))).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(shelf_->stats().places, 0);
  EXPECT_EQ(shelf_->stats().bytes, 0);
}

TEST_F(CopyShelfTest, NodesThatAreNotFollowedAnyMoreLeaveNothing) {
  ASSERT_EQ(put(block(1, 1)), absl::OkStatus());
  const std::vector<std::string> others = {"y"};
  shelf_->keep_only(others);
  EXPECT_EQ(shelf_->stats().bytes, 0);
  ASSERT_EQ(put(block(1, 1)), absl::OkStatus());  // Comes too late.
  EXPECT_EQ(shelf_->stats().bytes, 0);
  EXPECT_EQ(given({block(1, 1)}).status().code(), absl::StatusCode::kFailedPrecondition);
}

/// Gives what is put into it, and fails in between.
class TestSource final : public CopySource {
 public:
  absl::Status fetch(uint64_t after, Deadline, TakeCopies take) override {
    std::unique_lock lock(mutex_);
    acknowledged = after;
    changed_.notify_all();
    if (cancelled_) return Cancelled("no more");
    if (failures-- > 0) return Unavailable("not yet");
    changed_.wait_for(lock, std::chrono::milliseconds(1), [this] { return cancelled_; });
    for (const auto& [number, copy] : copies) {
      if (number <= after) continue;
      RETURN_IF_ERROR(take({number, copy.first, true, copy.second}));
    }
    return absl::OkStatus();
  }
  void cancel() override {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    changed_.notify_all();
  }
  bool wait_for(uint64_t number) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kPatience, [&] { return acknowledged >= number; });
  }

  std::map<uint64_t, std::pair<CachedPlace, std::vector<std::byte>>> copies;
  int failures = 0;
  uint64_t acknowledged = 0;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool cancelled_ = false;
};

TEST_F(CopyShelfTest, AFollowerGoesOnAfterFailuresAndDamagedCopies) {
  auto source = std::make_unique<TestSource>();
  TestSource& copies = *source;
  copies.failures = 2;
  copies.copies[1] = {block(0, 1), images_of(block(0, 1))};
  copies.copies[2] = {block(1, 2), {std::byte{1}}};
  copies.copies[3] = {block(2, 3), images_of(block(2, 3))};
  {
    const CopyFollower follower({"x", 1 << 20, std::move(source)}, shelf_, {"x"});
    EXPECT_TRUE(copies.wait_for(3));
  }
  EXPECT_THAT(*given({block(0, 1), block(1, 2), block(2, 3)}), ElementsAre(Pair(2, 5u), Pair(2, 5u)));
}

Plan PlanOf(const std::vector<std::pair<std::string, Range>>& stages) {
  Plan plan;
  for (const auto& [name, layers] : stages) {
    const NodeId id{static_cast<int32_t>(plan.nodes.size())};
    plan.nodes.push_back({name, ""});
    if (!layers.empty()) plan.stages.push_back({id, layers});
  }
  return plan;
}

TEST(LayerSupplies, ANodeThatIsGoneIsSuppliedByItsBuddyAndOthersByThemselves) {
  const Plan last = PlanOf({{"a", {0, 2}}, {"b", {2, 4}}, {"c", {4, 6}}, {"d", {0, 0}}});
  const Plan next = PlanOf({{"a", {0, 3}}, {"c", {3, 5}}, {"d", {5, 6}}});
  const auto supplies =
      LayerSupplies(last, next, {true, false, true, true}, {NodeId{-1}, NodeId{3}, NodeId{-1}, NodeId{-1}});
  ASSERT_TRUE(supplies.has_value());
  EXPECT_THAT(*supplies, ElementsAre(LayerSupply{NodeId{0}, NodeId{1}, {2, 3}, NodeId{3}},
                                     LayerSupply{NodeId{1}, NodeId{1}, {3, 4}, NodeId{3}},
                                     LayerSupply{NodeId{2}, NodeId{2}, {5, 6}}));
}

TEST(LayerSupplies, ANodeThatBeganAnewGetsItsLayersFromItsBuddy) {
  const Plan plan = PlanOf({{"a", {0, 2}}, {"b", {2, 4}}});
  EXPECT_THAT(*LayerSupplies(plan, plan, {true, false}, {NodeId{-1}, NodeId{0}}),
              ElementsAre(LayerSupply{NodeId{1}, NodeId{1}, {2, 4}, NodeId{0}}));
  EXPECT_THAT(*LayerSupplies(plan, plan, {true, true}, {NodeId{-1}, NodeId{0}}), IsEmpty());
}

TEST(LayerSupplies, WithoutABuddyOrWithOneThatIsGoneTooThereIsNothing) {
  const Plan plan = PlanOf({{"a", {0, 2}}, {"b", {2, 4}}, {"c", {0, 0}}});
  EXPECT_EQ(LayerSupplies(plan, plan, {true, false, true}, {NodeId{-1}, NodeId{-1}, NodeId{-1}}),
            std::nullopt);
  EXPECT_EQ(LayerSupplies(plan, plan, {true, false, false}, {NodeId{-1}, NodeId{2}, NodeId{-1}}),
            std::nullopt);
}

}  // namespace
}  // namespace shoal
