#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(MinimaxM3Text, HasTheBitsOfTheModelAroundIt) { ExpectTheTextModelAloneHasTheSameBits("minimax_m3_vl"); }

std::vector<std::string> PlacesOf(const WeightRef& ref) {
  std::vector<std::string> names;
  for (const WeightSource& source : ref.sources) names.push_back(source.name());
  return names;
}

TEST(MinimaxM3Text, TensorsMayHaveTheNamesThatTheReferenceSaves) {
  using ::testing::Contains;
  const ModelSpec spec = SpecWith("minimax_m3_vl_text", "use_cache", "true");
  const IndexerSpec& indexer = std::get<GqaSpec>(spec.layers[1].mixer).picks->indexer;
  EXPECT_THAT(PlacesOf(indexer.q.weight), Contains("model.layers.1.self_attn.indexer.q_proj.weight"));
  EXPECT_THAT(PlacesOf(indexer.k_norm.weight), Contains("model.layers.1.self_attn.indexer.k_norm.weight"));
  EXPECT_EQ(indexer.k_norm.weight.sources[1].offset, 1);
  const MoeSpec& moe = *MoeOf(spec.layers[1]);
  EXPECT_THAT(PlacesOf(moe.router.linear.weight), Contains("model.layers.1.mlp.gate.weight"));
  EXPECT_THAT(PlacesOf(*moe.router.selection_bias),
              Contains("model.layers.1.mlp.gate.e_score_correction_bias"));
  EXPECT_THAT(PlacesOf(moe.experts[3].up.weight), Contains("model.layers.1.mlp.experts.gate_up_proj"));
  EXPECT_THAT(PlacesOf(moe.shared->up.weight),
              Contains("model.layers.1.mlp.shared_experts.gate_up_proj.weight"));
  EXPECT_EQ(moe.shared->up.weight.sources.back().rows, (Range{320, 640}));
  const DenseSpec& dense = *DenseOf(spec.layers[0]);
  EXPECT_THAT(PlacesOf(dense.gate.weight), Contains("model.layers.0.mlp.gate_up_proj.weight"));
}

}  // namespace
}  // namespace shoal
