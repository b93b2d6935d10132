#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(SeedOss, MatchesTheReference) { ExpectGoldensMatch("seed_oss"); }

TEST(SeedOss, TheOutputHasABiasOfItsOwn) {
  const auto gqa = [](const char* key, const char* value) {
    return std::get<GqaSpec>(SpecWith("seed_oss", key, value).layers[1].mixer);
  };
  EXPECT_TRUE(gqa("attention_out_bias", "false").q.bias.has_value());
  EXPECT_FALSE(gqa("attention_out_bias", "false").o.bias.has_value());
  EXPECT_TRUE(gqa("attention_out_bias", "true").o.bias.has_value());
  ExpectConfigRefused("seed_oss", "attention_bias", "", "attention_bias");
}

}  // namespace
}  // namespace shoal
