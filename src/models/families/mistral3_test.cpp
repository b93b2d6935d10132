#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;

TEST(Mistral3, MatchesTheReference) { ExpectGoldensMatch("mistral3"); }

std::vector<std::string> Names(const WeightRef& ref) {
  std::vector<std::string> names;
  for (const WeightSource& source : ref.sources) names.push_back(source.name());
  return names;
}

TEST(Mistral3, TheTextModelLiesWhereTheHubAndMlxHaveItOrWhereNewerSavesPutIt) {
  const ModelSpec spec = SpecWith("mistral3", "architectures", "[]");
  EXPECT_EQ(spec.model_type, "mistral3");
  EXPECT_THAT(Names(spec.final_norm.weight),
              ElementsAre("language_model.model.norm.weight", "model.language_model.norm.weight"));
  EXPECT_THAT(Names(spec.head.weight), ElementsAre("language_model.lm_head.weight", "lm_head.weight"));
}

TEST(Mistral3, TheTextModelIsOneOfThree) {
  const auto of = [](const char* type) {
    return SpecWith("mistral3", {{"text_config.model_type", type}, {"text_config.rope_theta", "1000000.0"}});
  };
  EXPECT_EQ(std::get<GqaSpec>(of(R"("ministral3")").layers[0].mixer).temperature.beta, 0.1);
  EXPECT_EQ(std::get<GqaSpec>(of(R"("mistral")").layers[0].mixer).temperature.beta, 0);
  EXPECT_EQ(std::get<GqaSpec>(of("").layers[0].mixer).temperature.beta, 0);
  ExpectConfigRefused("mistral3", "text_config.model_type", R"("llama")",
                      R"(expected "mistral" or "ministral3" or "mistral4", found "llama")");
  ExpectConfigRefused("mistral3", "text_config", "", "text_config");
}

TEST(Mistral3, TheHeadIsTiedWhereEitherConfigSaysSo) {
  constexpr char kText[] = "text_config.tie_word_embeddings";
  EXPECT_FALSE(SpecWith("mistral3", {{kText, ""}}).tied_head);
  EXPECT_TRUE(SpecWith("mistral3", {{kText, ""}, {"tie_word_embeddings", "true"}}).tied_head);
  EXPECT_TRUE(SpecWith("mistral3", {{kText, "true"}}).tied_head);
}

}  // namespace
}  // namespace shoal
