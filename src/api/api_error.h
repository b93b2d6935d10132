// What a client is told when its request cannot be served, in OpenAI's shape.
#pragma once

#include <expected>
#include <string>
#include <utility>

#include "absl/status/status.h"

namespace shoal {

struct ApiError {
  int status = 400;  ///< Of HTTP.
  std::string message;
  std::string type = "invalid_request_error";
  std::string param;  ///< The field at fault, as "messages[2].content"; empty where there is none.
  std::string code;   ///< For programs, as "unknown_parameter"; empty where there is none.
};

template <typename T>
using ApiResult = std::expected<T, ApiError>;

/// An error that a scheduler, engine or tokenizer gave: its code decides who is at fault.
ApiError FromStatus(const absl::Status& status);

/// The error that the HTTP server itself answers with `status`.
ApiError FromHttp(int status, std::string message);

/// {"error": {"message", "type", "param", "code"}}
std::string ErrorBody(const ApiError& error);

}  // namespace shoal
