// Every way in which a WeightRef may point into a checkpoint.
#include "loading/weight_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "base/random.h"
#include "base/status.h"
#include "convert/testing/checkpoints.h"
#include "formats/safetensors.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kCols = 64;

/// A folder with one plain and one 4-bit tensor of each kind:
///   plain  [24, 64] f32, plain_stack [3, 8, 64] f32, fused  [24, 64] 4-bit, fused_stack [3, 8, 64] 4-bit.
class WeightLoaderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::ofstream(folder_.path() + "/config.json") << R"({"quantization": {"bits": 4, "group_size": 32}})";
    const std::vector<SafetensorsWriter::Entry> entries = {
        {"plain.weight", DType::kF32, {24, kCols}},     {"plain_stack.weight", DType::kF32, {3, 8, kCols}},
        {"fused.weight", DType::kU32, {24, 8}},         {"fused.scales", DType::kF32, {24, 2}},
        {"fused.biases", DType::kF32, {24, 2}},         {"fused_stack.weight", DType::kU32, {3, 8, 8}},
        {"fused_stack.scales", DType::kF32, {3, 8, 2}}, {"fused_stack.biases", DType::kF32, {3, 8, 2}},
    };
    auto writer = SafetensorsWriter::Create(folder_.path() + "/model.safetensors", entries);
    ASSERT_TRUE(writer.ok()) << writer.status();
    RandomStream random(1);
    for (const SafetensorsWriter::Entry& entry : entries) {
      std::vector<std::byte> bytes(static_cast<size_t>(*ElementCount(entry.shape)) * 4);
      for (size_t i = 0; i < bytes.size(); i += 4) {
        const auto code = static_cast<uint32_t>(random.bits());
        const auto value = static_cast<float>(random.uniform() - 0.5);
        std::memcpy(&bytes[i], entry.dtype == DType::kU32 ? static_cast<const void*>(&code) : &value, 4);
      }
      ASSERT_TRUE(writer->append(bytes).ok());
    }
    ASSERT_TRUE(writer->finish().ok());
    auto checkpoint = Checkpoint::Open(folder_.path());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
  }

  /// Rows of the packed weight, as f32.
  std::vector<float> Unpacked(const WeightRef& ref, int threads = 1) const {
    const auto loader = WeightLoader::Create(*checkpoint_);
    EXPECT_TRUE(loader.ok()) << loader.status();
    const auto weight = loader->find(ref);
    EXPECT_TRUE(weight.ok()) << weight.status();
    ThreadPool pool(threads);
    const auto matrices = loader->pack({&*weight, 1}, pool);
    EXPECT_TRUE(matrices.ok()) << matrices.status();
    const PackedMatrix* packed = &matrices->front();
    std::vector<float> rows(static_cast<size_t>(ref.elements()));
    for (int64_t r = 0; r < packed->rows(); ++r) packed->unpack_row(r, rows.data() + r * kCols);
    return rows;
  }

  /// A stacked tensor read as the matrix [24, 64] that its bytes also are.
  std::vector<float> Flat(const std::string& base) const {
    const auto data = [&](const char* suffix) {
      const TensorInfo* info = checkpoint_->find(base + suffix);
      return info == nullptr ? nullptr : checkpoint_->view(*info).data;
    };
    const std::byte* weight = data(".weight");
    const bool quantized = data(".scales") != nullptr;
    const AffineView view{.words = weight,
                          .scales = data(".scales"),
                          .biases = data(".biases"),
                          .scale_dtype = DType::kF32,
                          .rows = 24,
                          .cols = kCols,
                          .bits = 4,
                          .group = 32};
    std::vector<float> values;
    for (int64_t i = 0; i < 24 * kCols; ++i) {
      values.push_back(quantized ? AffineValue(view, i / kCols, i % kCols)
                                 : LoadFloatWeight(weight, DType::kF32, i));
    }
    return values;
  }

  static std::vector<float> Part(const std::vector<float>& all, int64_t first_row, int64_t rows) {
    return {all.begin() + first_row * kCols, all.begin() + (first_row + rows) * kCols};
  }

  TempFolder folder_;
  std::shared_ptr<const Checkpoint> checkpoint_;
};

