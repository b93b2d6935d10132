#include "formats/encoded_tensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "base/status.h"
#include "formats/checkpoint.h"
#include "formats/test_files.h"

namespace shoal {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

struct Part {
  SafetensorsWriter::Entry entry;
  std::string bytes;
};

template <class T>
std::string Bytes(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

absl::StatusOr<std::shared_ptr<const Checkpoint>> Open(const TemporaryFolder& folder, std::string_view config,
                                                       const std::vector<Part>& parts) {
  folder.write("config.json", config);
  std::vector<SafetensorsWriter::Entry> entries;
  for (const Part& part : parts) entries.push_back(part.entry);
  ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::Create(folder / "model.safetensors", entries));
  for (const Part& part : parts) RETURN_IF_ERROR(writer.append(std::as_bytes(std::span(part.bytes))));
  RETURN_IF_ERROR(writer.finish());
  return Checkpoint::Open(folder.path());
}

/// All values of the weight `name`.
std::vector<float> ValuesOf(const Checkpoint& checkpoint, std::string_view name) {
  const TensorInfo* info = checkpoint.find(name);
  EXPECT_NE(info, nullptr) << name;
  if (info == nullptr || info->blocks == BlockType::kNone) return {};
  const auto view = checkpoint.view_blocks(*info, info->shape);
  EXPECT_TRUE(view.ok()) << ToString(view.status());
  std::vector<int64_t> rows(static_cast<size_t>(view->rows));
  std::iota(rows.begin(), rows.end(), 0);
  DecodedRows decoded;
  EXPECT_TRUE(decoded.decode(*view, rows)) << decoded.bad_row();
  std::vector<float> values;
  for (int64_t row = 0; row < view->rows; ++row) {
    for (int64_t col = 0; col < view->cols; ++col) {
      values.push_back(decoded.value(row, col));
    }
  }
  return values;
}

TEST(EncodedTensors, MlxsSmallFloatsHaveMlxsValuesToTheBit) {
  // tests/goldens/blocks/mlx_micro.safetensors: <mode>.words, .scales and .values by mx.quantize and
  // mx.dequantize.
  const auto file =
      MappedFile::Open(std::string(SHOAL_SOURCE_DIR) + "/tests/goldens/blocks/mlx_micro.safetensors");
  ASSERT_TRUE(file.ok()) << ToString(file.status());
  const auto header = ParseSafetensorsHeader(file->bytes(), "mlx_micro.safetensors");
  ASSERT_TRUE(header.ok()) << ToString(header.status());
  for (const std::string mode : {"mxfp4", "nvfp4", "mxfp8"}) {
    std::vector<Part> parts;
    std::vector<float> expected;
    for (const TensorInfo& tensor : header->tensors) {
      if (!tensor.name.starts_with(mode + ".")) continue;
      const char* data = reinterpret_cast<const char*>(file->bytes().data()) + tensor.bytes.begin;
      const std::string bytes(data, static_cast<size_t>(tensor.bytes.size()));
      if (tensor.name.ends_with(".values")) {
        expected.resize(bytes.size() / 4);
        std::memcpy(expected.data(), bytes.data(), bytes.size());
      } else {
        parts.push_back(
            {{tensor.name.ends_with(".words") ? "a.weight" : "a.scales", tensor.dtype, tensor.shape}, bytes});
      }
    }
    const TemporaryFolder folder;
    const auto checkpoint = Open(folder, R"({"quantization": {"mode": ")" + mode + R"("}})", parts);
    ASSERT_TRUE(checkpoint.ok()) << ToString(checkpoint.status());
    EXPECT_FALSE((*checkpoint)->has("a.scales"));
    ASSERT_EQ(expected.size(), 3u * 128);
    EXPECT_EQ(ValuesOf(**checkpoint, "a.weight"), expected) << mode;
  }
}

TEST(EncodedTensors, GptOsssBlocksAreAStackOfMatricesUnderTheNameOfAWeight) {
  // Expert 0, row 0: every e2m1 twice, low nibble first, at scale 2^(128 - 127). Expert 1, row 1: 0.5 at
  // 2^-2.
  std::vector<uint8_t> blocks(2 * 2 * 1 * 16);
  for (size_t i = 0; i < 16; ++i) blocks[i] = static_cast<uint8_t>(2 * i % 16 | (2 * i + 1) % 16 << 4);
  std::fill(blocks.begin() + 48, blocks.end(), 0x11);
  const std::vector<uint8_t> scales = {128, 127, 127, 125};
  const TemporaryFolder folder;
  const auto checkpoint = Open(folder, "{}",
                               {{{"a.up_blocks", DType::kU8, {2, 2, 1, 16}}, Bytes(blocks)},
                                {{"a.up_scales", DType::kU8, {2, 2, 1}}, Bytes(scales)}});
  ASSERT_TRUE(checkpoint.ok()) << ToString(checkpoint.status());
  ASSERT_EQ((*checkpoint)->tensors().size(), 1u);
  EXPECT_THAT((*checkpoint)->find("a.up.weight")->shape, ElementsAre(2, 2, 32));
  const std::vector<float> values = ValuesOf(**checkpoint, "a.up.weight");
  const std::vector<float> table = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  std::vector<float> expected = table;
  expected.insert(expected.end(), table.begin(), table.end());
  expected.resize(96);
  expected.resize(128, 0.125f);
  EXPECT_EQ(values, expected);
}

TEST(EncodedTensors, Fp8HasAScalePerBlockAndItsTinyNumbers) {
  std::vector<uint8_t> codes(3 * 5, 0x38);  // 1
  codes[0] = 0x01;                          // 2^-9, the smallest
  codes[1] = 0x7e;                          // 448, the largest
  codes[2] = 0x88;                          // -2^-6, the smallest normal
  codes[3] = 0xb9;                          // -1.125
  const std::vector<float> scales = {1, 2, 3, 4, 5, 6};
  const TemporaryFolder folder;
  const auto checkpoint =
      Open(folder, R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 2]}})",
           {{{"a.weight", DType::kF8E4M3, {3, 5}}, Bytes(codes)},
            {{"a.weight_scale_inv", DType::kF32, {2, 3}}, Bytes(scales)}});
  ASSERT_TRUE(checkpoint.ok()) << ToString(checkpoint.status());
  EXPECT_THAT(ValuesOf(**checkpoint, "a.weight"),
              ElementsAre(0x1p-9f, 448, -0x1p-6f * 2, -2.25f, 3, 1, 1, 2, 2, 3, 4, 4, 5, 5, 6));
}

