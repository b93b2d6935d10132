#include "kernels/packed.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/test_data.h"

namespace shoal {
namespace {

std::vector<float> Unpacked(const PackedMatrix& matrix, int64_t row) {
  std::vector<float> values(static_cast<size_t>(matrix.cols()));
  matrix.unpack_row(row, values.data());
  return values;
}

std::vector<float> AffineRow(const AffineView& view, int64_t row) {
  std::vector<float> values;
  for (int64_t col = 0; col < view.cols; ++col) values.push_back(AffineValue(view, row, col));
  return values;
}

/// Packs row `from` of the source as row `to` of the packed matrix, code by code as packed.h defines it.
void PackRowByDefinition(const AffineView& source, int64_t from, int64_t to, std::vector<uint8_t>& packed) {
  const int64_t lane = to % 16;
  const int64_t scale_size = DTypeBytes(source.scale_dtype);
  const int64_t span = source.group == 16 ? 32 : source.group;
  const int64_t together = span / source.group;
  const int64_t code_bytes = source.bits * 2 * span;
  const int64_t record_bytes = code_bytes + together * 32 * scale_size;
  uint8_t* tile = packed.data() + to / 16 * (source.cols / span) * record_bytes;
  for (int64_t col = 0; col < source.cols; ++col) {
    uint8_t* panel = tile + col / span * record_bytes + col % span / 32 * source.bits * 64;
    const int64_t block = col % 32 / 4;
    int shift = 0;
    for (const int width : {8, 4, 2, 1}) {
      if (source.bits - shift < width) continue;
      const int64_t per_register = 8 / width;
      const int field = (AffineCode(source, from, col) >> shift) & ((1 << width) - 1);
      panel[block / per_register * 64 + 4 * lane + col % 4] |=
          static_cast<uint8_t>(field << (width * (block % per_register)));
      panel += 8 / per_register * 64;
      shift += width;
    }
  }
  for (int64_t group = 0; group < source.groups_per_row(); ++group) {
    const int64_t index = (from * source.groups_per_row() + group) * scale_size;
    uint8_t* scales = tile + group / together * record_bytes + code_bytes +
                      group % together * 32 * scale_size + lane * scale_size;
    std::memcpy(scales, static_cast<const uint8_t*>(source.scales) + index, scale_size);
    std::memcpy(scales + 16 * scale_size, static_cast<const uint8_t*>(source.biases) + index, scale_size);
  }
}

std::vector<uint8_t> BytesOf(const PackedMatrix& matrix) {
  return {matrix.view().data, matrix.view().data + matrix.bytes()};
}

/// Calls test(name, source) for each affine format, with a source of `rows` rows.
template <typename Test>
void ForEachAffineFormat(uint64_t seed, int64_t rows, Test test) {
  RandomStream random(seed);
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    for (const int group : {16, 32, 64, 128}) {
      if (!IsAffineForm(bits, group)) continue;
      for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
        const std::string name = fmt::format("{} bits, group {}, {}", bits, group, DTypeName(dtype));
        test(name, RandomAffine(random, rows, 3 * AffineSpan(group), bits, group, dtype));
      }
    }
  }
}

TEST(Packed, WholeTilesAndSingleRowsHaveTheBytesOfTheDefinition) {
  // Two whole tiles, which are packed 16 rows at a time, and five rows, which are packed one by one.
  ForEachAffineFormat(7, 37, [](const std::string& name, const AffineSource& source) {
    const PackedMatrix matrix = *PackedMatrix::PackAffine(source.view);
    std::vector<uint8_t> expected(static_cast<size_t>(matrix.bytes()));
    for (int64_t row = 0; row < 37; ++row) PackRowByDefinition(source.view, row, row, expected);
    EXPECT_EQ(BytesOf(matrix), expected) << name;
  });
}

