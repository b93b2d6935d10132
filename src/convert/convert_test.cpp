// What is converted is read again: its values, its formats, and what stays when it is cut off.
#include "convert/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/status.h"
#include "compute/testing/local_model.h"
#include "convert/testing/checkpoints.h"
#include "harness/golden.h"
#include "loading/weight_loader.h"
#include "loading/weight_sample.h"
#include "models/family.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr LocalOptions kExact{.activations = ActivationMode::kF32, .kv = DType::kF32};

absl::StatusOr<ConvertReport> Convert(const std::string& from, const std::string& to, std::string_view quant,
                                      int64_t file_bytes_max = int64_t{1} << 30) {
  ASSIGN_OR_RETURN(const auto weights, ResolvedWeights::Open(from));
  ConvertOptions options{.out = to, .threads = 2, .file_bytes_max = file_bytes_max};
  ASSIGN_OR_RETURN(options.format, ParseConvertFormat(quant));
  return ConvertModel(*weights, options);
}

std::vector<float> LogitsOf(const std::string& folder) {
  auto model = LocalModel::Load(folder, kExact);
  EXPECT_TRUE(model.ok()) << folder << ": " << ToString(model.status());
  if (!model.ok()) return {};
  const int64_t ids = std::min<int64_t>(300, (*model)->spec().vocabulary);
  std::vector<int32_t> prompt(40);
  for (size_t i = 0; i < prompt.size(); ++i)
    prompt[i] = static_cast<int32_t>(static_cast<int64_t>(i) * 7 % ids);
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

/// Floats of the hub: what bf16 holds as it is.
bool IsOfBf16(const std::string& golden) {
  const std::string name = fs::path(golden).filename();
  return name.find("-q") == std::string::npos && name.find("gguf") == std::string::npos &&
         name.find("mxfp") == std::string::npos && name.find("mixed") == std::string::npos;
}

TEST(Convert, FoldersOfEveryFamilyGiveTheSameLogitsAsBf16) {
  if (!GoldensBesideExist()) GTEST_SKIP() << "no ../shared/goldens";
  for (const Family* family : Families()) {
    const GoldenCases cases = GoldenFolders(std::string(family->model_type));
    std::vector<std::string> folders = cases.here;
    folders.insert(folders.end(), cases.beside.begin(), cases.beside.end());
    std::erase_if(folders, [](const std::string& folder) { return !IsOfBf16(folder); });
    for (const std::string& folder : folders) {
      SCOPED_TRACE(folder);
      const TempFolder out;
      const auto report = Convert(folder, out.path(), "bf16");
      ASSERT_TRUE(report.ok()) << ToString(report.status());
      EXPECT_EQ(LogitsOf(out.path()), LogitsOf(folder));
    }
  }
}

TEST(Convert, LeavesRoutersFloatsWhereMlxReadsThemSo) {
  for (const char* family : {"deepseek", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe",
                             "glm4_moe_lite", "glm_moe_dsa"}) {
    const TempFolder out;
    ASSERT_TRUE(Convert(TinyCheckpoint(family, std::nullopt), out.path(), "mixed").ok()) << family;
    const auto checkpoint = Checkpoint::Open(out.path());
    ASSERT_TRUE(checkpoint.ok()) << ToString(checkpoint.status());
    const TensorInfo* router = (*checkpoint)->find("model.layers.6.mlp.gate.weight");
    ASSERT_NE(router, nullptr) << family;
    EXPECT_EQ(router->dtype, DType::kBF16) << family;
    EXPECT_EQ(ConfigOf(out.path())["quantization"]["model.layers.6.mlp.gate"], false) << family;
    EXPECT_TRUE((*checkpoint)->has("model.layers.6.mlp.switch_mlp.up_proj.scales")) << family;
  }
}

TEST(Convert, GoesOnWhereItWasCutOff) {
  const std::string& source = TinyCheckpoint("qwen3", std::nullopt);
  const TempFolder whole;
  const auto first = Convert(source, whole.path(), "affine-4-g64", 100'000);
  ASSERT_TRUE(first.ok()) << ToString(first.status());
  ASSERT_GT(first->sum().files, 3);
  EXPECT_EQ(first->sum().files_kept, 0);
  // As if it had been cut off: one file is missing, one is another conversion's, one is half there.
  const auto file = [&](int i) {
    return fmt::format("{}/model-{:05}-of-{:05}.safetensors", whole.path(), i, first->sum().files);
  };
  const std::string expected[] = {BytesOf(file(1)), BytesOf(file(2)), BytesOf(file(3))};
  fs::remove(whole.path() + "/config.json");
  fs::remove(file(1));
  fs::copy_file(file(3), file(2), fs::copy_options::overwrite_existing);
  fs::resize_file(file(3), fs::file_size(file(3)) / 2);
  const auto second = Convert(source, whole.path(), "affine-4-g64", 100'000);
  ASSERT_TRUE(second.ok()) << ToString(second.status());
  EXPECT_EQ(second->sum().files_kept, second->sum().files - 3);
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

/// Root mean square error of a weight of `got` relative to the weight of `want`: the largest.
double LargestError(const std::string& want, const std::string& got) {
  const auto a = Checkpoint::Open(want);
  const auto b = Checkpoint::Open(got);
  EXPECT_TRUE(a.ok() && b.ok());
  const auto weights = ResolvedWeights::Open(want);
  const auto loader_a = WeightLoader::Create(**a);
  const auto loader_b = WeightLoader::Create(**b);
  if (!weights.ok() || !loader_a.ok() || !loader_b.ok()) {
    ADD_FAILURE() << ToString(weights.status());
    return 1;
  }
  double largest = 0;
  ForEachWeight((*weights)->spec(), [&](const WeightUse& use) {
    const auto x = loader_a->find(use.ref);
    const auto y = loader_b->find(use.ref);
    ASSERT_TRUE(x.ok() && y.ok()) << ToString(y.status());
    std::vector<float> expected(static_cast<size_t>(x->elements()));
    std::vector<float> values(expected.size());
    ASSERT_TRUE(loader_a->read_rows(*x, {0, x->rows}, expected.data()).ok());
    ASSERT_TRUE(loader_b->read_rows(*y, {0, y->rows}, values.data()).ok());
    double error = 0;
    double norm = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      error += std::pow(static_cast<double>(values[i]) - static_cast<double>(expected[i]), 2);
      norm += std::pow(static_cast<double>(expected[i]), 2);
    }
    if (norm > 0) largest = std::max(largest, std::sqrt(error / norm));
  });
  return largest;
}

/// What the hub stores fused, for MLX by itself: values stay, and have a place where they are quantized.
void ExpectTakenApart(const std::string& golden, const std::string& split, bool quantized) {
  if (!GoldensBesideExist()) GTEST_SKIP() << "no ../shared/goldens";
  const std::string source = RepositoryPath("../shared/goldens/models/" + golden);
  const TempFolder floats;
  const auto report = Convert(source, floats.path(), "bf16");
  ASSERT_TRUE(report.ok()) << ToString(report.status());
  EXPECT_EQ(LogitsOf(floats.path()), LogitsOf(source)) << "bf16 stays bf16";
  const TempFolder eight;
  ASSERT_TRUE(Convert(source, eight.path(), "affine-8-g64").ok());
  const auto checkpoint = Checkpoint::Open(eight.path());
  ASSERT_TRUE(checkpoint.ok()) << ToString(checkpoint.status());
  EXPECT_TRUE((*checkpoint)->has(split + ".weight")) << split;
  EXPECT_EQ((*checkpoint)->has(split + ".scales"), quantized) << split;
  // Steps of 1/255 of a group's range are some half percent of normal weights: a weight in another's place is
  // 140 %.
  EXPECT_LT(LargestError(source, eight.path()), 0.02);
}

TEST(Convert, SplitsGatesFromUpsAsMlxHasThem) {
  ExpectTakenApart("gpt_oss/bf16", "model.layers.1.mlp.experts.up_proj", true);
}

TEST(Convert, SplitsLatentMatricesByHeadsWhereMlxDoes) {
  ExpectTakenApart("deepseek_v3/r1", "model.layers.1.self_attn.embed_q", true);
  ExpectTakenApart("glm4_moe_lite/plain", "model.layers.1.self_attn.unembed_out", true);
}

TEST(Convert, KeepsLatentMatricesWholeAndFloatWhereMlxDoesNotSplitThem) {
  ExpectTakenApart("deepseek_v2/lite", "model.layers.1.self_attn.kv_b_proj", false);
}

// And vectors that are stored in another shape, as the taps of a convolution.
TEST(Convert, SplitsExpertsAndKeepsConvolutionsOfGatedDeltaNets) {
  ExpectTakenApart("qwen3_5/dense", "model.language_model.layers.0.linear_attn.in_proj_qkv", true);
  ExpectTakenApart("qwen3_5_moe/plain", "language_model.model.layers.1.mlp.switch_mlp.up_proj", true);
}

/// Shards by layer parity and experts by parity of their sum: `node` of two.
std::vector<ConvertShard> TwoShards(const std::string& out) {
  std::vector<ConvertShard> shards;
  for (const int64_t node : {0, 1}) {
    shards.push_back({.out = fmt::format("{}/{}", out, node),
                      .node = fmt::format("n{}", node),
                      .holds = "its half",
                      .has = [node](const WeightUse& use) {
                        if (use.layer < 0) return use.is_head == (node == 1);
                        return (use.layer + std::max<int64_t>(use.expert, 0)) % 2 == node;
                      }});
  }
  return shards;
}

/// Every weight is where it should be, with the values of the whole model, and nowhere else.
void ExpectShardsTile(const std::string& source, std::string_view quant) {
  const TempFolder out;
  const TempFolder one;
  const auto weights = ResolvedWeights::Open(source);
  ASSERT_TRUE(weights.ok()) << ToString(weights.status());
  const ModelSpec& spec = (*weights)->spec();
  ConvertOptions options{.out = one.path(), .threads = 2};
  options.format = *ParseConvertFormat(quant);
  std::string whole_folder = source;
  if (quant != "keep" || (*weights)->checkpoint().is_gguf()) {
    whole_folder = one.path();
    ASSERT_TRUE(ConvertModel(**weights, options).ok());
  }
  options.shards = TwoShards(out.path());
  const auto report = ConvertModel(**weights, options);
  ASSERT_TRUE(report.ok()) << ToString(report.status());
  const auto whole = ResolvedWeights::Create(*Checkpoint::Open(whole_folder), spec);
  ASSERT_TRUE(whole.ok()) << ToString(whole.status());
  const WeightLoader whole_loader(**whole);
  for (const ConvertShard& shard : options.shards) {
    const auto part = ResolvedWeights::Create(*Checkpoint::Open(shard.out), spec);
    ASSERT_TRUE(part.ok()) << ToString(part.status());
    EXPECT_EQ((*part)->checkpoint().hash(), (*whole)->checkpoint().hash());
    const auto samples = SampleWeights(**part, shard.has);
    const auto expected_samples = SampleWeights(**whole, shard.has);
    EXPECT_EQ(samples.size(), expected_samples.size());
    EXPECT_TRUE(CompareSamples(expected_samples, samples).ok());
    const WeightLoader loader(**part);
    int64_t here = 0;
    ForEachWeight(spec, [&](const WeightUse& use) {
      const auto weight = loader.find(use.ref);
      const auto expected = whole_loader.find(use.ref);
      ASSERT_TRUE(weight.ok() && expected.ok()) << ToString(weight.status());
      // A tied head or a fused tensor is there for another use, too.
      EXPECT_TRUE(!shard.has(use) || !weight->absent) << weight->source->name();
      if (weight->absent) return;
      ++here;
      std::vector<float> got(static_cast<size_t>(weight->elements()));
      std::vector<float> want(got.size());
      ASSERT_TRUE(loader.read_rows(*weight, {0, weight->rows}, got.data()).ok());
      ASSERT_TRUE(whole_loader.read_rows(*expected, {0, expected->rows}, want.data()).ok());
      EXPECT_TRUE(got == want) << weight->source->name();
    });
    EXPECT_GT(here, 0);
    // Of another's expert, the format is known and the bytes are not.
    const int64_t foreign = shard.node == "n0" ? 1 : 0;
    if (const MoeSpec* moe = MoeOf(spec.layers[0])) {
      const auto expert = loader.find(moe->experts[static_cast<size_t>(foreign)].gate.weight);
      ASSERT_TRUE(expert.ok()) << ToString(expert.status());
      EXPECT_TRUE(expert->absent);
      std::vector<float> row(static_cast<size_t>(expert->cols));
      const absl::Status read = loader.read_rows(*expert, {0, 1}, row.data());
      EXPECT_EQ(read.code(), absl::StatusCode::kNotFound);
      EXPECT_THAT(Message(read),
                  testing::AllOf(HasSubstr("shard of node '" + shard.node), HasSubstr("--shard-for")));
    }
  }
}

TEST(Convert, ShardsHaveTheirWeightsAndNoOthers) {
  for (const char* family : {"qwen3_moe", "gpt_oss", "deepseek_v3", "phi3"}) {
    SCOPED_TRACE(family);
    ExpectShardsTile(TinyCheckpoint(family, std::nullopt), "keep");
    ExpectShardsTile(TinyCheckpoint(family, std::nullopt), "affine-4-g64");
  }
  ExpectShardsTile(TinyCheckpoint("qwen3_moe", AffineFormat{4, 64}), "keep");
  ExpectShardsTile(RepositoryPath("tests/goldens/models/qwen3_moe/plain-gguf-q4_0"), "affine-8-g64");
  ExpectShardsTile(RepositoryPath("tests/goldens/models/qwen3_moe/plain-gguf-q4_0"), "keep");
}

TEST(Convert, ShardsOfOtherEncodingsKeepThem) {
  if (!GoldensBesideExist()) GTEST_SKIP() << "no ../shared/goldens";
  for (const char* golden : {"gpt_oss/bf16", "gpt_oss/mxfp4-q8g64", "deepseek_v3/r1", "qwen3/tied-mxfp4"}) {
    SCOPED_TRACE(golden);
    ExpectShardsTile(RepositoryPath(fmt::format("../shared/goldens/models/{}", golden)), "keep");
  }
}

TEST(Convert, AGgufOfExpertsThatIsKeptGivesTheSameLogits) {
  const std::string source = RepositoryPath("tests/goldens/models/qwen3_moe/plain-gguf-q4_0");
  const TempFolder out;
  const auto report = Convert(source, out.path(), "keep");
  ASSERT_TRUE(report.ok()) << ToString(report.status());
  const std::vector<float> logits = LogitsOf(source);
  EXPECT_FALSE(logits.empty());
  EXPECT_EQ(LogitsOf(out.path()), logits);
}

TEST(Convert, KeepsFoldersOnlyForShards) {
  const TempFolder out;
  EXPECT_THAT(Message(Convert(TinyCheckpoint("qwen3_moe", std::nullopt), out.path(), "keep").status()),
              HasSubstr("--shard-for"));
}

TEST(Convert, RefusesFormatsThatItDoesNotKnow) {
  for (const char* text : {"", "affine", "affine-7-g64", "affine-4-g16", "q4", "affine-4-g64 "}) {
    EXPECT_THAT(Message(ParseConvertFormat(text).status()), HasSubstr("affine-BITS-gGROUP")) << text;
  }
  EXPECT_EQ(ParseConvertFormat("affine-3-g128")->affine, (AffineFormat{3, 128}));
}

}  // namespace
}  // namespace shoal
