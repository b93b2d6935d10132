// What must not change a bit: how a prompt is cut, threads, instruction set, layers per stage, neighbours in
// the batch.
#include <gtest/gtest.h>

#include <cstring>
#include <optional>
#include <string>
#include <tuple>

#include "base/random.h"
#include "compute/testing/local_model.h"
#include "convert/testing/checkpoints.h"

namespace shoal {
namespace {

constexpr int kGreedy = 5;

/// Whether two runs have the same bits (NaN never appears: it is a Status).
void ExpectSameBits(const std::vector<float>& a, const std::vector<float>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(std::memcmp(&a[i], &b[i], sizeof(float)), 0)
        << "value " << i << ": " << a[i] << " and " << b[i];
  }
}

std::vector<int32_t> RandomTokens(int64_t count, int64_t vocabulary, uint64_t seed) {
  RandomStream random(seed);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(vocabulary))));
  }
  return tokens;
}

/// A family's tiny model, plain or quantized, and what its cache holds.
using Case = std::tuple<std::string, std::optional<AffineFormat>, DType>;

class Invariance : public ::testing::TestWithParam<Case> {
 protected:
  static std::unique_ptr<LocalModel> Load(LocalOptions options) {
    const auto& [family, format, kv] = GetParam();
    if (kv != DType::kF16) options.kv = kv;
    auto model = LocalModel::Load(TinyCheckpoint(family, format), options);
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *std::move(model) : nullptr;
  }

  /// Loads with `options`, runs the prompt in chunks, and expects the bits of `expected`.
  static void ExpectRun(const LocalOptions& options, int64_t chunk, std::span<const int32_t> prompt,
                        const LocalModel::Run& expected) {
    const auto model = Load(options);
    ASSERT_NE(model, nullptr);
    const auto run = model->run(prompt, kGreedy, chunk);
    ASSERT_TRUE(run.ok()) << run.status();
    ExpectSameBits(expected.logits, run->logits);
    EXPECT_EQ(expected.greedy, run->greedy);
    EXPECT_EQ(expected.router, run->router);
  }
};

TEST_P(Invariance, ChunksThreadsInstructionSetsAndStagesDoNotChangeABit) {
  const auto one = Load({});
  ASSERT_NE(one, nullptr);
  const std::vector<int32_t> prompt = RandomTokens(70, one->spec().vocabulary, 3);
  const auto expected = one->run(prompt, kGreedy);
  ASSERT_TRUE(expected.ok()) << expected.status();

  struct Variant {
    int64_t chunk;
    int threads;
    size_t isa;  ///< From the fastest down, without the reference; or that.
    std::vector<int64_t> split;
  };
  constexpr size_t kReference = 99;  // Takes twenty times as long: once will do.
  const Variant variants[] = {{1, 1, 1, {2, 5}},       {7, 2, 0, {1, 1, 5}}, {64, 3, kReference, {2, 5}},
                              {0, 2, 1, {3, 2, 1, 1}}, {1, 3, 0, {6, 1}},    {7, 1, 1, {7}},
                              {64, 2, 0, {4, 3}},      {0, 3, 1, {2, 5}}};
  const std::vector<Isa> isas = SupportedIsas();  // The reference first, the fastest last.
  const size_t slowest = isas.size() > 1 ? 1 : 0;
  for (const Variant& variant : variants) {
    const size_t last = isas.size() - 1;
    const size_t chosen =
        variant.isa == kReference ? 0 : std::max(slowest, last - std::min(last, variant.isa));
    const Isa isa = isas[chosen];
    SCOPED_TRACE(fmt::format("chunk {}, {} threads, {}, {} stages", variant.chunk, variant.threads,
                             IsaName(isa), variant.split.size()));
    ExpectRun({.threads = variant.threads, .isa = std::string(IsaName(isa)), .split = variant.split},
              variant.chunk, prompt, *expected);
  }
}

