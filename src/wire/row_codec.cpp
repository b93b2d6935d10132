#include "wire/row_codec.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include "base/check.h"
#include "base/status.h"

namespace shoal {
namespace {

constexpr std::array<DType, 3> kDTypes = {DType::kF32, DType::kF16, DType::kI8};  // By format.

size_t Count(int64_t rows, int64_t cols) { return static_cast<size_t>(rows * cols); }

void WriteF16Rows(PayloadWriter& out, MatView<const float> rows) {
  std::vector<uint16_t> halves(Count(rows.rows, rows.cols));  // To reserve a second array may move the first.
  const std::span<int8_t> exponents = out.reserve_array<int8_t>(Count(rows.rows, 1));
  for (int64_t r = 0; r < rows.rows; ++r) {
    EncodeF16Row(rows.row(r), rows.cols, exponents[static_cast<size_t>(r)], halves.data() + r * rows.cols);
  }
  out.array(std::span<const uint16_t>(halves));
}

void WriteQ8Rows(PayloadWriter& out, MatView<const float> rows) {
  const int64_t groups = Q8Scales(rows.cols);
  std::vector<int8_t> codes(Count(rows.rows, rows.cols));
  const std::span<uint16_t> scales = out.reserve_array<uint16_t>(Count(rows.rows, groups));
  for (int64_t r = 0; r < rows.rows; ++r) {
    EncodeQ8Row(rows.row(r), rows.cols, scales.data() + r * groups, codes.data() + r * rows.cols);
  }
  out.array(std::span<const int8_t>(codes));
}

absl::Status Refused(std::string_view field, RowFormat format, int64_t row) {
  return InvalidArgument("{}: row {} is none of format {}: its {} is out of range", field, row, Name(format),
                         format == RowFormat::kF16 ? "exponent or a value" : "scale");
}

}  // namespace

bool RowsFit(MatView<const float> rows) {
  for (int64_t r = 0; r < rows.rows; ++r) {
    if (!RowFits(rows.row(r), rows.cols)) return false;
  }
  return true;
}

void WriteRows(PayloadWriter& out, RowFormat format, MatView<const float> rows, FrameHeader& header) {
  SHOAL_CHECK(rows.contiguous());
  header.flags = static_cast<uint8_t>(format);
  header.dtype = kDTypes[static_cast<size_t>(format)];
  header.rows = static_cast<uint32_t>(rows.rows);
  header.cols = static_cast<uint32_t>(rows.cols);
  switch (format) {
    case RowFormat::kExact:
      return out.array(std::span<const float>(rows.data, Count(rows.rows, rows.cols)));
    case RowFormat::kF16:
      return WriteF16Rows(out, rows);
    case RowFormat::kQ8:
      return WriteQ8Rows(out, rows);
  }
}

absl::StatusOr<RowFormat> FormatOf(const FrameHeader& header) {
  if (header.flags < kDTypes.size() && kDTypes[header.flags] == header.dtype) {
    return static_cast<RowFormat>(header.flags);
  }
  return InvalidArgument("rows: format {} of dtype {}: expected 0 of f32, 1 of f16 or 2 of i8", header.flags,
                         DTypeName(header.dtype));
}

absl::Status ReadRows(PayloadReader& in, std::string_view field, RowFormat format, MatView<float> rows) {
  SHOAL_CHECK(rows.contiguous());
  const auto count = static_cast<uint64_t>(rows.rows * rows.cols);
  const auto each = static_cast<uint64_t>(rows.rows);
  if (format == RowFormat::kExact) {
    ASSIGN_OR_RETURN(const std::span<const float> values, in.array<float>(field, count));
    std::ranges::copy(values, rows.data);
    return absl::OkStatus();
  }
  if (format == RowFormat::kF16) {
    ASSIGN_OR_RETURN(const std::span<const int8_t> exponents, in.array<int8_t>(field, each));
    ASSIGN_OR_RETURN(const std::span<const uint16_t> halves, in.array<uint16_t>(field, count));
    for (int64_t r = 0; r < rows.rows; ++r) {
      if (!DecodeF16Row(exponents[static_cast<size_t>(r)], halves.data() + r * rows.cols, rows.cols,
                        rows.row(r))) {
        return Refused(field, format, r);
      }
    }
    return absl::OkStatus();
  }
  const int64_t groups = Q8Scales(rows.cols);
  ASSIGN_OR_RETURN(const std::span<const uint16_t> scales,
                   in.array<uint16_t>(field, each * static_cast<uint64_t>(groups)));
  ASSIGN_OR_RETURN(const std::span<const int8_t> codes, in.array<int8_t>(field, count));
  for (int64_t r = 0; r < rows.rows; ++r) {
    if (!DecodeQ8Row(scales.data() + r * groups, codes.data() + r * rows.cols, rows.cols, rows.row(r))) {
      return Refused(field, format, r);
    }
  }
  return absl::OkStatus();
}

absl::Status ReadRows(PayloadReader& in, std::string_view field, RowFormat format, const FrameHeader& header,
                      std::vector<float>& values) {
  const uint64_t count = uint64_t{header.rows} * header.cols;
  if (std::max<uint64_t>(count, header.rows) > in.remaining()) {
    return InvalidArgument("{}: {} rows of {} values as {} do not fit the {} bytes left", field, header.rows,
                           header.cols, Name(format), in.remaining());
  }
  values.resize(count);
  return ReadRows(in, field, format, MatView<float>(values.data(), header.rows, header.cols));
}

}  // namespace shoal
