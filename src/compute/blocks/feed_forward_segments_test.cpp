// Segments of a feed-forward give the bits of the whole, however many there are and whoever computes which.
#include "compute/blocks/feed_forward_segments.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "convert/testing/checkpoints.h"
#include "loading/weight_loader.h"
#include "models/spec.h"

namespace shoal {
namespace {

constexpr int64_t kRows = 5;

struct Subject {
  std::string family;
  std::optional<AffineFormat> format;
};

/// Families with silu, with gelu, with gate and up in one tensor, with a gating that has weights, with shared experts.
std::vector<Subject> Subjects() {
  std::vector<Subject> subjects;
  for (const char* family : {"qwen3", "llama", "gemma3_text", "phi3", "apertus", "qwen2_moe"}) {
    subjects.push_back({family, std::nullopt});
    subjects.push_back({family, AffineFormat{4, 64}});
  }
  subjects.push_back({"qwen3", AffineFormat{8, 32}});
  return subjects;
}

class Segments : public testing::TestWithParam<std::tuple<size_t, ActivationMode>> {
 protected:
  Segments() : pool_(2) {
    const auto& [subject, mode] = GetParam();
    const Subject of = Subjects()[subject];
    weights_ = *ResolvedWeights::Open(TinyCheckpoint(of.family, of.format));
    context_ = {.kernels = &SelectKernels(SupportedIsas().back()),
                .pool = &pool_,
                .arena = &arena_,
                .activations = mode};
    RandomStream random(9);
    x_.resize(static_cast<size_t>(kRows * width()));
    for (float& value : x_) value = static_cast<float>(random.uniform() * 2 - 1);
  }

  int64_t width() const { return weights_->spec().width; }
  const LayerSpec& layer() const { return weights_->spec().layers[1]; }
  MatView<const float> x() const { return {x_.data(), kRows, width()}; }

  std::vector<float> whole() {
    const auto mlp = Mlp::Load(WeightLoader(*weights_), *SharedByAllRows(layer()), pool_);
    SHOAL_CHECK(mlp.ok());
    std::vector<float> y(x_.size());
    LinearInput input(x());
    EXPECT_EQ(mlp->forward(context_, input, MatView<float>(y.data(), kRows, width())), absl::OkStatus());
    return y;
  }

  /// Two holders of `count` segments, who each have every other one.
  std::vector<float> by_segments(int32_t count) {
    std::vector<SegmentSet> holders;
    std::vector<std::vector<int32_t>> held(2);
    for (int32_t segment = 0; segment < count; ++segment)
      held[static_cast<size_t>(segment % 2)].push_back(segment);
    for (const auto& segments : held) {
      auto set = SegmentSet::Load(*weights_, LayerId{1}, count, segments, pool_);
      EXPECT_TRUE(set.ok()) << ToString(set.status());
      holders.push_back(*std::move(set));
    }
    const SegmentShape& shape = holders[0].shape();
    // Hidden values by segment, put together as they are whole: f32, or codes with scales and sums.
    const int group = context_.activations == ActivationMode::kInt8 ? shape.hidden_group : 0;
    std::vector<std::byte> memory(
        static_cast<size_t>(QuantizedRowsBytes(kRows, shape.width, std::max(group, 32)) + 64));
    QuantizedRows codes;
    void* const start = AlignedStart(memory);
    if (group != 0) codes = QuantizedRowsIn(start, kRows, shape.width, group);
    std::vector<float> floats(static_cast<size_t>(kRows * shape.width));
    for (size_t h = 0; h < 2; ++h) {
      for (const int32_t segment : held[h]) {
        const ArenaScope scope(arena_);
        const int32_t one[] = {segment};
        SegmentRows part;
        EXPECT_EQ(hidden_of(holders[h], one, part), absl::OkStatus());
        const Range to = shape.hidden[static_cast<size_t>(segment)];
        for (int64_t r = 0; r < kRows; ++r) {
          for (int64_t c = 0; c < to.size(); ++c) {
            if (group == 0) {
              floats[static_cast<size_t>(r * shape.width + to.begin + c)] = part.x.at(r, c);
              continue;
            }
            codes.codes[r * shape.width + to.begin + c] = part.codes->codes[r * to.size() + c];
            codes.scales[r * codes.groups() + (to.begin + c) / group] =
                part.codes->scales[r * part.codes->groups() + c / group];
            codes.sums[r * codes.groups() + (to.begin + c) / group] =
                part.codes->sums[r * part.codes->groups() + c / group];
          }
        }
      }
    }
    SegmentRows hidden{.x = MatView<const float>(floats.data(), kRows, shape.width)};
    if (group != 0) hidden.codes = codes;
    std::vector<float> y(x_.size());
    for (size_t h = 0; h < 2; ++h) {
      std::vector<float> out(static_cast<size_t>(kRows * TotalSize(shape.out, held[h])));
      const MatView<float> side(out.data(), kRows, TotalSize(shape.out, held[h]));
      EXPECT_EQ(holders[h].down(context_, held[h], hidden, side), absl::OkStatus());
      int64_t from = 0;
      for (const int32_t segment : held[h]) {
        const Range to = shape.out[static_cast<size_t>(segment)];
        for (int64_t r = 0; r < kRows; ++r) {
          std::copy_n(side.row(r) + from, to.size(), y.data() + r * width() + to.begin);
        }
        from += to.size();
      }
    }
    return y;
  }

