#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(HunyuanV1Moe, MatchesTheReference) { ExpectGoldensMatch("hunyuan_v1_moe"); }

TEST(HunyuanV1Moe, ListsOfOneValuePerLayerAreThatValue) {
  const MoeSpec moe = *MoeOf(SpecWith("hunyuan_v1_moe", "moe_topk", "4").layers[2]);
  EXPECT_EQ(moe.top_k, 4);
  EXPECT_EQ(moe.router.linear.weight.sources[0].name(), "model.layers.2.mlp.gate.wg.weight");
  EXPECT_EQ(moe.shared->up.weight.sources[0].name(), "model.layers.2.mlp.shared_mlp.up_proj.weight");
  ExpectConfigRefused("hunyuan_v1_moe", "moe_topk", "[3, 3, 3, 2, 3, 3, 3]", "the same in all layers");
  ExpectConfigRefused("hunyuan_v1_moe", "moe_topk", "14", "moe_topk");
}

TEST(HunyuanV1Moe, RefusesWhatTheReferenceDoesNotRead) {
  ExpectConfigRefused("hunyuan_v1_moe", "moe_intermediate_size", "[256]", "moe_intermediate_size");
  ExpectConfigRefused("hunyuan_v1_moe", "num_shared_expert", "2", "num_shared_expert");
  ExpectConfigRefused("hunyuan_v1_moe", "moe_layer_num_skipped", "1", "moe_layer_num_skipped");
}

}  // namespace
}  // namespace shoal
