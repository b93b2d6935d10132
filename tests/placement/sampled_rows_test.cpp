// Several rows of a slice can be sampled at once, which is what verifying drafts needs: each row gives the token
// that decoding one token at a time gives, penalties and seeds included, and rejected drafts leave nothing behind.
#include <gtest/gtest.h>

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

class SampledRowsTest : public testing::Test {
 protected:
  void SetUp() override {
    auto model = OpenModel(TinyCheckpoint("qwen3_moe"));
    ASSERT_TRUE(model.ok()) << ToString(model.status());
    model_ = std::move(*model);
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
  const std::vector<int32_t> prompt_ = {3, 17, 3, 29, 200, 17, 3};
  std::vector<SampledToken> one_by_one_;
};

TEST_F(SampledRowsTest, DraftsThatAreTrueGiveTheTokensOfDecodingOneByOne) {
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

TEST_F(SampledRowsTest, RejectedDraftsLeaveNothingBehind) {
  for (const Placed& placed : Placements()) {
    PlacedCluster cluster(model_, placed);
    Sequence sequence = fresh(cluster);
    ASSERT_EQ(sample(cluster, sequence, sequence.slice()), std::vector{one_by_one_[0]});
    // One true draft, then the id that comes later, twice: were it remembered, penalties would keep it away.
    const int32_t later = one_by_one_[3].id;
    ASSERT_NE(later, one_by_one_[2].id);
    sequence.tokens.insert(sequence.tokens.end(), {one_by_one_[0].id, one_by_one_[1].id, later, later});
    SeqSlice slice = sequence.slice();
    slice.sample_from = 0;
    const auto verified = sample(cluster, sequence, std::move(slice));
    ASSERT_EQ(verified.size(), 4u);
    EXPECT_EQ(verified[0], one_by_one_[1]);
    EXPECT_EQ(verified[1], one_by_one_[2]);
    sequence.tokens.resize(prompt_.size() + 2);
    sequence.cursor.start_at(std::ssize(sequence.tokens), kNoState);
    for (size_t i = 2; i < 7; ++i) {
      sequence.tokens.push_back(one_by_one_[i].id);
      EXPECT_EQ(sample(cluster, sequence, sequence.slice()), std::vector{one_by_one_[i + 1]}) << placed.name;
    }
  }
}

}  // namespace
}  // namespace shoal