  absl::Status hidden_of(const SegmentSet& set, std::span<const int32_t> segments, SegmentRows& part) {
    LinearInput input(x());
    SegmentRows rows{.x = x()};
    const int group = context_.activations == ActivationMode::kInt8 ? set.shape().input_group : 0;
    if (group != 0) rows.codes = *input.quantized(context_, group);
    return set.hidden(context_, segments, rows, part);
  }

  static void* AlignedStart(std::vector<std::byte>& memory) {
    void* start = memory.data();
    size_t space = memory.size();
    return std::align(64, memory.size() - 64, start, space);
  }

  ThreadPool pool_;
  Arena arena_;
  ComputeContext context_;
  std::shared_ptr<const ResolvedWeights> weights_;
  std::vector<float> x_;
};

TEST_P(Segments, GiveTheBitsOfTheWhole) {
  const std::vector<float> expected = whole();
  const int32_t most = SegmentsMax(*weights_, layer());
  ASSERT_GE(most, 3);
  for (const int32_t count : {1, 2, 3, most}) {
    const std::vector<float> got = by_segments(count);
    EXPECT_EQ(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)), 0)
        << count << " segments";
  }
}

TEST_P(Segments, HaveTheBytesOfTheWholeAndEachHolderWhatTheGatingIsMadeOf) {
  const DenseSpec& dense = *SharedByAllRows(layer());
  const int64_t whole_bytes = Mlp::Load(WeightLoader(*weights_), dense, pool_)->bytes();
  const int64_t gating_bytes = GatingRule::Load(WeightLoader(*weights_), dense)->bytes();
  EXPECT_EQ(gating_bytes > 0, dense.activation == Activation::kXielu);
  const std::vector<std::vector<int32_t>> holders = {{0, 1}, {}};
  EXPECT_EQ(SegmentSet::Load(*weights_, LayerId{1}, 2, holders[0], pool_)->bytes(), whole_bytes);
  EXPECT_EQ(SegmentSet::Load(*weights_, LayerId{1}, 2, holders[1], pool_)->bytes(), 0);
  int64_t apart = 0;
  for (const std::vector<int32_t>& one : {std::vector<int32_t>{0}, std::vector<int32_t>{1}}) {
    apart += SegmentSet::Load(*weights_, LayerId{1}, 2, one, pool_)->bytes();
  }
  EXPECT_GE(apart, whole_bytes + gating_bytes);
}

TEST_P(Segments, AreRefusedWhereTheyAreNotHeldOrTheRowsAreOfAnotherKind) {
  const int32_t most = SegmentsMax(*weights_, layer());
  EXPECT_EQ(SegmentSet::Load(*weights_, LayerId{1}, most + 1, {}, pool_).status().code(),
            absl::StatusCode::kInvalidArgument);
  const std::vector<int32_t> held = {1};
  const auto set = SegmentSet::Load(*weights_, LayerId{1}, 3, held, pool_);
  ASSERT_TRUE(set.ok()) << ToString(set.status());
  const DenseSpec& dense = *SharedByAllRows(layer());
  const auto whole_bytes = Mlp::Load(WeightLoader(*weights_), dense, pool_)->bytes();
  EXPECT_LT(set->bytes(), whole_bytes * 2 / 5);
  EXPECT_GT(set->bytes(), whole_bytes / 4);
  SegmentRows part;
  const int32_t other[] = {0};
  EXPECT_EQ(hidden_of(*set, other, part).code(), absl::StatusCode::kFailedPrecondition);
  std::vector<float> narrow(static_cast<size_t>(kRows * 32));
  const SegmentRows hidden{.x = MatView<const float>(narrow.data(), kRows, 32)};
  EXPECT_EQ(set->down(context_, held, hidden, MatView<float>(narrow.data(), kRows, 32)).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(set->hidden(context_, held, {.x = hidden.x}, part).code(), absl::StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Families, Segments,
                         testing::Combine(testing::Range(size_t{0}, Subjects().size()),
                                          testing::Values(ActivationMode::kInt8, ActivationMode::kF32)));

}  // namespace
}  // namespace shoal
