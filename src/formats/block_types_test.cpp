#include "formats/block_types.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "base/status.h"
#include "formats/mapped_file.h"
#include "formats/safetensors.h"

namespace shoal {
namespace {

constexpr BlockType kAll[] = {BlockType::kQ4_0,  BlockType::kQ4_1, BlockType::kQ5_0, BlockType::kQ5_1,
                              BlockType::kQ8_0,  BlockType::kQ4_K, BlockType::kQ5_K, BlockType::kQ6_K,
                              BlockType::kMxfp4, BlockType::kQ2_K, BlockType::kQ3_K, BlockType::kIq4Nl,
                              BlockType::kIq4Xs};

/// tests/goldens/blocks: random blocks, and what the PyPI package `gguf` makes of them.
class Blocks : public testing::TestWithParam<BlockType> {
 protected:
  void SetUp() override {
    for (const std::string name : {"blocks.safetensors", "low_blocks.safetensors"}) read(name);
    ASSERT_EQ(static_cast<int64_t>(values_.size()), view_.rows * view_.cols);
  }

  void read(const std::string& file_name) {
    auto file = MappedFile::Open(std::string(SHOAL_SOURCE_DIR) + "/tests/goldens/blocks/" + file_name);
    ASSERT_TRUE(file.ok()) << ToString(file.status());
    files_.push_back(*std::move(file));
    auto header = ParseSafetensorsHeader(files_.back().bytes(), file_name);
    ASSERT_TRUE(header.ok()) << ToString(header.status());
    for (const TensorInfo& tensor : header->tensors) {
      const std::byte* data = files_.back().bytes().data() + tensor.bytes.begin;
      const std::string name(LawOf(GetParam()).name);
      if (tensor.name == name + ".blocks") {
        view_ = {.type = GetParam(), .data = data, .rows = tensor.shape[0], .cols = 512};
        ASSERT_EQ(view_.row_bytes(), tensor.shape[1]);
      }
      if (tensor.name == name + ".values") {
        values_.resize(static_cast<size_t>(tensor.bytes.size() / 4));
        std::memcpy(values_.data(), data, values_.size() * 4);
      }
    }
  }

  std::vector<MappedFile> files_;
  BlockView view_;
  std::vector<float> values_;
};

TEST_P(Blocks, HaveTheReferencesValuesToTheBit) {
  DecodedRows rows;
  const std::vector<int64_t> order = {2, 0, 1};
  ASSERT_TRUE(rows.decode(view_, order)) << rows.bad_row();
  for (size_t i = 0; i < order.size(); ++i) {
    for (int64_t col = 0; col < view_.cols; ++col) {
      const float expected = values_[static_cast<size_t>(order[i] * view_.cols + col)];
      const auto row = static_cast<int64_t>(i);
      const float got = LawOf(view_.type).bits > 0
                            ? AffineValue(rows.affine(), row, col)
                            : LoadFloatWeight(rows.floats(), DType::kF32, row * view_.cols + col);
      ASSERT_EQ(got, expected) << LawOf(view_.type).name << " row " << order[i] << " column " << col;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, Blocks, testing::ValuesIn(kAll),
                         [](const auto& tested) { return std::string(LawOf(tested.param).name); });

TEST(BlockTypes, RefuseScalesThatTheDecodedLayoutCannotHold) {
  std::vector<uint8_t> block(18);
  const BlockView view{.type = BlockType::kQ4_0,
                       .data = reinterpret_cast<const std::byte*>(block.data()),
                       .rows = 1,
                       .cols = 32};
  DecodedRows rows;
  const auto decodes = [&](float scale) {
    const uint16_t half = F32ToF16(scale);
    std::memcpy(block.data(), &half, 2);
    return rows.decode(view, {0});
  };
  EXPECT_TRUE(decodes(8176));  // -8 d = -65408 is the last that f16 holds.
  EXPECT_FALSE(decodes(8192));
  EXPECT_EQ(rows.bad_row(), 0);
  EXPECT_FALSE(decodes(std::numeric_limits<float>::infinity()));
  EXPECT_FALSE(decodes(std::numeric_limits<float>::quiet_NaN()));
  std::vector<uint8_t> mxfp4(17, 255);  // e8m0's NaN.
  EXPECT_FALSE(rows.decode({.type = BlockType::kMxfp4,
                            .data = reinterpret_cast<const std::byte*>(mxfp4.data()),
                            .rows = 1,
                            .cols = 32},
                           {0}));
}

}  // namespace
}  // namespace shoal
