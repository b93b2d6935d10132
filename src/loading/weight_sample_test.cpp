#include "loading/weight_sample.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/status.h"
#include "convert/testing/checkpoints.h"
#include "models/family.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

bool Everything(const WeightUse& /*use*/) { return true; }

std::vector<WeightSample> SamplesOf(const std::string& folder,
                                    absl::FunctionRef<bool(const WeightUse&)> holds = Everything) {
  const auto weights = ResolvedWeights::Open(folder);
  EXPECT_TRUE(weights.ok()) << weights.status();
  return SampleWeights(**weights, holds);
}

/// A copy of a model as another fine-tune of it: of the same tensors, one or all in other numbers.
void CopyAndTune(const std::string& from, const std::string& folder, std::string_view tensor) {
  CopyCheckpoint(from, folder, [&](std::vector<EditableTensor>& tensors) {
    for (EditableTensor& edited : tensors) {
      if (!tensor.empty() && edited.name != tensor) continue;
      for (std::byte& byte : edited.bytes) byte ^= std::byte{1};
    }
  });
}

TEST(WeightSample, ACopyHasTheSameSamples) {
  const std::string& model = TinyCheckpoint("qwen3_moe", AffineFormat{4, 64});
  const TempFolder copy;
  CopyCheckpoint(model, copy.path(), [](auto&) {});
  const auto samples = SamplesOf(model);
  EXPECT_THAT(samples, Not(IsEmpty()));
  EXPECT_TRUE(CompareSamples(samples, SamplesOf(copy.path())).ok());
}

TEST(WeightSample, OtherNumbersInTheSameTensorsAreFoundAndNamed) {
  for (const auto& format : {std::optional<AffineFormat>(), std::optional(AffineFormat{4, 64})}) {
    const std::string& model = TinyCheckpoint("qwen3_moe", format);
    const TempFolder all;
    CopyAndTune(model, all.path(), "");
    const auto samples = SamplesOf(model);
    EXPECT_EQ(CompareSamples(samples, SamplesOf(all.path())).code(), absl::StatusCode::kFailedPrecondition);
    const TempFolder one;
    CopyAndTune(model, one.path(), "model.layers.1.self_attn.o_proj.weight");
    EXPECT_THAT(Message(CompareSamples(samples, SamplesOf(one.path()))),
                HasSubstr("tensor 'model.layers.1.self_attn.o_proj.weight'"));
  }
}

TEST(WeightSample, OnlyWeightsThatAreHeldAreRead) {
  const std::string& model = TinyCheckpoint("qwen3_moe");
  const TempFolder tuned;
  CopyAndTune(model, tuned.path(), "model.layers.1.self_attn.o_proj.weight");
  const auto first_layer = [](const WeightUse& use) { return use.layer == 0; };
  const auto samples = SamplesOf(model, first_layer);
  EXPECT_THAT(samples, Not(IsEmpty()));
  EXPECT_TRUE(CompareSamples(samples, SamplesOf(tuned.path(), first_layer)).ok());
  EXPECT_THAT(SamplesOf(model, [](const WeightUse& use) { return use.layer == 99; }), IsEmpty());
}

TEST(WeightSample, WhatOnlyOneSideHasIsNotCompared) {
  const std::vector<WeightSample> some = {{1, 10, "one"}, {5, 50, "five"}};
  const std::vector<WeightSample> others = {{2, 20, "two"}, {5, 50, "five"}, {9, 90, "nine"}};
  EXPECT_TRUE(CompareSamples(some, others).ok());
  EXPECT_TRUE(CompareSamples(others, some).ok());
  EXPECT_TRUE(CompareSamples({}, some).ok());
  EXPECT_TRUE(CompareSamples(some, {}).ok());
  const std::vector<WeightSample> changed = {{5, 51, "five"}};
  EXPECT_THAT(Message(CompareSamples(some, changed)), HasSubstr("'five'"));
}

TEST(WeightSample, ALargeModelIsSampledAllOver) {
  const std::string& model = TinyCheckpoint("qwen3_moe");
  const auto checkpoint = Checkpoint::Open(model);
  ASSERT_TRUE(checkpoint.ok());
  auto spec = SpecFor((*checkpoint)->config());
  ASSERT_TRUE(spec.ok());
  // Its layers again and again: as many weights as a large model has, the last of them among the last
  // samples.
  const std::vector<LayerSpec> layers = spec->layers;
  while (spec->layers.size() < 200) spec->layers.insert(spec->layers.end(), layers.begin(), layers.end());
  const auto resolved = ResolvedWeights::Create(*checkpoint, *std::move(spec));
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  const int64_t weights = std::ssize((*resolved)->all());
  ASSERT_GT(weights, 4 * kWeightSamplesMax);
  const auto samples = SampleWeights(**resolved, Everything);
  EXPECT_LE(std::ssize(samples), 2 * kWeightSamplesMax);
  EXPECT_GT(std::ssize(samples), kWeightSamplesMax);
  EXPECT_GT(samples.back().weight, weights - weights / 32);
  // Every kind of weight, wherever in a layer it stands.
  for (const char* kind : {"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "input_layernorm", "mlp.gate.",
                           "gate_proj", "down_proj"}) {
    EXPECT_TRUE(std::ranges::any_of(samples, [&](const WeightSample& sample) {
      return sample.name.find(kind) != std::string::npos;
    })) << kind;
  }
}

}  // namespace
}  // namespace shoal
