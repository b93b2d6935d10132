// Lists of expert ids as people write them: "0-3,7". Private to plan/.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace shoal {

/// {0, 1, 2, 3, 7} -> "0-3,7". Ids ascending.
std::string FormatIdList(const std::vector<int32_t>& ids);

/// "0-3,7" -> {0, 1, 2, 3, 7}; "" -> {}. Both ends of a range belong to it. InvalidArgument where an id is
/// not in [0, end), is there twice, or the text is not such a list.
absl::StatusOr<std::vector<int32_t>> ParseIdList(std::string_view text, int32_t end);

/// A whole number and nothing else.
absl::StatusOr<int64_t> ParseInteger(std::string_view text);

}  // namespace shoal