TEST(EncodedTensors, DeepseekV4HasExponentsForScalesAndTwoE2m1ToAByte) {
  const std::vector<uint8_t> codes = {0x38, 0x40, 0xb9, 0x38, 0x01, 0x7e};  // 1, 2, -1.125; 1, 2^-9, 448
  std::vector<uint8_t> nibbles(16);
  for (size_t i = 0; i < 16; ++i) nibbles[i] = static_cast<uint8_t>(2 * i % 16 | (2 * i + 1) % 16 << 4);
  const auto parts = [&](int64_t groups) {
    return std::vector<Part>{{{"a.weight", DType::kF8E4M3, {2, 3}}, Bytes(codes)},
                             {{"a.scale", DType::kF8E8M0, {1, 2}}, Bytes(std::vector<uint8_t>{128, 126})},
                             {{"b.weight", DType::kI8, {1, 16}}, Bytes(nibbles)},
                             {{"b.scale", DType::kF8E8M0, {1, groups}},
                              Bytes(std::vector<uint8_t>(static_cast<size_t>(groups), 128))}};
  };
  constexpr char kConfig[] =
      R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 2]}})";
  const TemporaryFolder folder;
  const auto checkpoint = Open(folder, kConfig, parts(1));
  ASSERT_TRUE(checkpoint.ok()) << ToString(checkpoint.status());
  EXPECT_EQ((*checkpoint)->tensors().size(), 2u);
  EXPECT_THAT(ValuesOf(**checkpoint, "a.weight"), ElementsAre(2, 4, -0.5625f, 2, 0x1p-8f, 224));
  const std::vector<float> table = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  std::vector<float> expected = table;
  expected.insert(expected.end(), table.begin(), table.end());
  EXPECT_EQ(ValuesOf(**checkpoint, "b.weight"), expected);
  const TemporaryFolder other;
  EXPECT_THAT(Message(Open(other, kConfig, parts(2)).status()), HasSubstr("expected beside it 'b.scale'"));
}

