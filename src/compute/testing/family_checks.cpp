#include "compute/testing/family_checks.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/status.h"
#include "compute/testing/local_model.h"
#include "convert/testing/checkpoints.h"
#include "harness/golden.h"
#include "models/family.h"

namespace shoal {
namespace {

// The references agree among themselves within 4e-5 and 1e-11; this bound and the one on logits leave room
// for any summation order.
constexpr double kMaxMeanKl = 1e-8;

GoldenSubject SubjectOf(LocalModel& model) {
  return [&model](std::span<const int32_t> prompt, int greedy) -> absl::StatusOr<ModelRun> {
    ASSIGN_OR_RETURN(LocalModel::Run run, model.run(prompt, greedy));
    return ModelRun{std::move(run.logits), std::move(run.greedy), std::move(run.router)};
  };
}

std::optional<GoldenReport> Report(const std::string& folder, const Golden& golden,
                                   const LocalOptions& options) {
  auto model = LocalModel::Load(folder, options);
  EXPECT_TRUE(model.ok()) << folder << ": " << model.status();
  if (!model.ok()) return std::nullopt;
  const auto report = CompareWithGolden(golden, SubjectOf(**model));
  EXPECT_TRUE(report.ok()) << folder << ": " << report.status();
  return report.ok() ? std::optional(*report) : std::nullopt;
}

/// "qwen3/tied"
std::string ShortName(const std::string& folder) {
  const std::filesystem::path path(folder);
  return path.parent_path().filename().string() + "/" + path.filename().string();
}

void ExpectGoldenMatches(const std::string& folder, double max_abs) {
  SCOPED_TRACE(folder);
  const auto golden = LoadGolden(folder);
  ASSERT_TRUE(golden.ok()) << golden.status();
  const auto exact = Report(folder, *golden, {.activations = ActivationMode::kF32, .kv = DType::kF32});
  if (exact) {
    for (const LogitsDistance& distance : {exact->prompt, exact->long_prompt}) {
      EXPECT_LE(distance.max_abs, max_abs);
      EXPECT_LE(distance.mean_kl, kMaxMeanKl);
    }
    EXPECT_TRUE(exact->greedy_equal);
    EXPECT_TRUE(exact->long_greedy_equal);
    EXPECT_EQ(exact->same_routing, 1.0);
    fmt::print("{} f32:     {}\n", ShortName(folder), exact->to_string());
  }
  const auto usual = Report(folder, *golden, {});
  if (usual) fmt::print("{} default: {}\n", ShortName(folder), usual->to_string());
}

absl::StatusOr<ModelSpec> SpecFrom(std::string_view family, const ConfigEdits& edits) {
  ASSIGN_OR_RETURN(const Family* found, FindFamily(family));
  nlohmann::json json = nlohmann::json::parse(found->tiny());
  for (const auto& [key, value] : edits) {
    const size_t dot = key.find('.');
    nlohmann::json& object = dot == std::string::npos ? json : json.at(key.substr(0, dot));
    const std::string name = key.substr(dot == std::string::npos ? 0 : dot + 1);
    if (value.empty()) {
      object.erase(name);
    } else {
      object[name] = nlohmann::json::parse(value);
    }
  }
  ASSIGN_OR_RETURN(const ModelConfig config, ModelConfig::Parse(json.dump(), "config.json"));
  return SpecFor(config);
}

}  // namespace

void ExpectGoldensMatch(const std::string& family, double max_abs) {
  const GoldenCases cases = GoldenFolders(family);
  for (const std::string& folder : cases.here) ExpectGoldenMatches(folder, max_abs);
  if (cases.beside.empty()) return;
  if (!GoldensBesideExist()) {
    GTEST_SKIP() << cases.here.size() << " goldens compared; " << cases.beside.size()
                 << " lie in ../shared/goldens, which is not there";
  }
  for (const std::string& folder : cases.beside) ExpectGoldenMatches(folder, max_abs);
}

void ExpectTheTextModelAloneHasTheSameBits(const std::string& nested) {
  const std::string& whole = TinyCheckpoint(nested);
  const TempFolder alone;
  CopyCheckpoint(whole, alone.path(), [](std::vector<EditableTensor>& tensors) {
    constexpr std::string_view kAround = "language_model.";
    for (EditableTensor& tensor : tensors) {
      const size_t at = tensor.name.find(kAround);
      if (at != std::string::npos) tensor.name.erase(at, kAround.size());
    }
  });
  const nlohmann::json config =
      nlohmann::json::parse(std::ifstream(whole + "/config.json")).at("text_config");
  std::ofstream(alone.path() + "/config.json") << config.dump();
  const std::vector<int32_t> prompt = {5, 300, 17, 17, 204, 3, 99, 150, 42, 7, 311, 26};
  std::vector<float> logits[2];
  for (const auto& [folder, result] : {std::pair(&whole, &logits[0]), std::pair(&alone.path(), &logits[1])}) {
    auto model = LocalModel::Load(*folder, {});
    ASSERT_TRUE(model.ok()) << *folder << ": " << model.status();
    const auto run = (*model)->run(prompt, 0);
    ASSERT_TRUE(run.ok()) << run.status();
    *result = run->logits;
    if (folder == &alone.path()) {
      EXPECT_EQ((*model)->spec().model_type, config.at("model_type"));
    }
  }
  ASSERT_EQ(logits[0].size(), logits[1].size());
  EXPECT_EQ(std::memcmp(logits[0].data(), logits[1].data(), logits[0].size() * sizeof(float)), 0);
}

void ExpectConfigRefused(std::string_view family, std::string_view key, std::string_view value,
                         std::string_view message) {
  ExpectConfigRefused(family, {{std::string(key), std::string(value)}}, message);
}

void ExpectConfigRefused(std::string_view family, const ConfigEdits& edits, std::string_view message) {
  const auto spec = SpecFrom(family, edits);
  ASSERT_FALSE(spec.ok()) << family << " takes " << edits[0].first << " = " << edits[0].second;
  EXPECT_THAT(Message(spec.status()), ::testing::HasSubstr(std::string(message)));
  EXPECT_THAT(Message(spec.status()), ::testing::HasSubstr("config.json"));
}

ModelSpec SpecWith(std::string_view family, std::string_view key, std::string_view value) {
  return SpecWith(family, {{std::string(key), std::string(value)}});
}

ModelSpec SpecWith(std::string_view family, const ConfigEdits& edits) {
  auto spec = SpecFrom(family, edits);
  EXPECT_TRUE(spec.ok()) << spec.status();
  return spec.ok() ? *std::move(spec) : ModelSpec{};
}

}  // namespace shoal
