#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Glm4MoeLite, MatchesTheReference) { ExpectGoldensMatch("glm4_moe_lite"); }

TEST(Glm4MoeLite, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key : {"kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
                          "first_k_dense_replace", "n_group"}) {
    ExpectConfigRefused("glm4_moe_lite", key, "", key);
  }
}

TEST(Glm4MoeLite, NormsOfLatentsKeepTheirOwnEpsilon) {
  const ModelSpec spec = SpecWith("glm4_moe_lite", "rms_norm_eps", "1e-5");
  EXPECT_EQ(std::get<MlaSpec>(spec.layers[0].mixer).kv_norm.eps, 1e-6f);
  EXPECT_EQ(spec.layers[0].mixer_norm->eps, 1e-5f);
}

}  // namespace
}  // namespace shoal