TEST_F(WeightLoaderTest, ARowSliceIsThoseRowsOfTheWhole) {
  for (const char* base : {"plain", "fused"}) {
    const std::vector<float> all = Unpacked({.shape = {24, kCols}, .sources = {{.base = base}}});
    for (const Range rows : {Range{0, 8}, Range{5, 22}, Range{23, 24}}) {
      const WeightRef slice{.shape = {rows.size(), kCols},
                            .sources = {{.base = base, .rows = rows, .stored_rows = 24}}};
      EXPECT_EQ(Unpacked(slice, 2), Part(all, rows.begin, rows.size())) << base << " " << rows.begin;
    }
  }
}

TEST_F(WeightLoaderTest, RowsThatTakeTurnsAreEverySecondOne) {
  for (const char* base : {"plain", "fused"}) {
    const std::vector<float> all = Unpacked({.shape = {24, kCols}, .sources = {{.base = base}}});
    for (const int64_t first : {3, 4}) {
      const WeightRef turn{
          .shape = {10, kCols},
          .sources = {{.base = base, .rows = {first, first + 19}, .stored_rows = 24, .row_interval = 2}}};
      std::vector<float> expected;
      for (int64_t row = first; row < first + 20; row += 2) {
        const std::vector<float> one = Part(all, row, 1);
        expected.insert(expected.end(), one.begin(), one.end());
      }
      EXPECT_EQ(Unpacked(turn, 2), expected) << base << " " << first;
      const auto loader = WeightLoader::Create(*checkpoint_);
      std::vector<float> read(expected.size());
      ASSERT_TRUE(loader->read_rows(*loader->find(turn), {0, 10}, read.data()).ok());
      EXPECT_EQ(read, expected) << base << " " << first;
    }
  }
}

TEST_F(WeightLoaderTest, ColumnsThatAreRowsOfCodesAreReadAsFloats) {
  const std::vector<float> all = Unpacked({.shape = {24, kCols}, .sources = {{.base = "fused"}}});
  WeightRef columns{.shape = {kCols, 7}, .sources = {{.base = "fused"}}};
  columns.sources[0].strided = WeightSource::StridedView{
      .stored_shape = {24, kCols}, .offset = 5 * kCols, .row_stride = 1, .col_stride = kCols};
  const auto loader = WeightLoader::Create(*checkpoint_);
  ASSERT_TRUE(loader.ok()) << loader.status();
  const auto weight = loader->find(columns);
  ASSERT_TRUE(weight.ok()) << weight.status();
  EXPECT_FALSE(weight->format.affine());
  std::vector<float> expected;
  for (int64_t row = 0; row < kCols; ++row) {
    for (int64_t col = 0; col < 7; ++col)
      expected.push_back(all[static_cast<size_t>((5 + col) * kCols + row)]);
  }
  std::vector<float> read(expected.size());
  ASSERT_TRUE(loader->read_rows(*weight, {0, kCols}, read.data()).ok());
  EXPECT_EQ(read, expected);
  ThreadPool pool(2);
  const auto packed = loader->pack({&*weight, 1}, pool);
  ASSERT_TRUE(packed.ok()) << packed.status();
  for (int64_t row = 0; row < kCols; ++row) packed->front().unpack_row(row, read.data() + row * 7);
  EXPECT_EQ(read, expected);
}

TEST_F(WeightLoaderTest, AStackedWeightIsItsOwnMatrix) {
  for (const char* base : {"plain", "fused"}) {
    std::vector<float> joined;
    for (int64_t i = 0; i < 3; ++i) {
      const std::vector<float> one = Unpacked(
          {.shape = {8, kCols}, .sources = {{.base = base + std::string("_stack"), .stack = 3, .index = i}}});
      joined.insert(joined.end(), one.begin(), one.end());
    }
    EXPECT_EQ(joined, Flat(base + std::string("_stack")));
  }
}

TEST_F(WeightLoaderTest, TheFirstPlaceThatExistsIsTaken) {
  const WeightRef ref{.shape = {24, kCols},
                      .sources = {{.base = "absent"}, {.base = "plain"}, {.base = "fused"}}};
  EXPECT_EQ(Unpacked(ref), Unpacked({.shape = {24, kCols}, .sources = {{.base = "plain"}}}));
  const auto loader = WeightLoader::Create(*checkpoint_);
  const auto missing =
      loader->find(WeightRef{.shape = {24, kCols}, .sources = {{.base = "absent"}, {.base = "gone"}}});
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(missing.status()), HasSubstr("absent.weight"));
  EXPECT_THAT(Message(missing.status()), HasSubstr("gone.weight"));
}

