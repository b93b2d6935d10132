#include "models/family.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "base/status.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

ModelSpec TinySpec(const Family& family) {
  const auto config = ModelConfig::Parse(family.tiny(), "config.json");
  EXPECT_TRUE(config.ok()) << config.status();
  auto spec = SpecFor(*config);
  EXPECT_TRUE(spec.ok()) << spec.status();
  return *std::move(spec);
}

TEST(Families, AreThoseOfTheFolder) {
  // long: a line for each family
  std::set<std::string_view> names;
  for (const Family* family : Families()) names.insert(family->model_type);
  EXPECT_EQ(names, (std::set<std::string_view>{"afmoe",
                                               "apertus",
                                               "bailing_hybrid",
                                               "cohere2",
                                               "deepseek",
                                               "deepseek_v2",
                                               "deepseek_v3",
                                               "deepseek_v32",
                                               "deepseek_v4",
                                               "dots1",
                                               "ernie4_5",
                                               "ernie4_5_moe",
                                               "exaone4",
                                               "exaone_moe",
                                               "falcon_h1",
                                               "gemma",
                                               "gemma2",
                                               "gemma3",
                                               "gemma3_text",
                                               "gemma3n",
                                               "gemma3n_text",
                                               "gemma4",
                                               "gemma4_text",
                                               "glm4",
                                               "glm4_moe",
                                               "glm4_moe_lite",
                                               "glm_moe_dsa",
                                               "gpt_oss",
                                               "granite",
                                               "granitemoe",
                                               "granitemoehybrid",
                                               "hunyuan_v1_dense",
                                               "hunyuan_v1_moe",
                                               "jamba",
                                               "kimi_k2",
                                               "kimi_k25",
                                               "kimi_linear",
                                               "lfm2",
                                               "lfm2_moe",
                                               "llama",
                                               "llama4",
                                               "llama4_text",
                                               "longcat_flash",
                                               "mamba2",
                                               "mimo",
                                               "mimo_v2_flash",
                                               "minimax_m2",
                                               "minimax_m3_vl",
                                               "minimax_m3_vl_text",
                                               "ministral3",
                                               "mistral",
                                               "mistral3",
                                               "mistral4",
                                               "mixtral",
                                               "nanochat",
                                               "nemotron_h",
                                               "olmo2",
                                               "olmo3",
                                               "olmoe",
                                               "phi",
                                               "phi3",
                                               "phimoe",
                                               "qwen2",
                                               "qwen2_5_vl",
                                               "qwen2_moe",
                                               "qwen3",
                                               "qwen3_5",
                                               "qwen3_5_moe",
                                               "qwen3_5_moe_text",
                                               "qwen3_5_text",
                                               "qwen3_moe",
                                               "qwen3_next",
                                               "qwen3_vl",
                                               "qwen3_vl_moe",
                                               "seed_oss",
                                               "smollm3",
                                               "solar_open",
                                               "stablelm",
                                               "starcoder2",
                                               "step3p5"}));
}

TEST(Families, OnesThatAreLikeAnotherNameOneWithLayersOfItsOwn) {
  for (const Family* family : Families()) {
    if (family->like.empty()) continue;
    const auto other = FindFamily(family->like);
    ASSERT_TRUE(other.ok()) << family->model_type << ": " << other.status();
    EXPECT_TRUE((*other)->like.empty()) << family->model_type;
  }
}

TEST(Families, AnUnknownModelTypeListsThoseKnown) {
  const auto config = ModelConfig::Parse(R"({"model_type": "mamba"})", "m/config.json");
  ASSERT_TRUE(config.ok());
  const auto spec = SpecFor(*config);
  EXPECT_EQ(spec.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(Message(spec.status()), HasSubstr("m/config.json"));
  EXPECT_THAT(Message(spec.status()),
              HasSubstr("'mamba' is not built; known: afmoe, apertus, bailing_hybrid, "));
}

/// Matrices of single heads are narrow in every model.
bool IsOfOneHead(const ModelSpec& spec, const WeightUse& use) {
  if (use.layer < 0) return false;
  const auto* mla = std::get_if<MlaSpec>(&spec.layers[static_cast<size_t>(use.layer)].mixer);
  if (mla == nullptr) return false;
  return std::ranges::any_of(mla->keys, [&](const LinearSpec& key) { return &key.weight == &use.ref; });
}

TEST(Families, TinyModelsHaveTheShapesThatFindMistakes) {
  for (const Family* family : Families()) {
    SCOPED_TRACE(family->model_type);
    const ModelSpec spec = TinySpec(*family);
    EXPECT_EQ(spec.model_type, family->model_type);
    EXPECT_EQ(spec.layer_count(), spec.carries_addend ? 8 : 7);
    EXPECT_NE(spec.vocabulary % 16, 0);
    bool odd_rows = false;
    ForEachWeight(spec, [&](const WeightUse& use) {
      if (use.ref.shape.size() != 2) return;
      EXPECT_GE(use.ref.shape[1], IsOfOneHead(spec, use) ? 64 : 5 * 64) << use.ref.sources[0].name();
      EXPECT_EQ(use.ref.shape[1] % 64, 0) << use.ref.sources[0].name();
      if (use.layer >= 0 && use.ref.shape[0] % 16 != 0) odd_rows = true;
    });
    EXPECT_TRUE(odd_rows);
    for (const LayerSpec& layer : spec.layers) {
      if (const MoeSpec* moe = MoeOf(layer)) {
        EXPECT_EQ(moe->experts.size(), 13u);
      }
    }
  }
}

TEST(Spec, NamesEveryWeightOnce) {
  for (const Family* family : Families()) {
    const ModelSpec spec = TinySpec(*family);
    std::set<std::string> names;
    ForEachWeight(spec, [&](const WeightUse& use) {
      ASSERT_FALSE(use.ref.sources.empty());
      if (use.role == "head" && spec.tied_head) return;
      const WeightSource& source = use.ref.sources[0];
      const std::string name = fmt::format("{} of {}, from row {} or value {}", source.name(), source.index,
                                           source.rows.begin, source.strided ? source.strided->offset : -1);
      EXPECT_TRUE(names.insert(name).second) << name;
    });
  }
}

}  // namespace
}  // namespace shoal
