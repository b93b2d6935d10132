// Lists of expert ids as people write them: "0-3,7". Private to plan/.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace shoal {

/// {0, 1, 2, 3, 7} -> "0-3,7". The ids are ascending.
std::string FormatIdList(const std::vector<int32_t>& ids);

/// "0-3,7" -> {0, 1, 2, 3, 7}; "" -> {}. A range includes both ends. Returns InvalidArgument if the text is
/// not such a list, or an id is not in [0, end) or appears twice.
absl::StatusOr<std::vector<int32_t>> ParseIdList(std::string_view text, int32_t end);

/// The whole number that is all of `text`. Returns InvalidArgument for any other text.
absl::StatusOr<int64_t> ParseInteger(std::string_view text);

}  // namespace shoal