TEST_P(Invariance, TheExactPathDoesNotDependOnHowItIsRunEither) {
  const LocalOptions exact{.activations = ActivationMode::kF32, .kv = DType::kF32};
  const auto one = Load(exact);
  ASSERT_NE(one, nullptr);
  const std::vector<int32_t> prompt = RandomTokens(17, one->spec().vocabulary, 4);
  const auto expected = one->run(prompt, kGreedy);
  ASSERT_TRUE(expected.ok()) << expected.status();
  LocalOptions other = exact;
  other.threads = 2;
  other.isa = "reference";
  other.split = {3, 4};
  ExpectRun(other, 7, prompt, *expected);
}

TEST_P(Invariance, ARowInABatchIsTheRowAlone) {
  const auto model = Load({.threads = 2});
  ASSERT_NE(model, nullptr);
  const int64_t vocabulary = model->spec().vocabulary;
  const std::vector<int32_t> a = RandomTokens(45, vocabulary, 5);
  const std::vector<int32_t> b = RandomTokens(9, vocabulary, 6);
  const std::vector<int32_t> c = RandomTokens(33, vocabulary, 7);
  std::vector<std::vector<float>> alone;
  for (const auto* tokens : {&a, &b, &c}) {
    const auto run = model->run(*tokens, 0);
    ASSERT_TRUE(run.ok()) << run.status();
    alone.push_back(run->logits);
  }

  // Prefill of one beside decoding of another, joining and leaving.
  model->reset();
  const auto part = [](const std::vector<int32_t>& tokens, size_t begin, size_t end) {
    return std::span(tokens).subspan(begin, end - begin);
  };
  const std::vector<std::vector<LocalSlice>> steps = {
      {{0, part(a, 0, 13)}},
      {{0, part(a, 13, 14)}, {1, part(b, 0, 8)}},
      {{2, part(c, 0, 32)}, {1, part(b, 8, 9)}, {0, part(a, 14, 40)}},
      {{0, part(a, 40, 45)}, {2, part(c, 32, 33)}},
  };
  std::vector<std::vector<float>> batched(3);
  for (const std::vector<LocalSlice>& step : steps) {
    const auto logits = model->step(step);
    ASSERT_TRUE(logits.ok()) << logits.status();
    size_t row = 0;
    for (const LocalSlice& slice : step) {
      const auto begin = logits->begin() + static_cast<std::ptrdiff_t>(row * static_cast<size_t>(vocabulary));
      row += slice.tokens.size();
      const auto end = logits->begin() + static_cast<std::ptrdiff_t>(row * static_cast<size_t>(vocabulary));
      std::vector<float>& all = batched[static_cast<size_t>(slice.sequence)];
      all.insert(all.end(), begin, end);
    }
  }
  for (size_t i = 0; i < alone.size(); ++i) ExpectSameBits(alone[i], batched[i]);
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const std::string& name : FamiliesOfEachKind()) {
    cases.emplace_back(name, AffineFormat{4, 64}, DType::kF16);
    // What formats do is the same for all families.
    if (name != "llama" && name != "qwen3_moe") continue;
    cases.emplace_back(name, std::nullopt, DType::kF16);
    cases.emplace_back(name, AffineFormat{8, 32}, DType::kF16);
  }
  for (const std::string& name : FamiliesPerAttention()) {
    cases.emplace_back(name, AffineFormat{4, 64}, DType::kI8);
  }
  return cases;
}

std::string CaseName(const ::testing::TestParamInfo<Case>& test) {
  const auto& [family, format, kv] = test.param;
  const std::string name =
      format ? fmt::format("{}_q{}g{}", family, format->bits, format->group) : family + "_plain";
  return kv == DType::kI8 ? name + "_kv_q8" : name;
}

INSTANTIATE_TEST_SUITE_P(Tiny, Invariance, ::testing::ValuesIn(Cases()), CaseName);

// Long contexts cross the boundary at which attention is cut into partial results.
class LongContext : public ::testing::TestWithParam<DType> {};

