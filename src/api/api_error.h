// What a client is told when its request cannot be served, in OpenAI's shape.
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"

namespace shoal {

struct ApiError {
  int status = 400;  ///< Of HTTP.
  std::string message;
  std::string type = "invalid_request_error";
  std::string param;  ///< The field at fault, as "messages[2].content"; empty where there is none.
  std::string code;   ///< For programs, as "unknown_parameter"; empty where there is none.
  /// Of a prompt that does not fit: its tokens, and how many there may be.
  std::optional<int64_t> n_prompt_tokens = std::nullopt;
  std::optional<int64_t> n_ctx = std::nullopt;
  /// For the Retry-After of a 429 or 503; absent: what its status has.
  std::optional<int64_t> retry_after_s = std::nullopt;
};

template <typename T>
using ApiResult = std::expected<T, ApiError>;

/// An error that a scheduler, engine or tokenizer gave: its code decides who is at fault.
ApiError FromStatus(const absl::Status& status);
/// Names `field` where it is the client's fault.
ApiError FromStatus(const absl::Status& status, std::string_view field);

/// What Retry-After says of a predicted wait: whole seconds, at least 1. No more than 60: clients heed no long ones
/// (OpenAI's for Python: 120 at most), and come back much sooner instead.
int64_t RetryAfterSeconds(double wait_s);

/// The error that the HTTP server itself answers with `status`.
ApiError FromHttp(int status, std::string message);

/// {"error": {"message", "type", "param", "code"}}, and "n_prompt_tokens" and "n_ctx" where they are known.
std::string ErrorBody(const ApiError& error);

}  // namespace shoal
