#include "api/api_error.h"

#include <nlohmann/json.hpp>

#include "api/json.h"
#include "base/status.h"

namespace shoal {

ApiError FromStatus(const absl::Status& status) {
  const std::string message = Message(status);
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return {.status = 400, .message = message};
    case absl::StatusCode::kNotFound:
      return {.status = 404, .message = message, .code = "not_found"};
    case absl::StatusCode::kResourceExhausted:
      return {.status = 429, .message = message, .type = "rate_limit_error", .code = "rate_limit_exceeded"};
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
  return DumpJson(body);
}

}  // namespace shoal
