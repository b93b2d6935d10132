// A backend that has only some of its experts in memory computes the bits of one that has all: every family with experts,
// prefill and decode, with and without files to read from, down to a memory of one expert.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "compute/cpu_backend.h"
#include "compute/testing/session_experts.h"
#include "convert/testing/checkpoints.h"
#include "models/spec.h"

namespace shoal {
namespace {

constexpr int kBlocks = 4;

/// One sequence on a whole model.
class Sequence {
 public:
  Sequence(std::shared_ptr<const ResolvedWeights> weights, int64_t expert_memory,
           std::shared_ptr<const PackedCache> cache)
      : backend_({.isa = SupportedIsas().back(), .threads = 2}) {
    const ModelSpec& spec = weights->spec();
    BackendLoad load;
    load.stage = {.layers = {0, spec.layer_count()}, .embed = true, .head = true};
    for (const LayerSpec& layer : spec.layers) load.experts.push_back(AllExperts(layer));
    load.weights = std::move(weights);
    load.cache = std::move(cache);
    load.expert_memory = expert_memory;
    auto model = backend_.load(load);
    EXPECT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    const int slots = KeepsState(model_->spec()) ? 2 : 0;
    session_ = *model_->open({.blocks = kBlocks, .state_slots = slots, .rows_max = 128});
    exchange_ = std::make_unique<SessionExperts>(*session_);
  }

  /// Appends tokens, and gives the logits [T, V] of their rows.
  std::vector<float> append(std::span<const int32_t> tokens) {
    const ModelSpec& spec = model_->spec();
    const auto rows = std::ssize(tokens);
    const StateWrite write{static_cast<int32_t>(length_ + rows), SlotId{static_cast<int32_t>(++steps_ % 2)}};
    StepSlice slice{.row_begin = 0, .rows = rows, .position = length_, .blocks = blocks_, .tokens = tokens};
    if (KeepsState(spec)) {
      slice.state_from = length_ == 0 ? kNoState : SlotId{static_cast<int32_t>((steps_ + 1) % 2)};
      slice.state_to = {&write, 1};
    }
    std::vector<float> hidden(static_cast<size_t>(rows * spec.row_width()));
    const MatView<float> x(hidden.data(), rows, spec.row_width());
    StageStep step;
    step.slices = {&slice, 1};
    step.experts = exchange_.get();
    EXPECT_EQ(session_->embed(tokens, x), absl::OkStatus());
    EXPECT_EQ(session_->forward(step, x), absl::OkStatus());
    length_ += rows;
    std::vector<float> logits(static_cast<size_t>(rows * spec.vocabulary));
    EXPECT_EQ(session_->read_logits(x, MatView<float>(logits.data(), rows, spec.vocabulary)),
              absl::OkStatus());
    return logits;
  }
  const BackendModel& model() const { return *model_; }

 private:
  CpuBackend backend_;
  std::unique_ptr<BackendModel> model_;
  std::unique_ptr<BackendSession> session_;
  std::unique_ptr<SessionExperts> exchange_;
  const std::vector<BlockId> blocks_ = {BlockId{2}, BlockId{0}, BlockId{3}, BlockId{1}};
  int64_t length_ = 0;
  int steps_ = 0;
};

/// The logits of a prompt of 40 tokens and of 12 that follow one by one.
std::vector<float> LogitsOf(Sequence& sequence) {
  const ModelSpec& spec = sequence.model().spec();
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 52; ++i) tokens.push_back((i * 29 + 5) % static_cast<int32_t>(spec.vocabulary));
  const std::span<const int32_t> all(tokens);
  std::vector<float> logits = sequence.append(all.first(40));
  for (size_t i = 40; i < all.size(); ++i) {
    const std::vector<float> more = sequence.append(all.subspan(i, 1));
    logits.insert(logits.end(), more.begin(), more.end());
  }
  return logits;
}

/// Bytes of the largest expert, with room for the alignment of its parts.
int64_t LargestExpert(const ResolvedWeights& weights) {
  std::map<std::pair<int64_t, int64_t>, int64_t> bytes;
  for (const ResolvedWeight& weight : weights.all()) {
    if (weight.use.layer < 0 || weight.use.expert < 0 || weight.use.is_mtp) continue;
    bytes[{weight.use.layer, weight.use.expert}] += weight.packed_bytes + 64;
  }
  int64_t largest = 0;
  for (const auto& [expert, size] : bytes) largest = std::max(largest, size);
  return largest;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

class ExpertMemory : public ::testing::TestWithParam<std::string> {};

TEST_P(ExpertMemory, FewExpertsInMemoryGiveTheBitsOfAll) {
  const auto weights = *ResolvedWeights::Open(TinyCheckpoint(GetParam(), AffineFormat{4, 64}));
  Sequence all(weights, 0, nullptr);
  EXPECT_FALSE(all.model().expert_tier().has_value());
  const std::vector<float> expected = LogitsOf(all);
  const TempFolder folder;
  const auto cache =
      std::make_shared<const PackedCache>(PackedCache::Options{folder.path(), int64_t{1} << 30});
  const int64_t one = LargestExpert(*weights);
  // A third of all: guesses are often of experts that are not there, and some are there again.
  int64_t third = 0;
  for (const LayerSpec& layer : weights->spec().layers) third += std::ssize(AllExperts(layer));
  third /= 3;
  for (const int64_t experts : {int64_t{1}, int64_t{2}, int64_t{5}, third}) {
    for (const bool cached : {true, false}) {
      SCOPED_TRACE(fmt::format("memory of {} experts, {}", experts, cached ? "cached" : "not cached"));
      Sequence some(weights, experts * one, cached ? cache : nullptr);
      EXPECT_TRUE(SameBits(LogitsOf(some), expected));
      const ExpertTierStats stats = some.model().expert_tier().value();
      EXPECT_LE(stats.resident_bytes, experts * one);
      EXPECT_LT(stats.resident_bytes, stats.total_bytes);
      EXPECT_GT(stats.misses, 0);
      EXPECT_LE(stats.ahead_used + stats.ahead_wasted, stats.ahead);
      if (experts == third) {
        EXPECT_GT(stats.hits, 0);
        EXPECT_GT(stats.ahead_used, 0);
      }
      if (!cached) {
        EXPECT_GT(stats.packed_again, 0);
      }
      EXPECT_LT(some.model().bytes(), all.model().bytes());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, ExpertMemory, testing::ValuesIn(FamiliesPerExperts()),
                         [](const auto& name) { return name.param; });

TEST(ExpertMemoryOfABackend, WhatFitsIsHeldAsEver) {
  const auto weights = *ResolvedWeights::Open(TinyCheckpoint("qwen3_moe", AffineFormat{4, 64}));
  const Sequence sequence(weights, int64_t{1} << 40, nullptr);
  EXPECT_FALSE(sequence.model().expert_tier().has_value());
}

TEST(ExpertMemoryOfABackend, LessThanOneExpertIsRefused) {
  BackendLoad load;
  load.weights = *ResolvedWeights::Open(TinyCheckpoint("qwen3_moe", AffineFormat{4, 64}));
  for (const LayerSpec& layer : load.weights->spec().layers) load.experts.push_back(AllExperts(layer));
  load.expert_memory = 1000;
  CpuBackend backend({});
  const auto model = backend.load(load);
  EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(ToString(model.status()).find("--expert-memory"), std::string::npos);
}

}  // namespace
}  // namespace shoal