constexpr int64_t kRows = 16;
constexpr int64_t kCols = 64;

int CodeAt(int64_t row, int64_t col) { return static_cast<int>((row * 5 + col * 3 + row * col) % 16); }
int ZeroAt(int64_t row, int64_t group) { return static_cast<int>((row * 3 + group * 7) % 16); }
float ScaleAt(int64_t row, int64_t group) {
  return 0x1p-10f * static_cast<float>(1025 + 13 * row + 100 * group);
}

/// s (q - z - less) of every element.
std::vector<float> Expected(int less) {
  std::vector<float> values;
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t col = 0; col < kCols; ++col) {
      const int64_t group = col / 32;
      values.push_back(ScaleAt(row, group) *
                       static_cast<float>(CodeAt(row, col) - ZeroAt(row, group) - less));
    }
  }
  return values;
}

/// scales f16 [K / 32, N], qzeros i32 [K / 32, N / 8] with row r's zero at nibble place[r % 8].
std::vector<Part> ScalesAndZeros(const int (&place)[8]) {
  std::vector<uint16_t> scales;
  std::vector<uint32_t> zeros(kCols / 32 * kRows / 8);
  for (int64_t group = 0; group < kCols / 32; ++group) {
    for (int64_t row = 0; row < kRows; ++row) {
      scales.push_back(F32ToF16(ScaleAt(row, group)));
      zeros[static_cast<size_t>(group * kRows / 8 + row / 8)] |= static_cast<uint32_t>(ZeroAt(row, group))
                                                                 << (4 * place[row % 8]);
    }
  }
  return {{{"a.scales", DType::kF16, {kCols / 32, kRows}}, Bytes(scales)},
          {{"a.qzeros", DType::kI32, {kCols / 32, kRows / 8}}, Bytes(zeros)}};
}

TEST(EncodedTensors, GptqsWordsRunDownTheColumnsAndItsZerosLackOne) {
  std::vector<uint32_t> words(kCols / 8 * kRows);
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t col = 0; col < kCols; ++col) {
      words[static_cast<size_t>(col / 8 * kRows + row)] |= static_cast<uint32_t>(CodeAt(row, col))
                                                           << (4 * (col % 8));
    }
  }
  std::vector<Part> parts = ScalesAndZeros({0, 1, 2, 3, 4, 5, 6, 7});
  parts.push_back({{"a.qweight", DType::kI32, {kCols / 8, kRows}}, Bytes(words)});
  parts.push_back({{"a.g_idx", DType::kI32, {kCols}}, std::string(kCols * 4, '\0')});
  for (const auto& [format, less] : {std::pair("gptq", 1), std::pair("gptq_v2", 0)}) {
    const TemporaryFolder folder;
    const auto checkpoint =
        Open(folder,
             fmt::format(R"({{"quantization_config": {{"quant_method": "gptq", "bits": 4, "group_size": 32,
                             "desc_act": false, "checkpoint_format": "{}"}}}})",
                         format),
             parts);
    ASSERT_TRUE(checkpoint.ok()) << ToString(checkpoint.status());
    EXPECT_EQ(ValuesOf(**checkpoint, "a.weight"), Expected(less));
    EXPECT_EQ((*checkpoint)->tensors().size(), 1u);
  }
  const TemporaryFolder folder;
  const auto odd = Open(
      folder, R"({"quantization_config": {"quant_method": "gptq", "bits": 3, "group_size": 32}})", parts);
  EXPECT_THAT(Message(odd.status()), HasSubstr("found 3 bits"));
}

