// An error of one sequence ends only that sequence, wherever it occurs and on every placement: the other
// sequences of its steps have the bits that they have alone, the session continues, and its blocks can be
// used again.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "convert/testing/checkpoints.h"
#include "exec/model_facts.h"
#include "placement/placed_cluster.h"
#include "placement/placed_sequence.h"
#include "placement/running_plan.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

/// The token id that makes a poisoned model overflow.
constexpr int32_t kBadToken = 7;

/// A tensor of bf16 as a list of matrices, whose dimensions are the last two of the tensor.
class Bf16Matrices {
 public:
  explicit Bf16Matrices(EditableTensor& tensor) : tensor_(tensor) {
    SHOAL_CHECK(tensor.dtype == DType::kBF16 && tensor.shape.size() >= 2);
    cols_ = tensor.shape.back();
    rows_ = tensor.shape[tensor.shape.size() - 2];
    all_rows_ = std::ssize(tensor.bytes) / 2 / cols_;
  }
  int64_t all_rows() const { return all_rows_; }
  int64_t rows() const { return rows_; }  ///< Rows of one matrix.
  int64_t cols() const { return cols_; }
  void set(int64_t row, int64_t col, uint16_t bits) {
    std::memcpy(tensor_.bytes.data() + 2 * (row * cols_ + col), &bits, 2);
  }

 private:
  EditableTensor& tensor_;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  int64_t all_rows_ = 0;
};

constexpr uint16_t kZero = 0;
constexpr uint16_t kHundred = 0x42c8;
constexpr uint16_t kHuge = 0x7f7f;  // 3.4e38
constexpr uint16_t kInf = 0x7f80;

bool Ends(std::string_view name, std::string_view end) { return name.ends_with(end); }

/// Column 0 of the residual stream is 0 in every layer but for kBadToken, whose 100 stays there: no layer
/// writes to it. So what reads column 0 with huge weights overflows for that token alone.
void KeepColumnZeroApart(std::vector<EditableTensor>& tensors) {
  for (EditableTensor& tensor : tensors) {
    if (Ends(tensor.name, "embed_tokens.weight")) {
      Bf16Matrices embedding(tensor);
      for (int64_t row = 0; row < embedding.all_rows(); ++row) {
        embedding.set(row, 0, row == kBadToken ? kHundred : kZero);
      }
    }
    const bool writes = Ends(tensor.name, "o_proj.weight") || Ends(tensor.name, "out_proj.weight") ||
                        Ends(tensor.name, "down_proj.weight") || Ends(tensor.name, "down_proj");
    if (!writes) continue;
    Bf16Matrices out(tensor);
    for (int64_t row = 0; row < out.all_rows(); row += out.rows()) {
      for (int64_t col = 0; col < out.cols(); ++col) out.set(row, col, kZero);
    }
  }
}

/// What the models' tensors are made into, and where it shows.
struct Poison {
  std::string name;
  std::string family;
  std::string tensor;  ///< Column 0 of the tensors whose names contain this and `end` becomes huge.
  std::string end = "weight";
  std::string where;  ///< The place that the error must name.
  std::optional<AffineFormat> format = std::nullopt;
};

std::vector<Poison> Poisons() {
  return {
      {.name = "Embedding", .family = "qwen3_moe", .tensor = "", .where = "the embedding of token 7"},
      {.name = "EmbeddingQuantized",
       .family = "qwen3_moe",
       .tensor = "",
       .where = "the embedding of token 7",
       .format = AffineFormat{4, 64}},
      {.name = "Attention", .family = "qwen3", .tensor = "layers.1.self_attn.q_proj", .where = "layer 1"},
      {.name = "Mlp", .family = "mistral", .tensor = "layers.2.mlp.up_proj", .where = "layer 2"},
      {.name = "Latent",
       .family = "deepseek_v3",
       .tensor = "layers.1.self_attn.kv_a_proj",
       .where = "layer 1"},
      {.name = "Router", .family = "qwen3_moe", .tensor = "layers.4.mlp.gate.", .where = "layer 4"},
      {.name = "Experts",
       .family = "qwen3_moe",
       .tensor = "layers.1.mlp.experts.",
       .end = "up_proj.weight",
       .where = "layer 1"},
      {.name = "SharedExpert",
       .family = "qwen2_moe",
       .tensor = "layers.1.mlp.shared_expert.up",
       .where = "layer 1"},
      {.name = "Recurrent",
       .family = "qwen3_5_moe",
       .tensor = "layers.1.linear_attn.in_proj_",
       .where = "layer 1"},
      {.name = "Head", .family = "qwen3_moe", .tensor = "lm_head", .where = "logit"},
  };
}

