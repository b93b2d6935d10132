#include "api/log_question.h"

#include <fmt/format.h>

#include <charconv>
#include <nlohmann/json.hpp>

#include "api/http/text.h"
#include "api/json.h"

namespace shoal {

ApiResult<LogQuestion> ParseLogQuestion(std::string_view query) {
  LogQuestion question;
  question.node = QueryValue(query, "node").value_or("");
  if (const auto level = QueryValue(query, "level"); level.has_value()) {
    if (!ParseLogLevel(*level, question.level)) {
      return std::unexpected(ApiError{
          .message =
              fmt::format("'level' must be debug, info, warning or error, got {}", JsonExcerpt(Json(*level))),
          .param = "level",
          .code = "invalid_value"});
    }
  }
  if (const auto since = QueryValue(query, "since"); since.has_value()) {
    const char* const end = since->data() + since->size();
    const auto [stopped, wrong] = std::from_chars(since->data(), end, question.since_ms);
    if (wrong != std::errc() || stopped != end || question.since_ms < 0) {
      return std::unexpected(ApiError{
          .message = fmt::format("'since' must be Unix milliseconds, got {}", JsonExcerpt(Json(*since))),
          .param = "since",
          .code = "invalid_value"});
    }
  }
  return question;
}

}  // namespace shoal
