#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Olmo2, MatchesTheReference) { ExpectGoldensMatch("olmo2"); }

TEST(Olmo2, NormsWhatIsAddedAndNotWhatIsRead) {
  const ModelSpec spec = SpecWith("olmo2", "use_cache", "true");
  const LayerSpec& layer = spec.layers[2];
  EXPECT_FALSE(layer.mixer_norm || layer.feed_forward_norm);
  EXPECT_EQ(layer.mixer_out_norm->weight.sources[0].name(), "model.layers.2.post_attention_layernorm.weight");
  EXPECT_EQ(layer.feed_forward_out_norm->weight.sources[0].name(),
            "model.layers.2.post_feedforward_layernorm.weight");
}

TEST(Olmo2, NormsQueriesAndKeysOverAllHeadsTogether) {
  const ModelSpec spec = SpecWith("olmo2", "use_cache", "true");
  const GqaSpec& gqa = std::get<GqaSpec>(spec.layers[0].mixer);
  EXPECT_EQ(gqa.q_norm->weight.shape, std::vector<int64_t>{16 * 28});
  EXPECT_EQ(gqa.k_norm->weight.shape, std::vector<int64_t>{2 * 28});
}

}  // namespace
}  // namespace shoal
