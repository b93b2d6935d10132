#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(MinimaxM2, MatchesTheReference) { ExpectGoldensMatch("minimax_m2"); }

TEST(MinimaxM2, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key : {"rotary_dim", "head_dim", "num_local_experts", "use_qk_norm", "use_routing_bias"}) {
    ExpectConfigRefused("minimax_m2", key, "", key);
  }
}

TEST(MinimaxM2, FindsItsTensorsByTheirNames) {
  const ModelSpec spec = SpecWith("minimax_m2", "rotary_dim", "14");
  const GqaSpec& gqa = std::get<GqaSpec>(spec.layers[1].mixer);
  EXPECT_EQ(gqa.rope.dims, 14);
  EXPECT_EQ(gqa.q_norm->weight.shape, std::vector<int64_t>{16 * 28});
  const MoeSpec& moe = *MoeOf(spec.layers[1]);
  EXPECT_EQ(moe.router.selection_bias->sources[0].name(),
            "model.layers.1.block_sparse_moe.e_score_correction_bias");
  EXPECT_EQ(moe.experts[12].down.weight.sources[0].name(),
            "model.layers.1.block_sparse_moe.experts.12.w2.weight");
}

TEST(MinimaxM2, RefusesWhatIsNotBuiltByName) {
  ExpectConfigRefused("minimax_m2", "scoring_func", R"("softmax")", "scoring_func");
  ExpectConfigRefused("minimax_m2", "qk_norm_type", R"("per_head")", "qk_norm_type");
  ExpectConfigRefused("minimax_m2", "shared_intermediate_size", "64", "shared_intermediate_size");
}

}  // namespace
}  // namespace shoal