TEST(EncodedTensors, GptqWithActOrderHasTheGroupThatGIdxGivesEachColumn) {
  std::vector<uint32_t> words(kCols / 8 * kRows);
  std::vector<int32_t> order;
  std::vector<float> expected(kRows * kCols);
  for (int64_t col = 0; col < kCols; ++col) order.push_back(static_cast<int32_t>(col * 7 % 2));
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t col = 0; col < kCols; ++col) {
      words[static_cast<size_t>(col / 8 * kRows + row)] |= static_cast<uint32_t>(CodeAt(row, col))
                                                           << (4 * (col % 8));
      const int64_t group = order[static_cast<size_t>(col)];
      expected[static_cast<size_t>(row * kCols + col)] =
          ScaleAt(row, group) * static_cast<float>(CodeAt(row, col) - ZeroAt(row, group) - 1);
    }
  }
  std::vector<Part> parts = ScalesAndZeros({0, 1, 2, 3, 4, 5, 6, 7});
  parts.push_back({{"a.qweight", DType::kI32, {kCols / 8, kRows}}, Bytes(words)});
  parts.push_back({{"a.g_idx", DType::kI32, {kCols}}, Bytes(order)});
  constexpr char kConfig[] =
      R"({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": true}})";
  const TemporaryFolder folder;
  const auto checkpoint = Open(folder, kConfig, parts);
  ASSERT_TRUE(checkpoint.ok()) << ToString(checkpoint.status());
  EXPECT_EQ(ValuesOf(**checkpoint, "a.weight"), expected);
  EXPECT_EQ((*checkpoint)->tensors().size(), 1u);
  order[5] = 2;  // There are two groups.
  parts.back().bytes = Bytes(order);
  const TemporaryFolder damaged;
  const auto bad = Open(damaged, kConfig, parts);
  ASSERT_TRUE(bad.ok()) << ToString(bad.status());
  const TensorInfo& info = *(*bad)->find("a.weight");
  DecodedRows decoded;
  EXPECT_FALSE(decoded.decode(*(*bad)->view_blocks(info, info.shape), {0}));
  parts.pop_back();
  const TemporaryFolder missing;
  EXPECT_THAT(Message(Open(missing, kConfig, parts).status()), HasSubstr("'a.g_idx', i32 [64], found none"));
}

TEST(EncodedTensors, GptqOfEightBitsMayHaveOneGroupOfAllColumns) {
  std::vector<uint32_t> words(kCols / 4 * kRows);
  std::vector<uint32_t> zeros(kRows / 4);
  std::vector<uint16_t> scales;
  std::vector<float> expected;
  for (int64_t row = 0; row < kRows; ++row) {
    scales.push_back(F32ToF16(ScaleAt(row, 0)));
    zeros[static_cast<size_t>(row / 4)] |= static_cast<uint32_t>(120 + row) << (8 * (row % 4));
    for (int64_t col = 0; col < kCols; ++col) {
      const auto code = static_cast<uint32_t>((row * 31 + col * 57) % 256);
      words[static_cast<size_t>(col / 4 * kRows + row)] |= code << (8 * (col % 4));
      expected.push_back(ScaleAt(row, 0) *
                         static_cast<float>(static_cast<int>(code) - static_cast<int>(121 + row)));
    }
  }
  const TemporaryFolder folder;
  const auto checkpoint =
      Open(folder, R"({"quantization_config": {"quant_method": "gptq", "bits": 8, "group_size": -1}})",
           {{{"a.qweight", DType::kI32, {kCols / 4, kRows}}, Bytes(words)},
            {{"a.scales", DType::kF16, {1, kRows}}, Bytes(scales)},
            {{"a.qzeros", DType::kI32, {1, kRows / 4}}, Bytes(zeros)}});
  ASSERT_TRUE(checkpoint.ok()) << ToString(checkpoint.status());
  EXPECT_EQ(ValuesOf(**checkpoint, "a.weight"), expected);
}

