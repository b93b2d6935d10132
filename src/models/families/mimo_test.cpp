#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Mimo, MatchesTheReference) { ExpectGoldensMatch("mimo"); }

TEST(Mimo, IsQwen2WithHeadsThatAreIgnored) {
  const ModelSpec spec = SpecWith("mimo", "use_cache", "true");
  EXPECT_EQ(spec.model_type, "mimo");
  const GqaSpec& gqa = std::get<GqaSpec>(spec.layers[6].mixer);
  EXPECT_TRUE(gqa.q.bias && !gqa.o.bias);
  EXPECT_EQ(spec.ignored_tensors.at(0).first, "model.mtp_layers.");
  EXPECT_FALSE(spec.mtp.has_value());
}

}  // namespace
}  // namespace shoal