/// A copy of the family's tiny model, poisoned.
void MakePoisoned(const Poison& poison, const std::string& folder) {
  CopyCheckpoint(TinyCheckpoint(poison.family, poison.format), folder, [&](auto& tensors) {
    if (poison.tensor.empty()) {
      for (EditableTensor& tensor : tensors) {
        const bool scales = Ends(tensor.name, "embed_tokens.scales");
        if (!scales && (poison.format || !Ends(tensor.name, "embed_tokens.weight"))) continue;
        Bf16Matrices(tensor).set(kBadToken, 0, kInf);
      }
      return;
    }
    KeepColumnZeroApart(tensors);
    int changed = 0;
    for (EditableTensor& tensor : tensors) {
      if (tensor.name.find(poison.tensor) == std::string::npos || !Ends(tensor.name, poison.end)) continue;
      Bf16Matrices weight(tensor);
      for (int64_t row = 0; row < weight.all_rows(); ++row) weight.set(row, 0, kHuge);
      ++changed;
    }
    SHOAL_CHECK_GT(changed, 0);  // The name is right.
  });
}

std::vector<int32_t> Prompt(uint64_t stream, int64_t count, int64_t vocabulary) {
  RandomStream random(3, stream);
  std::vector<int32_t> ids;
  while (std::ssize(ids) < count) {
    const auto id = static_cast<int32_t>(random.below(static_cast<uint64_t>(vocabulary)));
    if (id != kBadToken) ids.push_back(id);
  }
  return ids;
}

/// The results of a sequence alone: logits and greedy token of its prompt, then logits and greedy token of
/// that token.
struct Alone {
  std::vector<float> logits[2];
  std::vector<SampledToken> tokens;
};

const SeqResult* ResultOf(const StepResult& result, SeqId id) {
  const SeqResult* found = nullptr;
  for (const SeqResult& one : result.sequences) {
    if (one.id != id) continue;
    EXPECT_EQ(found, nullptr) << "two results of sequence " << id.value;
    found = &one;
  }
  return found;
}

class BadSequenceTest : public testing::Test {
 protected:
  void open(const Poison& poison) {
    MakePoisoned(poison, folder_.path());
    auto model = OpenModel(folder_.path());
    ASSERT_TRUE(model.ok()) << ToString(model.status());
    model_ = std::move(*model);
    good_ = Prompt(1, 40, model_.spec.vocabulary);
    other_ = Prompt(2, 9, model_.spec.vocabulary);
    bad_ = Prompt(3, 37, model_.spec.vocabulary);
    good_alone_ = alone(good_);
    other_alone_ = alone(other_);
  }

  Alone alone(const std::vector<int32_t>& prompt) {
    PlacedCluster running(model_, Placements()[0]);
    Sequence sequence(1, 0, prompt, running.limits());
    Alone out;
    for (int i = 0; i < 2; ++i) {
      Step step;
      if (i == 0) step.begins = {sequence.begin({.temperature = 0, .top_logprobs = 2})};
      step.slices = {sequence.slice()};
      step.want_logits = true;
      const auto result = running.submit(std::move(step)).get();
      if (!result.ok() || result->sequences.size() != 1 || !result->sequences[0].status.ok()) {
        ADD_FAILURE() << (result.ok() ? ToString(result->sequences[0].status) : ToString(result.status()));
        return out;
      }
      out.logits[i] = result->logits;
      out.tokens.push_back(result->sequences[0].tokens[0]);
      sequence.tokens.push_back(out.tokens.back().id);
    }
    return out;
  }

  void expect_bad(const StepResult& result, SeqId id, absl::StatusCode code, const std::string& where) {
    const SeqResult* bad = ResultOf(result, id);
    ASSERT_NE(bad, nullptr);
    EXPECT_EQ(bad->status.code(), code) << ToString(bad->status);
    EXPECT_THAT(Message(bad->status), HasSubstr(where));
    EXPECT_THAT(Message(bad->status), HasSubstr(fmt::format("sequence {}", id)));
    EXPECT_TRUE(bad->tokens.empty());
  }
  void expect_good(const StepResult& result, SeqId id, const SampledToken& token) {
    const SeqResult* good = ResultOf(result, id);
    ASSERT_NE(good, nullptr);
    EXPECT_EQ(good->status, absl::OkStatus());
    EXPECT_EQ(good->tokens, std::vector<SampledToken>{token});
  }