TEST_P(LongContext, SplitsOfALongRowDoNotChangeABit) {
  const std::string& folder = TinyCheckpoint("qwen3", AffineFormat{4, 64});
  std::vector<LocalModel::Run> runs;
  for (const int threads : {1, 3, 5}) {
    auto model = LocalModel::Load(folder, {.kv = GetParam(), .threads = threads});
    ASSERT_TRUE(model.ok()) << model.status();
    const std::vector<int32_t> prompt = RandomTokens(1100, (*model)->spec().vocabulary, 8);
    auto run = (*model)->run(prompt, kGreedy, threads == 1 ? 0 : 256);
    ASSERT_TRUE(run.ok()) << run.status();
    runs.push_back(*std::move(run));
  }
  for (size_t i = 1; i < runs.size(); ++i) {
    ExpectSameBits(runs[0].logits, runs[i].logits);
    EXPECT_EQ(runs[0].greedy, runs[i].greedy);
  }
}

// Rows of a long context that pick what they attend to, beside others that do not.
TEST(LongContext, WhatRowsPickDoesNotDependOnHowTheyAreRun) {
  for (const char* family : {"glm_moe_dsa", "minimax_m3_vl"}) {
    SCOPED_TRACE(family);
    const std::string& folder = TinyCheckpoint(family, AffineFormat{4, 64});
    std::optional<LocalModel::Run> expected;
    for (const LocalOptions& options :
         {LocalOptions{.threads = 1}, LocalOptions{.threads = 3, .split = {3, 4}},
          LocalOptions{.threads = 2}}) {
      auto model = LocalModel::Load(folder, options);
      ASSERT_TRUE(model.ok()) << model.status();
      const std::vector<int32_t> prompt = RandomTokens(700, (*model)->spec().vocabulary, 10);
      auto run = (*model)->run(prompt, kGreedy, options.threads == 1 ? 0 : 100 * options.threads);
      ASSERT_TRUE(run.ok()) << run.status();
      if (!expected) expected = *run;
      ExpectSameBits(expected->logits, run->logits);
      EXPECT_EQ(expected->greedy, run->greedy);
    }
  }
}

// A batch of long and short sequences: threads meet inside a row, and a row may have several threads to
// itself.
TEST_P(LongContext, ABatchCutInsideItsRowsIsEachRowAlone) {
  const std::string& folder = TinyCheckpoint("llama", AffineFormat{4, 64});
  const std::vector<int32_t> tokens = RandomTokens(1201, 331, 9);
  const std::vector<size_t> lengths = {1200, 40, 600};
  std::vector<std::vector<float>> expected;
  for (const int threads : {1, 2, 7}) {
    auto model = LocalModel::Load(folder, {.kv = GetParam(), .threads = threads});
    ASSERT_TRUE(model.ok()) << model.status();
    std::vector<LocalSlice> decodes;
    for (size_t s = 0; s < lengths.size(); ++s) {
      const LocalSlice prompt{static_cast<int>(s), std::span(tokens).first(lengths[s])};
      ASSERT_TRUE((*model)->step({&prompt, 1}).ok());
      const LocalSlice decode{prompt.sequence, std::span(tokens).subspan(lengths[s], 1)};
      decodes.push_back(decode);
    }
    if (threads == 1) {
      for (const LocalSlice& decode : decodes) expected.push_back(*(*model)->step({&decode, 1}));
      continue;
    }
    const auto logits = (*model)->step(decodes);
    ASSERT_TRUE(logits.ok()) << logits.status();
    const auto vocabulary = static_cast<std::ptrdiff_t>((*model)->spec().vocabulary);
    for (size_t s = 0; s < lengths.size(); ++s) {
      const auto begin = logits->begin() + static_cast<std::ptrdiff_t>(s) * vocabulary;
      ExpectSameBits(expected[s], std::vector<float>(begin, begin + vocabulary));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Caches, LongContext, ::testing::Values(DType::kF16, DType::kI8),
                         [](const auto& dtype) { return std::string(DTypeName(dtype.param)); });

}  // namespace
}  // namespace shoal