std::vector<uint8_t> BytesOf(const PackedMatrix& matrix) {
  return {matrix.view().data, matrix.view().data + matrix.bytes()};
}

TEST_F(WeightLoaderTest, WeightsPackedTogetherAreThoseEachPackedAlone) {
  const auto loader = WeightLoader::Create(*checkpoint_);
  const std::vector<Range> parts = {{5, 22}, {23, 24}, {0, 24}};
  std::vector<WeightRef> refs;  // A StoredWeight points into its ref.
  for (const Range rows : parts) {
    refs.push_back(
        {.shape = {rows.size(), kCols}, .sources = {{.base = "fused", .rows = rows, .stored_rows = 24}}});
  }
  std::vector<StoredWeight> weights;
  for (const WeightRef& ref : refs) weights.push_back(*loader->find(ref));
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    const auto together = loader->pack(weights, pool);
    ASSERT_TRUE(together.ok()) << together.status();
    ASSERT_EQ(together->size(), weights.size());
    for (size_t i = 0; i < weights.size(); ++i) {
      PackedMatrix alone = *PackedMatrix::Allocate(weights[i].format, weights[i].rows, weights[i].cols);
      alone.set_affine_rows(0, weights[i].affine, parts[i]);
      EXPECT_EQ(BytesOf((*together)[i]), BytesOf(alone)) << threads << " threads, weight " << i;
    }
  }
}

TEST(WeightLoader, AMatrixOfBlocksIsTransposedAsFloats) {
  constexpr int64_t kRows = 12;
  constexpr int64_t kWidth = 40;
  TempFolder folder;
  std::ofstream(folder.path() + "/config.json")
      << R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [8, 16]}})";
  auto writer = SafetensorsWriter::Create(
      folder.path() + "/model.safetensors",
      {{"w.weight", DType::kF8E4M3, {kRows, kWidth}}, {"w.weight_scale_inv", DType::kF32, {2, 3}}});
  ASSERT_TRUE(writer.ok()) << writer.status();
  std::vector<uint8_t> codes(kRows * kWidth);
  // 1, 1.125, 1.25 .. 1.875 times 1, 2 or 4: e4m3 codes from 0x38 on.
  const auto value_of = [](uint8_t code) {
    return (1 + static_cast<float>(code % 8) / 8) * static_cast<float>(1 << (code / 8 - 7));
  };
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(0x38 + i * 7 % 24);
  const std::vector<float> scales = {1, 0.5f, 2, 4, 0.25f, 8};
  ASSERT_TRUE(writer->append(std::as_bytes(std::span(codes))).ok());
  ASSERT_TRUE(writer->append(std::as_bytes(std::span(scales))).ok());
  ASSERT_TRUE(writer->finish().ok());
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto loader = WeightLoader::Create(**checkpoint);
  // Columns of rows 3 to 10: what latent attention does to the keys of a head.
  WeightRef ref{.shape = {kWidth, 7}, .sources = {{.base = "w"}}};
  ref.sources[0].strided = WeightSource::StridedView{
      .stored_shape = {kRows, kWidth}, .offset = 3 * kWidth, .row_stride = 1, .col_stride = kWidth};
  const auto weight = loader->find(ref);
  ASSERT_TRUE(weight.ok()) << weight.status();
  EXPECT_EQ(weight->stored_bytes(), 7 * kWidth);
  std::vector<float> expected;
  for (int64_t n = 0; n < kWidth; ++n) {
    for (int64_t row = 3; row < 10; ++row) {
      expected.push_back(value_of(codes[static_cast<size_t>(row * kWidth + n)]) *
                         scales[static_cast<size_t>(row / 8 * 3 + n / 16)]);
    }
  }
  std::vector<float> read(expected.size());
  ASSERT_TRUE(loader->read_rows(*weight, {0, kWidth}, read.data()).ok());
  EXPECT_EQ(read, expected);
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    const auto packed = loader->pack({&*weight, 1}, pool);
    ASSERT_TRUE(packed.ok()) << packed.status();
    std::vector<float> rows(expected.size());
    for (int64_t n = 0; n < kWidth; ++n) packed->front().unpack_row(n, rows.data() + n * 7);
    EXPECT_EQ(rows, expected) << threads;
  }
  loader->drop(*weight);
  // Another order of blocks is refused, not guessed.
  ref.sources[0].strided->row_stride = 2;
  EXPECT_EQ(loader->find(ref).status().code(), absl::StatusCode::kUnimplemented);
}