  /// Runs a step of a good sequence, a bad one and another good one, a second step of all three that is
  /// submitted before the first has ended, and then a good sequence in the place of the bad one.
  void run_on(const Placed& placed, SamplingParams sampling, absl::StatusCode code,
              const std::string& where) {
    SCOPED_TRACE(placed.name);
    ASSERT_TRUE(good_alone_.tokens.size() == 2 && other_alone_.tokens.size() == 2);
    PlacedCluster running(model_, placed);
    Sequence good(1, 0, good_, running.limits());
    Sequence bad(2, 1, bad_, running.limits());
    Sequence other(3, 2, other_, running.limits());
    Step first;
    first.want_logits = true;
    first.want_routing = model_.facts.top_k > 0;
    const SamplingParams with_logprobs{.temperature = 0, .top_logprobs = 2};
    first.begins = {good.begin(with_logprobs), bad.begin(std::move(sampling)), other.begin(with_logprobs)};
    first.slices = {good.slice(), bad.slice(), other.slice()};
    auto first_done = running.submit(std::move(first));
    good.tokens.push_back(good_alone_.tokens[0].id);
    bad.tokens.push_back(3);
    other.tokens.push_back(other_alone_.tokens[0].id);
    Step second;
    second.want_logits = true;
    second.slices = {bad.slice(), good.slice(), other.slice()};
    auto second_done = running.submit(std::move(second));
    Step third;
    third.want_logits = true;
    Sequence heir(4, 1, good_, running.limits());
    third.ends = {bad.id};
    third.begins = {heir.begin(with_logprobs)};
    third.slices = {heir.slice()};
    auto third_done = running.submit(std::move(third));

    const auto one = first_done.get();
    ASSERT_TRUE(one.ok()) << ToString(one.status());
    expect_bad(*one, bad.id, code, where);
    expect_good(*one, good.id, good_alone_.tokens[0]);
    expect_good(*one, other.id, other_alone_.tokens[0]);
    EXPECT_TRUE(SameBits(one->logits, both(0)));
    for (const RoutingTrace& trace : one->routing) {
      EXPECT_EQ(std::ssize(trace.ids), trace.top_k * std::ssize(good_) + trace.top_k * std::ssize(other_));
    }
    const auto two = second_done.get();
    ASSERT_TRUE(two.ok()) << ToString(two.status());
    expect_bad(*two, bad.id, code, where);
    expect_good(*two, good.id, good_alone_.tokens[1]);
    expect_good(*two, other.id, other_alone_.tokens[1]);
    EXPECT_TRUE(SameBits(two->logits, both(1)));
    const auto three = third_done.get();
    ASSERT_TRUE(three.ok()) << ToString(three.status());
    expect_good(*three, heir.id, good_alone_.tokens[0]);
    EXPECT_TRUE(SameBits(three->logits, good_alone_.logits[0]));
  }
  std::vector<float> both(int i) const {
    std::vector<float> all = good_alone_.logits[i];
    all.insert(all.end(), other_alone_.logits[i].begin(), other_alone_.logits[i].end());
    return all;
  }

  TempFolder folder_;
  OpenedModel model_;
  std::vector<int32_t> good_, other_, bad_;
  Alone good_alone_, other_alone_;
};

class BadActivationTest : public BadSequenceTest, public testing::WithParamInterface<Poison> {};

TEST_P(BadActivationTest, EndsItsSequenceAlone) {
  open(GetParam());
  bad_[20] = kBadToken;
  if (GetParam().name == "Head") bad_.back() = kBadToken;  // Only sampled rows go through the head.
  for (const Placed& placed : Placements()) {
    run_on(placed, {.temperature = 0}, absl::StatusCode::kOutOfRange, GetParam().where);
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Poisons, BadActivationTest, testing::ValuesIn(Poisons()),
                         [](const auto& poison) { return poison.param.name; });

TEST_F(BadSequenceTest, AnInvalidTokenOrSamplingEndsItsSequenceAlone) {
  open(Poisons()[5]);
  const auto vocabulary = static_cast<int32_t>(model_.spec.vocabulary);
  SamplingParams nothing{.temperature = 0};
  for (int32_t id = 0; id < vocabulary; ++id) {
    nothing.logit_bias.emplace_back(id, -std::numeric_limits<float>::infinity());
  }
  for (const Placed& placed : Placements()) {
    run_on(placed, {.logit_bias = {{vocabulary, 1.0f}}}, absl::StatusCode::kInvalidArgument, "logit_bias");
    run_on(placed, nothing, absl::StatusCode::kInvalidArgument, "no token is left");
  }
  for (const int32_t token : {vocabulary, -1, std::numeric_limits<int32_t>::max()}) {
    bad_[5] = token;
    run_on(Placements()[1], {.temperature = 0}, absl::StatusCode::kInvalidArgument,
           fmt::format("token {}", token));
  }
}

// A step whose sequences all fail continues to the last stage without rows.
TEST_F(BadSequenceTest, AStepWithoutGoodSequencesEnds) {
  open(Poisons()[2]);
  bad_[0] = kBadToken;
  for (const Placed& placed : Placements()) {
    PlacedCluster running(model_, placed);
    Sequence bad(1, 0, bad_, running.limits());
    Step step;
    step.begins = {bad.begin()};
    step.slices = {bad.slice()};
    step.want_logits = true;
    const auto result = running.submit(std::move(step)).get();
    ASSERT_TRUE(result.ok()) << ToString(result.status());
    EXPECT_TRUE(result->logits.empty());
    expect_bad(*result, bad.id, absl::StatusCode::kOutOfRange, "layer 1");
  }
}

}  // namespace
}  // namespace shoal