TEST(Packed, SlicesAndPermutationsHaveTheBytesOfTheDefinition) {
  ForEachAffineFormat(8, 67, [](const std::string& name, const AffineSource& source) {
    const PackedFormat format{source.view.scale_dtype, source.view.bits, source.view.group};
    PackedMatrix matrix = *PackedMatrix::Allocate(format, 53, source.view.cols);
    std::vector<uint8_t> expected(static_cast<size_t>(matrix.bytes()));
    // A slice that begins inside a tile and covers a whole one; then one row per call, backwards.
    matrix.set_affine_rows(5, source.view, {3, 41});
    for (int64_t row = 5; row < 43; ++row) PackRowByDefinition(source.view, row - 2, row, expected);
    for (int64_t row = 43; row < 53; ++row) {
      matrix.set_affine_rows(row, source.view, {66 - row, 67 - row});
      PackRowByDefinition(source.view, 66 - row, row, expected);
    }
    EXPECT_EQ(BytesOf(matrix), expected) << name;
  });
}

TEST(Packed, FloatTilesHaveTheBytesOfTheDefinition) {
  RandomStream random(9);
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const int64_t size = DTypeBytes(dtype);
    // 29 columns, not a whole number of vectors; rows 3 to 56 of the source; an odd address.
    std::vector<uint8_t> source = FloatsAs(RandomFloats(random, 60 * 31), dtype);
    source.insert(source.begin(), 0);
    PackedMatrix matrix = *PackedMatrix::Allocate({.dtype = dtype}, 53, 29);
    matrix.set_float_rows(0, source.data() + 1, 31, {3, 56});
    std::vector<uint8_t> expected(static_cast<size_t>(matrix.bytes()));
    for (int64_t row = 0; row < 53; ++row) {
      for (int64_t col = 0; col < 29; ++col) {
        std::memcpy(&expected[static_cast<size_t>((row / 16 * 29 * 16 + col * 16 + row % 16) * size)],
                    &source[static_cast<size_t>(1 + ((row + 3) * 31 + col) * size)],
                    static_cast<size_t>(size));
      }
    }
    EXPECT_EQ(BytesOf(matrix), expected) << DTypeName(dtype);
  }
}

TEST(Packed, UnpackRestoresEveryAffineValue) {
  RandomStream random(1);
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    for (const int group : {16, 32, 64, 128}) {
      if (!IsAffineForm(bits, group)) continue;
      for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
        const AffineSource source = RandomAffine(random, 37, 5 * AffineSpan(group), bits, group, dtype);
        const PackedMatrix matrix = *PackedMatrix::PackAffine(source.view);
        for (int64_t row = 0; row < 37; ++row) {
          ASSERT_EQ(Bits(Unpacked(matrix, row)), Bits(AffineRow(source.view, row)))
              << bits << " bits, group " << group;
        }
      }
    }
  }
}

TEST(Packed, UnpackRestoresEveryFloat) {
  RandomStream random(2);
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const std::vector<uint8_t> bytes = FloatsAs(RandomFloats(random, 19 * 40, Values::kEdge), dtype);
    const PackedMatrix matrix = *PackedMatrix::PackFloat(bytes.data(), dtype, 19, 33, 40);
    for (int64_t row = 0; row < 19; ++row) {
      std::vector<float> expected;
      for (int64_t col = 0; col < 33; ++col)
        expected.push_back(LoadFloatWeight(bytes.data(), dtype, row * 40 + col));
      EXPECT_EQ(Bits(Unpacked(matrix, row)), Bits(expected));
    }
  }
}

TEST(Packed, AcceptsSourcesAtAnyAddress) {
  RandomStream random(3);
  const AffineSource source = RandomAffine(random, 16, 64, 3, 64, DType::kBF16);
  std::vector<uint8_t> words(source.words.size() * 4 + 1), scales(source.scales.size() + 1);
  std::memcpy(words.data() + 1, source.words.data(), source.words.size() * 4);
  std::memcpy(scales.data() + 1, source.scales.data(), source.scales.size());
  AffineView unaligned = source.view;
  unaligned.words = reinterpret_cast<const uint32_t*>(words.data() + 1);
  unaligned.scales = scales.data() + 1;
  const PackedMatrix matrix = *PackedMatrix::PackAffine(unaligned);
  EXPECT_EQ(Unpacked(matrix, 7), AffineRow(source.view, 7));
}

