// GET /cluster/logs: whose lines, from which level on, and from when on.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "api/api_error.h"
#include "base/log_ring.h"

namespace shoal {

struct LogQuestion {
  std::string node;  ///< By its name; "": all.
  LogLevel level = LogLevel::kInfo;
  int64_t since_ms = 0;  ///< Unix milliseconds: lines that are later by their node's clock.
};

/// Reads a query: node=, level=, since=. A 400 names the one that is wrong; others are passed over.
ApiResult<LogQuestion> ParseLogQuestion(std::string_view query);

}  // namespace shoal
