// Rows as codes of 8 bits inside a payload, as they go to experts and to segments of feed-forwards. docs/wire.md.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/kernels.h"
#include "wire/frame.h"
#include "wire/payload.h"

namespace shoal {

/// Appends group size, codes, scales and sums, and says in the header what they are.
void WriteCodes(PayloadWriter& out, const QuantizedRows& rows, FrameHeader& header);

/// Whether the header says that its rows are codes.
inline bool HasCodes(const FrameHeader& header) { return header.dtype == DType::kI8 && header.flags == 0; }

/// Reads what WriteCodes appended, in place: for reading alone, although QuantizedRows is also what kernels write to.
/// `what`: "expert_request", of the errors. InvalidArgument: a group that no kernel takes or that does not divide the
/// header's columns, or too few bytes.
absl::StatusOr<QuantizedRows> ReadCodes(PayloadReader& in, std::string_view what, const FrameHeader& header);

}  // namespace shoal
