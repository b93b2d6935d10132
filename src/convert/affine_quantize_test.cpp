#include "convert/affine_quantize.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/status.h"
#include "formats/mapped_file.h"
#include "formats/safetensors.h"

namespace shoal {
namespace {

/// tests/goldens/blocks/mlx_affine.safetensors: <dtype>.weights, and what mx.quantize makes of them.
class MlxAffine : public testing::Test {
 protected:
  void SetUp() override {
    auto file =
        MappedFile::Open(std::string(SHOAL_SOURCE_DIR) + "/tests/goldens/blocks/mlx_affine.safetensors");
    ASSERT_TRUE(file.ok()) << ToString(file.status());
    file_.emplace(*std::move(file));
    auto header = ParseSafetensorsHeader(file_->bytes(), "mlx_affine.safetensors");
    ASSERT_TRUE(header.ok()) << ToString(header.status());
    header_ = *std::move(header);
  }

  std::pair<const std::byte*, const TensorInfo*> find(const std::string& name) const {
    for (const TensorInfo& tensor : header_.tensors) {
      if (tensor.name == name) return {file_->bytes().data() + tensor.bytes.begin, &tensor};
    }
    ADD_FAILURE() << "no tensor " << name;
    return {nullptr, nullptr};
  }
  void expect_equal(const std::string& name, const std::vector<std::byte>& got) const {
    const auto [data, info] = find(name);
    ASSERT_EQ(info->bytes.size(), std::ssize(got)) << name;
    EXPECT_EQ(std::memcmp(data, got.data(), got.size()), 0) << name;
  }

  std::optional<MappedFile> file_;
  SafetensorsHeader header_;
};

TEST_F(MlxAffine, EveryCodeScaleAndBiasIsMlxs) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    const auto [data, info] = find(fmt::format("{}.weights", DTypeName(dtype)));
    const int64_t rows = info->shape[0];
    const int64_t cols = info->shape[1];
    for (const int bits : {2, 3, 4, 5, 6, 8}) {
      for (const int group : {32, 64, 128}) {
        const auto row_words = static_cast<size_t>(cols * bits / 8);
        const auto row_scales = static_cast<size_t>(cols / group * DTypeBytes(dtype));
        std::vector<std::byte> words(row_words * static_cast<size_t>(rows));
        std::vector<std::byte> scales(row_scales * static_cast<size_t>(rows));
        std::vector<std::byte> biases(scales.size());
        std::vector<float> row(static_cast<size_t>(cols));
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t c = 0; c < cols; ++c)
            row[static_cast<size_t>(c)] = LoadFloatWeight(data, dtype, r * cols + c);
          const auto at = static_cast<size_t>(r);
          QuantizeAffineRow(row, {bits, group}, dtype,
                            {&words[at * row_words], &scales[at * row_scales], &biases[at * row_scales]});
        }
        const std::string name = fmt::format("{}.{}.{}", DTypeName(dtype), bits, group);
        expect_equal(name + ".words", words);
        expect_equal(name + ".scales", scales);
        expect_equal(name + ".biases", biases);
      }
    }
  }
}

}  // namespace
}  // namespace shoal
