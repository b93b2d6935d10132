// What is converted is read again: its values, its formats, and what stays when it is cut off.
#include "models/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/status.h"
#include "harness/golden.h"
#include "models/family.h"
#include "models/testing/checkpoints.h"
#include "models/testing/local_model.h"
#include "models/weight_reader.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr LocalOptions kExact{.activations = ActivationMode::kF32, .kv = DType::kF32};

absl::StatusOr<ConvertReport> Convert(const std::string& from, const std::string& to, std::string_view quant,
                                      int64_t shard_bytes = int64_t{1} << 30) {
  ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::Open(from));
  ASSIGN_OR_RETURN(const ModelSpec spec, SpecFor(checkpoint->config()));
  ConvertOptions options{.out = to, .threads = 2, .shard_bytes = shard_bytes};
  ASSIGN_OR_RETURN(options.format, ParseConvertFormat(quant));
  return ConvertModel(*checkpoint, spec, options);
}

std::vector<float> LogitsOf(const std::string& folder) {
  auto model = LocalModel::Load(folder, kExact);
  EXPECT_TRUE(model.ok()) << folder << ": " << ToString(model.status());
  if (!model.ok()) return {};
  std::vector<int32_t> prompt(40);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int32_t>(i * 7 % 300);
  const auto run = (*model)->run(prompt, 0);
  EXPECT_TRUE(run.ok()) << ToString(run.status());
  return run.ok() ? run->logits : std::vector<float>();
}

nlohmann::json ConfigOf(const std::string& folder) {
  std::ifstream file(folder + "/config.json");
  return nlohmann::json::parse(file);
}

std::string BytesOf(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(Convert, AGgufAsBf16AndThatAgainGivesTheSameLogits) {
  const TempFolder once;
  const TempFolder twice;
  const std::string source = RepositoryPath("tests/goldens/models/llama/plain-gguf-f16");
  ASSERT_TRUE(Convert(source, once.path(), "bf16").ok());
  ASSERT_TRUE(Convert(once.path(), twice.path(), "bf16").ok());
  const std::vector<float> logits = LogitsOf(once.path());
  EXPECT_EQ(LogitsOf(twice.path()), logits);
  // The golden's weights were bf16 before they became f16: rows, permutations and norms come back.
  const std::vector<float> original = LogitsOf(source);
  ASSERT_EQ(original.size(), logits.size());
  EXPECT_LT(CompareLogits(original, logits, ConfigOf(once.path())["vocab_size"]).mean_kl, 1e-6);
  EXPECT_TRUE(fs::exists(once.path() + "/tokenizer.json"));
}

TEST(Convert, EightBitsAreNearAndFourBitsAreLessNear) {
  const std::string source = RepositoryPath("tests/goldens/models/qwen3/tied");
  const std::vector<float> reference = LogitsOf(source);
  const auto distance = [&](std::string_view quant) {
    const TempFolder out;
    const auto report = Convert(source, out.path(), quant);
    EXPECT_TRUE(report.ok()) << ToString(report.status());
    return CompareLogits(reference, LogitsOf(out.path()), ConfigOf(out.path())["vocab_size"]).mean_kl;
  };
  const double eight = distance("affine-8-g64");
  const double mixed = distance("mixed");
  const double four = distance("affine-4-g64");
  EXPECT_LT(eight, four / 20);  // Sixteen times the steps: the error falls with their square.
  EXPECT_LT(mixed, four);
}

TEST(Convert, StacksExpertsAndKeepsRoutersAtEightBits) {
  const TempFolder out;
  ASSERT_TRUE(Convert(TinyCheckpoint("qwen3_moe", std::nullopt), out.path(), "affine-4-g64").ok());
  const auto checkpoint = Checkpoint::Open(out.path());
  ASSERT_TRUE(checkpoint.ok()) << ToString(checkpoint.status());
  const TensorInfo* experts = (*checkpoint)->find("model.layers.0.mlp.switch_mlp.gate_proj.weight");
  ASSERT_NE(experts, nullptr);
  EXPECT_EQ(experts->shape, (std::vector<int64_t>{13, 320, 320 * 4 / 32}));
  EXPECT_FALSE((*checkpoint)->has("model.layers.0.mlp.experts.0.gate_proj.weight"));
  const auto config = ConfigOf(out.path());
  EXPECT_EQ(config["quantization"]["model.layers.0.mlp.gate"]["bits"], 8);
  EXPECT_EQ(config["quantization"]["bits"], 4);
  EXPECT_EQ(LogitsOf(out.path()).size(), 40u * 331);
}

TEST(Convert, GoesOnWhereItWasCutOff) {
  const std::string& source = TinyCheckpoint("qwen3", std::nullopt);
  const TempFolder whole;
  const auto first = Convert(source, whole.path(), "affine-4-g64", 100'000);
  ASSERT_TRUE(first.ok()) << ToString(first.status());
  ASSERT_GT(first->shards, 3);
  EXPECT_EQ(first->shards_kept, 0);
  // As if it had been cut off: one file is missing, one is another conversion's, one is half there.
  const auto file = [&](int i) {
    return fmt::format("{}/model-{:05}-of-{:05}.safetensors", whole.path(), i, first->shards);
  };
  const std::string expected[] = {BytesOf(file(1)), BytesOf(file(2)), BytesOf(file(3))};
  fs::remove(whole.path() + "/config.json");
  fs::remove(file(1));
  fs::copy_file(file(3), file(2), fs::copy_options::overwrite_existing);
  fs::resize_file(file(3), fs::file_size(file(3)) / 2);
  const auto second = Convert(source, whole.path(), "affine-4-g64", 100'000);
  ASSERT_TRUE(second.ok()) << ToString(second.status());
  EXPECT_EQ(second->shards_kept, second->shards - 3);
  for (int i = 1; i <= 3; ++i) EXPECT_TRUE(BytesOf(file(i)) == expected[i - 1]) << i;
  EXPECT_TRUE(Checkpoint::Open(whole.path()).ok());
}

TEST(Convert, NeverWritesOverAModel) {
  const std::string& source = TinyCheckpoint("qwen3", std::nullopt);
  EXPECT_THAT(Message(Convert(source, source, "bf16").status()), HasSubstr("the source itself"));
  const TempFolder out;
  ASSERT_TRUE(Convert(source, out.path(), "bf16").ok());
  EXPECT_THAT(Message(Convert(source, out.path(), "affine-4-g64").status()),
              HasSubstr("found another model"));
  EXPECT_TRUE(Convert(source, out.path(), "bf16").ok());
}

TEST(Convert, RefusesFormatsThatItDoesNotKnow) {
  for (const char* text : {"", "affine", "affine-7-g64", "affine-4-g16", "q4", "affine-4-g64 "}) {
    EXPECT_THAT(Message(ParseConvertFormat(text).status()), HasSubstr("affine-BITS-gGROUP")) << text;
  }
  EXPECT_EQ(ParseConvertFormat("affine-3-g128")->affine, (AffineFormat{3, 128}));
}

}  // namespace
}  // namespace shoal