TEST(EncodedTensors, Int8HasAScalePerRowOrOneForAll) {
  std::vector<int8_t> codes;
  std::vector<uint16_t> scales;
  for (int64_t row = 0; row < kRows; ++row) {
    scales.push_back(F32ToBF16(ScaleAt(row, 0)));
    for (int64_t col = 0; col < kCols; ++col) codes.push_back(static_cast<int8_t>(row * 31 + col * 57));
  }
  for (const bool by_row : {true, false}) {
    std::vector<float> expected;
    for (size_t i = 0; i < codes.size(); ++i) {
      expected.push_back(BF16ToF32(scales[by_row ? i / kCols : 0]) * static_cast<float>(codes[i]));
    }
    std::vector<uint16_t> stored = scales;
    if (!by_row) stored.resize(1);
    const TemporaryFolder folder;
    const auto checkpoint =
        Open(folder,
             R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "int-quantized"}})",
             {{{"a.weight", DType::kI8, {kRows, kCols}}, Bytes(codes)},
              {{"a.weight_scale", DType::kBF16, {std::ssize(stored), 1}}, Bytes(stored)},
              {{"a.input_scale", DType::kBF16, {1}}, std::string(2, '\0')}});
    ASSERT_TRUE(checkpoint.ok()) << ToString(checkpoint.status());
    EXPECT_EQ(ValuesOf(**checkpoint, "a.weight"), expected);
    EXPECT_EQ((*checkpoint)->tensors().size(), 1u);
  }
}

TEST(EncodedTensors, Fp8MayHaveAScalePerRowOrOneForAll) {
  const std::vector<uint8_t> codes = {0x38, 0x40, 0xb9, 0x38, 0x01, 0x7e};  // 1, 2, -1.125; 1, 2^-9, 448
  const Part weight = {{"a.weight", DType::kF8E4M3, {2, 3}}, Bytes(codes)};
  const auto values = [&](const Part& scale) {
    const TemporaryFolder folder;
    const auto checkpoint =
        Open(folder, R"({"quantization_config": {"quant_method": "fp8"}})", {weight, scale});
    EXPECT_TRUE(checkpoint.ok()) << ToString(checkpoint.status());
    return checkpoint.ok() ? ValuesOf(**checkpoint, "a.weight") : std::vector<float>();
  };
  const std::vector<uint16_t> halves = {F32ToBF16(2), F32ToBF16(4)};
  EXPECT_THAT(values({{"a.weight_scale", DType::kBF16, {2, 1}}, Bytes(halves)}),
              ElementsAre(2, 4, -2.25f, 4, 0x1p-7f, 1792));
  const std::vector<float> one = {0.5};
  EXPECT_THAT(values({{"a.weight_scale_inv", DType::kF32, {}}, Bytes(one)}),
              ElementsAre(0.5f, 1, -0.5625f, 0.5f, 0x1p-10f, 224));
}

TEST(EncodedTensors, WeightsOfBitsandbytesAreRefusedByName) {
  const TemporaryFolder folder;
  const auto refused = Open(folder, R"({"quantization_config": {"quant_method": "bitsandbytes"}})",
                            {{{"a.weight", DType::kU8, {64, 1}}, std::string(64, '\0')},
                             {{"a.weight.absmax", DType::kU8, {2}}, std::string(2, '\0')}});
  EXPECT_THAT(Message(refused.status()),
              HasSubstr("'a.weight.absmax' in model.safetensors: weights of bitsandbytes"));
}

TEST(EncodedTensors, AwqsWordsRunAcrossTheRowsInAnOrderOfTheirOwn) {
  const int place[8] = {0, 4, 1, 5, 2, 6, 3, 7};
  std::vector<uint32_t> words(kCols * kRows / 8);
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t col = 0; col < kCols; ++col) {
      words[static_cast<size_t>(col * kRows / 8 + row / 8)] |= static_cast<uint32_t>(CodeAt(row, col))
                                                               << (4 * place[row % 8]);
    }
  }
  std::vector<Part> parts = ScalesAndZeros({0, 4, 1, 5, 2, 6, 3, 7});
  parts.push_back({{"a.qweight", DType::kI32, {kCols, kRows / 8}}, Bytes(words)});
  const TemporaryFolder folder;
  const auto checkpoint = Open(
      folder,
      R"({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}})",
      parts);
  ASSERT_TRUE(checkpoint.ok()) << ToString(checkpoint.status());
  EXPECT_EQ(ValuesOf(**checkpoint, "a.weight"), Expected(0));
}

