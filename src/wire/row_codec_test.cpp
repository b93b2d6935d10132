#include "wire/row_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "base/random.h"
#include "base/status.h"

namespace shoal {
namespace {

using testing::HasSubstr;

constexpr int64_t kRows = 3;
constexpr int64_t kCols = 70;  // Not a multiple of the columns that share a scale.

std::vector<float> SomeRows() {
  RandomStream random(5);
  std::vector<float> values(kRows * kCols);
  for (float& value : values) value = static_cast<float>(8 * random.uniform() - 4);
  return values;
}

struct Written {
  Buffer payload;
  FrameHeader header;
};

Written Encoded(RowFormat format, const std::vector<float>& values) {
  PayloadWriter out;
  out.u8(7);  // Rows do not stand alone.
  Written written;
  WriteRows(out, format, MatView<const float>(values.data(), kRows, kCols), written.header);
  written.payload = out.finish();
  return written;
}

absl::StatusOr<std::vector<float>> Decoded(const Buffer& payload, RowFormat format) {
  PayloadReader in(payload);
  RETURN_IF_ERROR(in.u8("first").status());
  std::vector<float> values(kRows * kCols);
  RETURN_IF_ERROR(ReadRows(in, "rows", format, MatView<float>(values.data(), kRows, kCols)));
  RETURN_IF_ERROR(in.finish("rows"));
  return values;
}

TEST(RowCodec, ExactRowsComeBackEqual) {
  const std::vector<float> values = SomeRows();
  const Written written = Encoded(RowFormat::kExact, values);
  EXPECT_EQ(written.header.flags, 0);
  EXPECT_EQ(written.header.dtype, DType::kF32);
  EXPECT_EQ(written.payload.size(), kWireAlignment + values.size() * 4);
  EXPECT_EQ(*Decoded(written.payload, RowFormat::kExact), values);
}

TEST(RowCodec, RoundedRowsTakeFewerBytesAndComeBackRounded) {
  const std::vector<float> values = SomeRows();
  const Written half = Encoded(RowFormat::kF16, values);
  EXPECT_EQ(half.header.dtype, DType::kF16);
  EXPECT_EQ(half.payload.size(), 2 * kWireAlignment + values.size() * 2);
  const auto from_half = Decoded(half.payload, RowFormat::kF16);
  ASSERT_TRUE(from_half.ok()) << ToString(from_half.status());
  const Written code = Encoded(RowFormat::kQ8, values);
  EXPECT_EQ(code.header.dtype, DType::kI8);
  EXPECT_EQ(code.payload.size(), 2 * kWireAlignment + values.size());
  const auto from_code = Decoded(code.payload, RowFormat::kQ8);
  ASSERT_TRUE(from_code.ok()) << ToString(from_code.status());
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_NEAR((*from_half)[i], values[i], 4 * 0x1p-12);
    EXPECT_NEAR((*from_code)[i], values[i], 4.0 / 127 * 0.51);
  }
}

TEST(RowCodec, RowsDoNotDependOnThoseBesideThem) {
  const std::vector<float> values = SomeRows();
  for (const RowFormat format : {RowFormat::kF16, RowFormat::kQ8}) {
    const std::vector<float> together = *Decoded(Encoded(format, values).payload, format);
    for (int64_t r = 0; r < kRows; ++r) {
      PayloadWriter out;
      FrameHeader header;
      WriteRows(out, format, MatView<const float>(values.data() + r * kCols, 1, kCols), header);
      const Buffer payload = out.finish();
      PayloadReader in(payload);
      std::vector<float> alone(kCols);
      ASSERT_EQ(ReadRows(in, "rows", format, MatView<float>(alone.data(), 1, kCols)), absl::OkStatus());
      EXPECT_EQ(alone, std::vector<float>(together.begin() + r * kCols, together.begin() + (r + 1) * kCols));
    }
  }
}

TEST(RowCodec, TruncatedRowsAreRefused) {
  for (const RowFormat format : {RowFormat::kExact, RowFormat::kF16, RowFormat::kQ8}) {
    const Buffer whole = Encoded(format, SomeRows()).payload;
    for (size_t size = 1; size < whole.size(); size += 5) {
      const auto status = Decoded(Buffer::copy_of(whole.bytes().first(size)), format).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << size;
      EXPECT_THAT(Message(status), HasSubstr("rows:"));
    }
  }
}

/// The payload with one byte changed.
Buffer With(const Buffer& payload, size_t at, uint8_t value) {
  std::vector<std::byte> bytes(payload.bytes().begin(), payload.bytes().end());
  bytes[at] = std::byte{value};
  return Buffer::copy_of(bytes);
}

TEST(RowCodec, WhatNoEncoderWritesIsRefusedAndTheRowNamed) {
  const Buffer half = Encoded(RowFormat::kF16, SomeRows()).payload;
  const auto exponent = Decoded(With(half, kWireAlignment + 2, 127), RowFormat::kF16).status();
  EXPECT_THAT(Message(exponent), HasSubstr("rows: row 2 is none of format f16"));
  // The high byte of the second row's first value: an infinity, or a NaN.
  EXPECT_FALSE(Decoded(With(half, 2 * kWireAlignment + 2 * kCols + 1, 0x7c), RowFormat::kF16).ok());
  const Buffer code = Encoded(RowFormat::kQ8, SomeRows()).payload;
  // The high byte of the second row's first scale.
  for (const uint8_t bad : {0x7f, 0x80, 0xff}) {
    const auto scale = Decoded(With(code, kWireAlignment + 2 * 3 + 1, bad), RowFormat::kQ8).status();
    EXPECT_THAT(Message(scale), HasSubstr("rows: row 1 is none of format q8: its scale is out of range"))
        << bad;
  }
}

TEST(RowCodec, RowsOfAHeaderAreBoundedByTheBytesThatHaveCome) {
  const Buffer few = Encoded(RowFormat::kQ8, SomeRows()).payload;
  FrameHeader header;
  header.rows = ~uint32_t{0};
  std::vector<float> values;
  for (const uint32_t cols : {0u, 1u, 65536u}) {  // Without columns no value is asked for, and each row is.
    header.cols = cols;
    PayloadReader in(few);
    EXPECT_THAT(Message(ReadRows(in, "rows", RowFormat::kQ8, header, values)), HasSubstr("do not fit"));
    EXPECT_TRUE(values.empty());
  }
}

TEST(RowCodec, AHeaderNamesOneFormat) {
  FrameHeader header;
  EXPECT_EQ(*FormatOf(header), RowFormat::kExact);
  header.flags = 2;
  EXPECT_EQ(FormatOf(header).status().code(), absl::StatusCode::kInvalidArgument);
  header.dtype = DType::kI8;
  EXPECT_EQ(*FormatOf(header), RowFormat::kQ8);
  header.flags = 3;
  EXPECT_EQ(FormatOf(header).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(RowCodec, ARowThatNoFormatHoldsIsFound) {
  std::vector<float> values = SomeRows();
  EXPECT_TRUE(RowsFit(MatView<const float>(values.data(), kRows, kCols)));
  values[2 * kCols + 5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(RowsFit(MatView<const float>(values.data(), kRows, kCols)));
  EXPECT_TRUE(RowsFit(MatView<const float>(values.data(), 2, kCols)));
}

}  // namespace
}  // namespace shoal
