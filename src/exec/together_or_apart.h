// Rows that are run at once and, where a value among them is not finite, one by one: the others have the bits that they
// have anyway (I10).
#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "base/range.h"
#include "base/status.h"

namespace shoal {

/// Runs [0, count) at once and, where a value is not finite, one by one: on_bad is told of those that fail
/// alone.
inline absl::Status TogetherOrApart(int64_t count, absl::FunctionRef<absl::Status(Range)> run,
                                    absl::FunctionRef<void(int64_t, const absl::Status&)> on_bad) {
  if (count == 0) return absl::OkStatus();
  const absl::Status together = run({0, count});
  if (together.code() != absl::StatusCode::kOutOfRange) return together;
  for (int64_t i = 0; i < count; ++i) {
    const absl::Status alone = count == 1 ? together : run({i, i + 1});
    if (alone.code() == absl::StatusCode::kOutOfRange) {
      on_bad(i, alone);
    } else {
      RETURN_IF_ERROR(alone);
    }
  }
  return absl::OkStatus();
}

}  // namespace shoal