TEST(EncodedTensors, PackedInt4IsSymmetricAroundEight) {
  std::vector<uint32_t> words(kRows * kCols / 8);
  std::vector<uint16_t> scales;
  std::vector<float> expected;
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t col = 0; col < kCols; ++col) {
      words[static_cast<size_t>(row * kCols / 8 + col / 8)] |= static_cast<uint32_t>(CodeAt(row, col))
                                                               << (4 * (col % 8));
      const float scale = BF16ToF32(F32ToBF16(ScaleAt(row, col / 32)));
      if (col % 32 == 0) scales.push_back(F32ToBF16(scale));
      expected.push_back(scale * static_cast<float>(CodeAt(row, col) - 8));
    }
  }
  const TemporaryFolder folder;
  const auto checkpoint =
      Open(folder,
           R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"}})",
           {{{"a.weight_packed", DType::kI32, {kRows, kCols / 8}}, Bytes(words)},
            {{"a.weight_scale", DType::kBF16, {kRows, kCols / 32}}, Bytes(scales)}});
  ASSERT_TRUE(checkpoint.ok()) << ToString(checkpoint.status());
  EXPECT_EQ(ValuesOf(**checkpoint, "a.weight"), expected);
}

TEST(EncodedTensors, PackedIntegersOfEightBitsSayItInTheirGroups) {
  std::vector<uint32_t> words(kRows * kCols / 4);
  std::vector<uint16_t> scales;
  std::vector<float> expected;
  for (int64_t row = 0; row < kRows; ++row) {
    const float scale = BF16ToF32(F32ToBF16(ScaleAt(row, 0)));
    scales.push_back(F32ToBF16(scale));
    for (int64_t col = 0; col < kCols; ++col) {
      const auto code = static_cast<uint32_t>((row * 31 + col * 57) % 256);
      words[static_cast<size_t>(row * kCols / 4 + col / 4)] |= code << (8 * (col % 4));
      expected.push_back(scale * static_cast<float>(static_cast<int>(code) - 128));
    }
  }
  const TemporaryFolder folder;
  const auto checkpoint =
      Open(folder,
           R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized",
               "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "int", "symmetric": true}}}}})",
           {{{"a.weight_packed", DType::kI32, {kRows, kCols / 4}}, Bytes(words)},
            {{"a.weight_scale", DType::kBF16, {kRows, 1}}, Bytes(scales)}});
  ASSERT_TRUE(checkpoint.ok()) << ToString(checkpoint.status());
  EXPECT_EQ(ValuesOf(**checkpoint, "a.weight"), expected);
}

TEST(EncodedTensors, APartThatIsMissingOrOfAnotherShapeIsNamed) {
  const TemporaryFolder folder;
  const auto error = [&](std::string_view config, const std::vector<Part>& parts) {
    const auto checkpoint = Open(folder, config, parts);
    EXPECT_FALSE(checkpoint.ok());
    return Message(checkpoint.status());
  };
  const Part scales = {{"a.scales", DType::kU8, {2, 3}}, std::string(6, '\0')};
  EXPECT_THAT(error("{}", {scales}), HasSubstr("found no weight"));
  const Part words = {{"a.weight", DType::kU32, {2, 16}}, std::string(128, '\0')};
  EXPECT_THAT(error("{}", {words, scales}), HasSubstr("a scale per 32 columns"));
  const Part fp8 = {{"a.weight", DType::kF8E4M3, {2, 2}}, std::string(4, '\0')};
  EXPECT_THAT(error("{}", {fp8}), HasSubstr("'a.weight_scale' with a float for each of 2 rows"));
  EXPECT_THAT(
      error(R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 2]}})", {fp8}),
      HasSubstr("'a.weight_scale_inv', f32 [1, 1], found none"));
  // Without elements the other dimensions may be anything: sizes made of them would not fit.
  const Part empty = {{"a.up_blocks", DType::kU8, {0, int64_t{1} << 60, 16}}, ""};
  EXPECT_THAT(error("{}", {empty}), HasSubstr("found u8 [0, "));
  const Part packed = {{"a.weight_packed", DType::kI32, {2, 4}}, std::string(32, '\0')};
  EXPECT_THAT(error("{}", {packed}), HasSubstr("shoal convert"));
  EXPECT_THAT(error(R"({"quantization_config": {"format": "pack-quantized", "config_groups": {
                        "a": {"weights": {"num_bits": 8}}, "b": {"weights": {}}}}})",
                    {packed}),
              HasSubstr("expected the same number as of other groups, 8, found 4"));
}

}  // namespace
}  // namespace shoal
