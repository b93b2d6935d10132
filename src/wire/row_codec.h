// Rows inside a payload, in the format that a plan asks for (numeric/row_format.h). docs/wire.md has the layouts.
#pragma once

#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "numeric/row_format.h"
#include "numeric/view.h"
#include "wire/frame.h"
#include "wire/payload.h"

namespace shoal {

/// Whether every row can travel in any format (RowFits). rows: [R, C].
bool RowsFit(MatView<const float> rows);

/// Appends rows [R, C], contiguous, and says in the header what they are. CHECKs nothing of their values: the caller saw
/// to RowsFit where the format is not exact.
void WriteRows(PayloadWriter& out, RowFormat format, MatView<const float> rows, FrameHeader& header);

/// What WriteRows said. InvalidArgument: flags and dtype that are not of one format.
absl::StatusOr<RowFormat> FormatOf(const FrameHeader& header);

/// Reads what WriteRows appended. rows: [R, C], contiguous, allocated by the caller, who has bounded R and C.
/// InvalidArgument names the field: too few bytes, or rows that no encoder writes.
absl::Status ReadRows(PayloadReader& in, std::string_view field, RowFormat format, MatView<float> rows);

/// The same into `values`, as many rows and columns as the header says, whatever those are: what is allocated is 4 times
/// the bytes that have come at most, and no more rows are looked at than bytes have come.
absl::Status ReadRows(PayloadReader& in, std::string_view field, RowFormat format, const FrameHeader& header,
                      std::vector<float>& values);

}  // namespace shoal
