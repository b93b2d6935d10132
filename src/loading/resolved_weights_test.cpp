// What ResolvedWeights keeps is what a look-up finds, for every weight of every family.
#include "loading/resolved_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/status.h"
#include "convert/testing/checkpoints.h"
#include "models/family.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

TEST(ResolvedWeights, KnowsEveryWeightOfItsSpecAndNoOther) {
  for (const Family* family : Families()) {
    SCOPED_TRACE(family->model_type);
    const auto weights = ResolvedWeights::Open(TinyCheckpoint(family->model_type, AffineFormat{4, 64}));
    ASSERT_TRUE(weights.ok()) << weights.status();
    size_t count = 0;
    ForEachWeight((*weights)->spec(), [&](const WeightUse& use) {
      const ResolvedWeight& expected = (*weights)->all()[count++];
      EXPECT_EQ(&expected.use.ref, &use.ref);
      const StoredWeight* found = (*weights)->find(use.ref);
      ASSERT_NE(found, nullptr);
      EXPECT_EQ(found, &expected.stored);
      const auto looked_up = (*weights)->finder()->find(use.ref);
      ASSERT_TRUE(looked_up.ok()) << looked_up.status();
      EXPECT_EQ(found->source, looked_up->source);
      EXPECT_EQ(found->format, looked_up->format);
      EXPECT_EQ(found->data, looked_up->data);
      EXPECT_EQ(found->affine.words, looked_up->affine.words);
      EXPECT_EQ(found->rows, looked_up->rows);
    });
    EXPECT_EQ(count, (*weights)->all().size());
    const WeightRef copy = (*weights)->spec().embedding;
    EXPECT_EQ((*weights)->find(copy), nullptr);
  }
}

TEST(ResolvedWeights, ABiasThatTheSpecHasNoPlaceForIsAnError) {
  const TempFolder folder;
  const std::string name = "model.layers.1.mlp.up_proj.bias";
  CopyCheckpoint(TinyCheckpoint("qwen3"), folder.path(), [&](std::vector<EditableTensor>& tensors) {
    tensors.push_back({name, DType::kF32, {2}, std::vector<std::byte>(8)});
  });
  const absl::Status status = ResolvedWeights::Open(folder.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), HasSubstr("'" + name + "'"));
}

}  // namespace
}  // namespace shoal