TEST(Packed, RowsOfSeveralSourcesBecomeOneMatrix) {
  RandomStream random(4);
  const AffineSource first = RandomAffine(random, 10, 128, 4, 64, DType::kBF16);
  const AffineSource second = RandomAffine(random, 30, 128, 4, 64, DType::kBF16);
  PackedMatrix matrix = *PackedMatrix::Allocate({DType::kBF16, 4, 64}, 21, 128);
  matrix.set_affine_rows(13, first.view, {2, 10});  // In any order, across tiles.
  matrix.set_affine_rows(0, second.view, {17, 30});
  for (int64_t row = 0; row < 13; ++row) EXPECT_EQ(Unpacked(matrix, row), AffineRow(second.view, 17 + row));
  for (int64_t row = 0; row < 8; ++row) EXPECT_EQ(Unpacked(matrix, 13 + row), AffineRow(first.view, 2 + row));
}

TEST(Packed, FourBitsOfGroups64TakeFourAndAHalfBitsPerWeight) {
  const PackedFormat format{DType::kBF16, 4, 64};
  EXPECT_EQ(PackedBytes(format, 16, 64), 512 + 32 + 32);
  EXPECT_EQ(PackedBytes(format, 17, 64), 2 * 576);  // Padded to whole tiles.
  EXPECT_EQ(PackedBytes({.dtype = DType::kF16}, 16, 100), 3200);
  EXPECT_EQ(PackedMatrix::Allocate(format, 17, 64)->bytes(), 2 * 576);
}

TEST(Packed, AFourBitRegisterHoldsTwoBlocks) {
  RandomStream random(5);
  const AffineSource source = RandomAffine(random, 16, 32, 4, 32, DType::kBF16);
  const PackedMatrix matrix = *PackedMatrix::PackAffine(source.view);
  for (int64_t row = 0; row < 16; ++row) {
    for (int64_t col = 0; col < 32; ++col) {
      const uint8_t byte = matrix.view().data[col / 8 * 64 + row * 4 + col % 4];
      EXPECT_EQ((byte >> (col / 4 % 2 * 4)) & 15, AffineCode(source.view, row, col));
    }
  }
}

TEST(PackedDeathTest, RefusesASourceOfAnotherFormat) {
  RandomStream random(6);
  const AffineSource source = RandomAffine(random, 16, 64, 4, 64, DType::kBF16);
  PackedMatrix matrix = *PackedMatrix::Allocate({DType::kF16, 4, 64}, 16, 64);
  EXPECT_DEATH(matrix.set_affine_rows(0, source.view, {0, 16}), "CHECK failed");
}

TEST(QuantizedRows, ArraysDoNotOverlap) {
  const int64_t bytes = QuantizedRowsBytes(3, 320, 64);
  AlignedMemory memory = *AlignedMemory::Allocate(bytes);
  const QuantizedRows rows = QuantizedRowsIn(memory.data(), 3, 320, 64);
  std::set<const void*> seen;
  const auto touch = [&](auto* begin, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      const auto* at = reinterpret_cast<const std::byte*>(begin + i);
      EXPECT_TRUE(seen.insert(at).second);
      EXPECT_TRUE(memory.data() <= at && at + sizeof(*begin) <= memory.data() + bytes);
    }
  };
  touch(rows.codes, 3 * 320);
  touch(rows.scales, 3 * 5);
  touch(rows.sums, 3 * 5);
  const QuantizedRows part = rows.rows_between({1, 3});
  EXPECT_EQ(part.rows, 2);
  EXPECT_EQ(part.codes, rows.codes + 320);
  EXPECT_EQ(part.scales, rows.scales + 5);
  EXPECT_EQ(part.sums, rows.sums + 5);
}

}  // namespace
}  // namespace shoal