/// One random matrix 'w' of 18 MB: several slabs for each of some threads.
struct LargeMatrix {
  static constexpr int64_t kRows = 33'333;
  static constexpr int64_t kWidth = 270;

  TempFolder folder;
  std::vector<uint64_t> words = std::vector<uint64_t>(kRows * kWidth / 4 + 1);
  std::shared_ptr<const Checkpoint> checkpoint;

  std::span<const std::byte> bytes() const {
    return std::as_bytes(std::span(words)).first(kRows * kWidth * 2);
  }
  LargeMatrix() {
    std::ofstream(folder.path() + "/config.json") << "{}";
    auto writer = SafetensorsWriter::Create(folder.path() + "/model.safetensors",
                                            {{"w.weight", DType::kF16, {kRows, kWidth}}});
    SHOAL_CHECK(writer.ok());
    RandomStream random(2);
    for (uint64_t& word : words) word = random.bits();
    SHOAL_CHECK(writer->append(bytes()).ok() && writer->finish().ok());
    checkpoint = *Checkpoint::Open(folder.path());
  }
  PackedMatrix packed(Range rows) const {
    const std::byte* const first = bytes().data() + rows.begin * kWidth * 2;
    return *PackedMatrix::PackFloat(first, DType::kF16, rows.size(), kWidth, kWidth);
  }
};

TEST(WeightLoader, AMatrixOfManySlabsIsPackedAsIfItWereOne) {
  const LargeMatrix matrix;
  const auto loader = WeightLoader::Create(*matrix.checkpoint);
  const WeightRef ref{.shape = {LargeMatrix::kRows, LargeMatrix::kWidth}, .sources = {{.base = "w"}}};
  const StoredWeight weight = *loader->find(ref);
  const PackedMatrix expected = matrix.packed({0, LargeMatrix::kRows});
  for (const int threads : {1, 3, 40}) {
    ThreadPool pool(threads);
    EXPECT_EQ(BytesOf(loader->pack({&weight, 1}, pool)->front()), BytesOf(expected)) << threads;
  }
}

TEST(WeightLoader, ManyMatricesPackedTogetherAreThoseEachPackedAlone) {
  const LargeMatrix matrix;
  const auto loader = WeightLoader::Create(*matrix.checkpoint);
  // Side by side, with gaps, and backwards: whatever is given back with a matrix, the others are not lost.
  std::vector<Range> parts;
  for (int64_t row = 0; row + 3000 <= LargeMatrix::kRows; row += 3000) parts.push_back({row, row + 3000});
  for (int64_t row = 30'000; row > 0; row -= 1700) parts.push_back({row, row + 999});
  std::vector<WeightRef> refs;
  for (const Range rows : parts) {
    refs.push_back({.shape = {rows.size(), LargeMatrix::kWidth},
                    .sources = {{.base = "w", .rows = rows, .stored_rows = LargeMatrix::kRows}}});
  }
  std::vector<StoredWeight> weights;
  for (const WeightRef& ref : refs) weights.push_back(*loader->find(ref));
  for (const int threads : {1, 2, 7}) {
    ThreadPool pool(threads);
    const auto together = loader->pack(weights, pool);
    ASSERT_TRUE(together.ok()) << together.status();
    for (size_t i = 0; i < parts.size(); ++i) {
      EXPECT_EQ(BytesOf((*together)[i]), BytesOf(matrix.packed(parts[i]))) << threads << " threads, " << i;
    }
  }
}

TEST_F(WeightLoaderTest, StoredBytesAreThoseOfTheSlice) {
  const auto loader = WeightLoader::Create(*checkpoint_);
  const auto plain = loader->find(
      WeightRef{.shape = {3, kCols}, .sources = {{.base = "plain", .rows = {1, 4}, .stored_rows = 24}}});
  EXPECT_EQ(plain->stored_bytes(), 3 * kCols * 4);
  const auto fused = loader->find(
      WeightRef{.shape = {3, kCols}, .sources = {{.base = "fused", .rows = {1, 4}, .stored_rows = 24}}});
  EXPECT_EQ(fused->stored_bytes(), 3 * (kCols / 2 + 2 * 2 * 4));
}

}  // namespace
}  // namespace shoal
