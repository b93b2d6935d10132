#include "loading/explain_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "convert/testing/checkpoints.h"

namespace shoal {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(ExplainModel, NamesEveryKindOfTensorThatIsMissingAndWhatStandsInItsPlace) {
  const TempFolder folder;
  CopyCheckpoint(TinyCheckpoint("qwen3"), folder.path(), [](std::vector<EditableTensor>& tensors) {
    for (EditableTensor& tensor : tensors) {
      const size_t at = tensor.name.find("up_proj");
      if (at != std::string::npos) tensor.name.replace(at, 7, "upper_proj");
      if (tensor.name == "model.norm.weight") tensor.name = "model.last_norm.weight";
    }
  });
  const std::vector<std::string> lines = ExplainModel(folder.path());
  EXPECT_THAT(lines, Contains("config: understood as 'qwen3' of 7 layers"));
  EXPECT_THAT(lines, Contains(AllOf(StartsWith("weights: 7 of 'model.layers.*.mlp.up_proj.weight'"),
                                    HasSubstr("model.layers.0.mlp.up_proj.weight"))));
  EXPECT_THAT(lines, Contains(StartsWith("weights: 1 of 'model.norm.weight'")));
  EXPECT_THAT(
      lines, Contains(StartsWith("tensors behind no weight: 7 of 'model.layers.*.mlp.upper_proj.weight', ")));
}

TEST(ExplainModel, NamesTheKeyOrTheModelTypeAndWhatIsKnown) {
  const TempFolder folder;
  std::ofstream(folder.path() + "/config.json") << R"({"model_type": "qwen33"})";
  const std::vector<std::string> unknown = ExplainModel(folder.path());
  EXPECT_THAT(unknown, Contains(StartsWith("files: ")));
  EXPECT_THAT(unknown, Contains(AllOf(StartsWith("model_type: 'qwen33' is not built (nearest: 'qwen3')"),
                                      HasSubstr("known: afmoe, "))));
  std::ofstream(folder.path() + "/config.json") << R"({"model_type": "llama", "hidden_act": "tanh"})";
  EXPECT_THAT(ExplainModel(folder.path()),
              Contains(AllOf(StartsWith("config: "), HasSubstr("'hidden_act'"))));
}

}  // namespace
}  // namespace shoal
