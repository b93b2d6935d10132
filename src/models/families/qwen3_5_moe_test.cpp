#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"
#include "convert/testing/checkpoints.h"
#include "loading/footprint.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

ModelSpec Usual() { return SpecWith("qwen3_5_moe", "text_config.use_cache", "true"); }

TEST(Qwen35Moe, MatchesTheReference) { ExpectGoldensMatch("qwen3_5_moe"); }

TEST(Qwen35Moe, LayersAttendWhereTheConfigSaysSo) {
  const auto attending = [](const ModelSpec& spec) {
    std::vector<int> layers;
    for (int i = 0; i < 7; ++i) {
      const LayerSpec& layer = spec.layers[static_cast<size_t>(i)];
      EXPECT_EQ(std::holds_alternative<GqaSpec>(layer.mixer), CacheShapeOf(layer.mixer).state_values == 0);
      if (std::holds_alternative<GqaSpec>(layer.mixer)) layers.push_back(i);
    }
    return layers;
  };
  EXPECT_THAT(attending(Usual()), ElementsAre(2, 5));
  // Without a list every full_attention_interval-th.
  EXPECT_THAT(attending(SpecWith("qwen3_5_moe", {{"text_config.layer_types", ""},
                                                 {"text_config.full_attention_interval", "4"}})),
              ElementsAre(3));
}

TEST(Qwen35Moe, NamesAreTheHubsOrThoseOfMlx) {
  const ModelSpec spec = Usual();
  const auto names = [](const WeightRef& ref) {
    std::vector<std::string> all;
    for (const WeightSource& source : ref.sources) all.push_back(source.name());
    return all;
  };
  const GatedDeltaNetSpec& delta = std::get<GatedDeltaNetSpec>(spec.layers[0].mixer);
  EXPECT_THAT(names(delta.decay_log),
              ElementsAre("model.language_model.layers.0.linear_attn.A_log",
                          "language_model.model.layers.0.linear_attn.A_log",
                          "model.language_model.layers.0.linear_attn.minus_exp_A_log",
                          "language_model.model.layers.0.linear_attn.minus_exp_A_log"));
  const DenseSpec& expert = MoeOf(spec.layers[0])->experts[3];
  EXPECT_THAT(names(expert.up.weight),
              ElementsAre("model.language_model.layers.0.mlp.experts.gate_up_proj",
                          "language_model.model.layers.0.mlp.switch_mlp.up_proj.weight"));
  EXPECT_EQ(expert.up.weight.sources[0].rows, (Range{320, 640}));
  EXPECT_THAT(names(spec.head.weight), ElementsAre("lm_head.weight", "language_model.lm_head.weight"));
}

TEST(Qwen35Moe, NormsAreZeroCentredOnTheHubButThatOfTheDeltaRule) {
  const ModelSpec spec = Usual();
  const auto offsets = [](const NormSpec& norm) {
    return std::pair(norm.weight.sources[0].offset, norm.weight.sources[1].offset);
  };
  EXPECT_THAT(offsets(*spec.layers[0].mixer_norm), Pair(1, 0));
  EXPECT_THAT(offsets(*spec.layers[0].feed_forward_norm), Pair(1, 0));
  EXPECT_THAT(offsets(*std::get<GqaSpec>(spec.layers[2].mixer).q_norm), Pair(1, 0));
  EXPECT_THAT(offsets(spec.final_norm), Pair(1, 0));
  EXPECT_THAT(offsets(std::get<GatedDeltaNetSpec>(spec.layers[0].mixer).norm), Pair(0, 0));
}

TEST(Qwen35Moe, WhatIsNotBuiltIsRefusedByKeyAndValue) {
  const auto refused = [](const std::string& key, const char* value, const char* message) {
    ExpectConfigRefused("qwen3_5_moe", "text_config." + key, value, message);
  };
  refused(
      "layer_types", R"(["linear_attention", "sliding_attention", "full_attention", "full_attention",
    "full_attention", "full_attention", "full_attention"])",
      R"('text_config.layer_types': expected "full_attention" or "linear_attention", found "sliding_attention")");
  refused("layer_types", R"(["full_attention"])", "expected one for each of 7 layers, found 1");
  refused("hidden_act", R"("gelu")", R"(expected "silu", found "gelu")");
  refused("attn_output_gate", "false", "expected true, found false");
  refused("mlp_only_layers", "[3]", "expected [], found [3]");
  refused("mamba_ssm_dtype", R"("bfloat16")", R"(expected "float32", found "bfloat16")");
  refused("linear_num_value_heads", "6", "expected a multiple of linear_num_key_heads = 4, found 6");
  refused("linear_conv_kernel_dim", "0", "linear_conv_kernel_dim");
  refused("rope_parameters", R"({"rope_theta": 1e7, "partial_rotary_factor": 0.25, "rope_type": "dynamic"})",
          "found \"dynamic\"");
  refused("rope_parameters", R"({"rope_theta": 1e7})", "partial_rotary_factor");
  for (const char* key : {"linear_key_head_dim", "linear_value_head_dim", "linear_num_key_heads",
                          "linear_conv_kernel_dim", "shared_expert_intermediate_size", "num_experts"}) {
    refused(key, "", key);
  }
  ExpectConfigRefused("qwen3_5_moe", "text_config", "", "text_config");
}

TEST(Qwen35Moe, TensorsOfImagesAndOfGuessingAheadAreIgnoredByName) {
  const TempFolder folder;
  CopyCheckpoint(TinyCheckpoint("qwen3_5_moe"), folder.path(), [](std::vector<EditableTensor>& tensors) {
    for (const char* name : {"model.visual.patch_embed.proj.weight", "model.visual.pos_embed.weight",
                             "mtp.fc.weight", "model.language_model.layers.0.linear_attn.other"}) {
      tensors.push_back({name, DType::kF32, {2}, std::vector<std::byte>(8)});
    }
  });
  const auto weights = ResolvedWeights::Create(*Checkpoint::Open(folder.path()), Usual());
  ASSERT_TRUE(weights.ok()) << weights.status();
  const Footprint footprint = MeasureFootprint(**weights);
  EXPECT_THAT(footprint.ignored_tensors,
              ElementsAre(Pair("the vision tower", 2), Pair("unused heads for multi-token prediction", 1)));
  EXPECT_THAT(footprint.unused_tensors, ElementsAre("model.language_model.layers.0.linear_attn.other"));
}

}  // namespace
}  // namespace shoal
