#include "plan/model_list.h"

#include <gmock/gmock.h>

#include "base/status.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string ErrorOf(std::string_view yaml) {
  const auto models = ParseModelList(yaml, ConfigSyntax::kYaml, "/m");
  return models.ok() ? "" : std::string(models.status().message());
}

TEST(ModelList, ReadsAllThatAModelMayHave) {
  const auto models = ParseModelList(R"(models:
  - path: qwen/
  - name: small
    path: /other/small.gguf
    aliases: [tiny, gpt-4o-mini]
    load: start
    pinned: true
    kv_positions: 8192
    sequences: 4
    strategy: memory
    experts: round_robin:2
  - path: ../far
    plan: plans/far.json
    draft_model: ../near
)",
                                     ConfigSyntax::kYaml, "/m");
  ASSERT_TRUE(models.ok()) << models.status();
  ASSERT_EQ(models->size(), 3u);
  EXPECT_EQ((*models)[0].name, "qwen");
  EXPECT_EQ((*models)[0].path, "/m/qwen/");
  EXPECT_FALSE((*models)[0].at_start);
  const DeclaredModel& small = (*models)[1];
  EXPECT_EQ(small.path, "/other/small.gguf");
  EXPECT_THAT(small.aliases, ElementsAre("tiny", "gpt-4o-mini"));
  EXPECT_TRUE(small.at_start && small.pinned);
  EXPECT_EQ(small.kv_positions, 8192);
  EXPECT_EQ(small.sequences, 4);
  EXPECT_EQ(small.strategy, "memory");
  EXPECT_EQ(small.experts, "round_robin:2");
  EXPECT_EQ((*models)[2].path, "/far");
  EXPECT_EQ((*models)[2].plan, "/m/plans/far.json");
  EXPECT_EQ((*models)[2].draft_model, "/near");
}

TEST(ModelList, TheNameIsTheLastPartOfThePath) {
  EXPECT_EQ(NameOfModel("/m/qwen"), "qwen");
  EXPECT_EQ(NameOfModel("qwen//"), "qwen");
  EXPECT_EQ(NameOfModel("/m/q4_0.v2.gguf"), "q4_0.v2");
  EXPECT_EQ(NameOfModel(""), "");
}

TEST(ModelList, RefusesWhatItDoesNotKnowOrCantBe) {
  EXPECT_THAT(ErrorOf("models: []"), HasSubstr("1 to"));
  EXPECT_THAT(ErrorOf("models:\n  - name: a"), HasSubstr("path is missing"));
  EXPECT_THAT(ErrorOf("models:\n  - path: a\n    pined: true"), HasSubstr("pined"));
  EXPECT_THAT(ErrorOf("models:\n  - path: a\n    load: never"), HasSubstr("start or demand"));
  EXPECT_THAT(ErrorOf("models:\n  - path: a\n    kv_positions: 0"), HasSubstr("kv_positions"));
  EXPECT_THAT(ErrorOf("models:\n  - path: a\n    plan: p.json\n    split: 1,2"), HasSubstr("plan and split"));
  EXPECT_THAT(ErrorOf("models:\n  - path: a\n  - path: b/a"), HasSubstr("two models are called 'a'"));
  EXPECT_THAT(ErrorOf("models:\n  - path: a\n  - path: b\n    aliases: [a]"), HasSubstr("called 'a'"));
}

}  // namespace
}  // namespace shoal
