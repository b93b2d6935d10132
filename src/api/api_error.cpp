#include "api/api_error.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "api/json.h"
#include "base/status.h"
#include "sched/request.h"

namespace shoal {

ApiError FromStatus(const absl::Status& status) {
  const std::string message = Message(status);
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      if (const auto overflow = ContextOverflowOf(status)) {
        return {.status = 400,
                .message = message,
                .code = "context_length_exceeded",
                .n_prompt_tokens = overflow->prompt_tokens,
                .n_ctx = overflow->positions};
      }
      return {.status = 400, .message = message, .code = "invalid_request"};
    case absl::StatusCode::kNotFound:
      return {.status = 404, .message = message, .code = "not_found"};
    case absl::StatusCode::kResourceExhausted:
      return {.status = 429,
              .message = message,
              .type = "rate_limit_error",
              .code = "rate_limit_exceeded",
              .retry_after_s = RetryAfterSeconds(PredictedWaitOf(status).value_or(0))};
    case absl::StatusCode::kUnavailable:
      return {.status = 503, .message = message, .type = "server_error", .code = "cluster_unavailable"};
    case absl::StatusCode::kCancelled:
      return {.status = 503, .message = message, .type = "server_error", .code = "cancelled"};
    case absl::StatusCode::kDeadlineExceeded:
      return {.status = 504, .message = message, .type = "server_error", .code = "deadline_exceeded"};
    default:
      return {.status = 500, .message = message, .type = "server_error", .code = "internal_error"};
  }
}

ApiError FromStatus(const absl::Status& status, std::string_view field) {
  ApiError error = FromStatus(status);
  if (error.status == 400) error.param = field;
  return error;
}

int64_t RetryAfterSeconds(double wait_s) {
  constexpr double kMost = 60;
  return static_cast<int64_t>(std::ceil(std::clamp(wait_s, 1.0, kMost)));
}

ApiError FromHttp(int status, std::string message) {
  ApiError error{.status = status, .message = std::move(message)};
  if (status >= 500) error.type = "server_error";
  if (status == 404) error.code = "unknown_url";
  return error;
}

std::string ErrorBody(const ApiError& error) {
  Json body;
  Json& inner = body["error"];
  inner["message"] = error.message;
  inner["type"] = error.type;
  inner["param"] = error.param.empty() ? Json(nullptr) : Json(error.param);
  inner["code"] = error.code.empty() ? Json(nullptr) : Json(error.code);
  if (error.n_prompt_tokens.has_value()) inner["n_prompt_tokens"] = *error.n_prompt_tokens;
  if (error.n_ctx.has_value()) inner["n_ctx"] = *error.n_ctx;
  return DumpJson(body);
}

}  // namespace shoal
