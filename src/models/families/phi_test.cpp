#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Phi, MatchesTheReference) { ExpectGoldensMatch("phi"); }

TEST(Phi, AttentionAndMlpStandSideBySideBehindOneLayerNorm) {
  const ModelSpec spec = SpecWith("phi", "use_cache", "true");
  EXPECT_TRUE(spec.layers[3].parallel);
  EXPECT_FALSE(spec.layers[3].feed_forward_norm.has_value());
  EXPECT_TRUE(spec.layers[3].mixer_norm->centered && spec.layers[3].mixer_norm->bias);
  EXPECT_TRUE(spec.final_norm.bias.has_value());
  const GqaSpec& gqa = std::get<GqaSpec>(spec.layers[3].mixer);
  EXPECT_EQ(gqa.o.weight.sources[0].name(), "model.layers.3.self_attn.dense.weight");
  EXPECT_TRUE(gqa.q.bias && gqa.k.bias && gqa.v.bias && gqa.o.bias && spec.head.bias);
  EXPECT_EQ(gqa.rope.dims, 8);
  EXPECT_EQ(DenseOf(spec.layers[3])->activation, Activation::kGelu);
}

TEST(Phi, AShareThatAConfigLacksIsAHalf) {
  EXPECT_EQ(std::get<GqaSpec>(SpecWith("phi", "partial_rotary_factor", "").layers[0].mixer).rope.dims, 10);
}

TEST(Phi, WhatIsNotBuiltIsRefusedByKeyAndValue) {
  ExpectConfigRefused("phi", "hidden_act", R"("gelu")", R"(found "gelu")");
  ExpectConfigRefused("phi", "qk_layernorm", "true", "expected false, found true");
  ExpectConfigRefused("phi", "tie_word_embeddings", "true", "the head has a bias");
  for (const char* key : {"intermediate_size", "hidden_size", "num_hidden_layers", "vocab_size"})
    ExpectConfigRefused("phi", key, "", key);
}

}  // namespace
}  // namespace shoal
