#include "exec/code_rows.h"

#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

template <typename T>
std::span<const T> Flat(const T* data, int64_t n) {
  return {data, static_cast<size_t>(n)};
}

}  // namespace

void WriteCodes(PayloadWriter& out, const QuantizedRows& rows, FrameHeader& header) {
  out.u32(static_cast<uint32_t>(rows.group));
  out.array(Flat(rows.codes, rows.rows * rows.cols));
  out.array(Flat(rows.scales, rows.rows * rows.groups()));
  out.array(Flat(rows.sums, rows.rows * rows.groups()));
  header.dtype = DType::kI8;
  header.rows = static_cast<uint32_t>(rows.rows);
  header.cols = static_cast<uint32_t>(rows.cols);
}

absl::StatusOr<QuantizedRows> ReadCodes(PayloadReader& in, std::string_view what, const FrameHeader& header) {
  const int64_t rows = header.rows;
  const int64_t cols = header.cols;
  ASSIGN_OR_RETURN(const uint32_t group, in.u32(fmt::format("{}.group", what)));
  if (!IsAffineGroup(group) || cols % group != 0) {
    return InvalidArgument("{}.group: expected 16, 32, 64 or 128 dividing {}, got {}", what, cols, group);
  }
  const uint64_t groups = static_cast<uint64_t>(rows) * static_cast<uint64_t>(cols) / group;
  ASSIGN_OR_RETURN(const auto codes, in.array<int8_t>(fmt::format("{}.codes", what), groups * group));
  ASSIGN_OR_RETURN(const auto scales, in.array<float>(fmt::format("{}.scales", what), groups));
  ASSIGN_OR_RETURN(const auto sums, in.array<float>(fmt::format("{}.sums", what), groups));
  return QuantizedRows{const_cast<int8_t*>(codes.data()),
                       const_cast<float*>(scales.data()),
                       const_cast<float*>(sums.data()),
                       rows,
                       cols,
                       static_cast<int>(group)};
}

}  // namespace shoal
