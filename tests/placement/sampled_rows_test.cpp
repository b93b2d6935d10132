// Several rows of a slice can be sampled at once, which is what verifying drafts needs: each row gives the token
// that decoding one token at a time gives, penalties and seeds included, and rejected drafts leave nothing behind.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/status.h"
#include "convert/testing/checkpoints.h"
#include "placement/placed_cluster.h"
#include "placement/placed_sequence.h"

namespace shoal {
namespace {

/// Every id that is drawn matters to the next draws.
SamplingParams Penalised() {
  return {.temperature = 1.5f,
          .top_p = 0.95f,
          .repetition_penalty = 1.3f,
          .presence_penalty = 0.7f,
          .frequency_penalty = 0.4f,
          .seed = 5,
          .top_logprobs = 1};
}

/// Of a family.
class SampledRowsTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto model = OpenModel(TinyCheckpoint(GetParam()));
    ASSERT_TRUE(model.ok()) << ToString(model.status());
    model_ = std::move(*model);
    for (int32_t i = 0; i < 29; ++i) prompt_.push_back((i * i + 3) % 100);
    PlacedCluster cluster(model_, Placements()[0]);
    Sequence sequence = fresh(cluster);
    for (int i = 0; i < 8; ++i) {
      const auto got = sample(cluster, sequence, sequence.slice());
      ASSERT_EQ(got.size(), 1u);
      one_by_one_.push_back(got[0]);
      sequence.tokens.push_back(got[0].id);
    }
  }

  Sequence fresh(const PlacedCluster& cluster) const { return {1, 0, prompt_, cluster.limits()}; }

  static std::vector<SampledToken> sample(PlacedCluster& cluster, const Sequence& sequence, SeqSlice slice) {
    Step step;
    if (slice.position == 0) step.begins = {sequence.begin(Penalised())};
    step.slices = {std::move(slice)};
    const auto result = cluster.submit(std::move(step)).get();
    if (!result.ok() || result->sequences.size() != 1) {
      ADD_FAILURE() << ToString(result.status());
      return {};
    }
    EXPECT_EQ(result->sequences[0].status, absl::OkStatus());
    return result->sequences[0].tokens;
  }

  OpenedModel model_;
  std::vector<int32_t>
      prompt_;  // The answer leaves the first block, and the windows of those that have them.
  std::vector<SampledToken> one_by_one_;
};

TEST_P(SampledRowsTest, DraftsThatAreTrueGiveTheTokensOfDecodingOneByOne) {
  for (const Placed& placed : Placements()) {
    PlacedCluster cluster(model_, placed);
    const Sequence sequence = fresh(cluster);
    Sequence ahead = fresh(cluster);  // All but the last token are known.
    for (size_t i = 0; i + 1 < one_by_one_.size(); ++i) ahead.tokens.push_back(one_by_one_[i].id);
    SeqSlice slice = ahead.slice();
    slice.sample_from = static_cast<int32_t>(prompt_.size()) - 1;
    EXPECT_EQ(sample(cluster, sequence, std::move(slice)), one_by_one_) << placed.name;
  }
}

TEST_P(SampledRowsTest, RejectedDraftsLeaveNothingBehind) {
  for (const Placed& placed : Placements()) {
    PlacedCluster cluster(model_, placed);
    Sequence sequence = fresh(cluster);
    ASSERT_EQ(sample(cluster, sequence, sequence.slice()), std::vector{one_by_one_[0]});
    // One true draft, then an id that comes later, twice: were it remembered, penalties would keep it away.
    const auto other =
        std::ranges::find_if(one_by_one_.begin() + 3, one_by_one_.end(),
                             [&](const SampledToken& one) { return one.id != one_by_one_[2].id; });
    const int32_t later = other != one_by_one_.end() ? other->id : (one_by_one_[2].id + 1) % 100;
    sequence.tokens.push_back(one_by_one_[0].id);
    const auto verified = sample(cluster, sequence, sequence.slice({{one_by_one_[1].id, later, later}}));
    ASSERT_EQ(verified.size(), 4u);
    EXPECT_EQ(verified[0], one_by_one_[1]);
    EXPECT_EQ(verified[1], one_by_one_[2]);
    sequence.tokens.push_back(one_by_one_[1].id);
    sequence.cursor.go_back_to(std::ssize(sequence.tokens));
    for (size_t i = 2; i < 7; ++i) {
      sequence.tokens.push_back(one_by_one_[i].id);
      EXPECT_EQ(sample(cluster, sequence, sequence.slice()), std::vector{one_by_one_[i + 1]}) << placed.name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, SampledRowsTest, testing::ValuesIn(FamiliesToSweep()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace shoal
