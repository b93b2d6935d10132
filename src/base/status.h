// Errors from the world (a file, a flag, a request, a peer) are absl::Status. A message says where, expected,
// got, and what to do. Our own bugs are CHECKs (base/check.h).
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shoal {

/// A status with a message formatted by fmt. Works whether absl::string_view is std::string_view or not.
template <typename... Args>
[[nodiscard]] absl::Status MakeError(absl::StatusCode code, fmt::format_string<Args...> format,
                                     Args&&... args) {
  return absl::Status(code, fmt::format(format, std::forward<Args>(args)...));
}

#define SHOAL_DEFINE_ERROR(Name, Code)                                                  \
  template <typename... Args>                                                           \
  [[nodiscard]] absl::Status Name(fmt::format_string<Args...> format, Args&&... args) { \
    return MakeError(absl::StatusCode::Code, format, std::forward<Args>(args)...);      \
  }
SHOAL_DEFINE_ERROR(InvalidArgument, kInvalidArgument)
SHOAL_DEFINE_ERROR(NotFound, kNotFound)
SHOAL_DEFINE_ERROR(FailedPrecondition, kFailedPrecondition)
SHOAL_DEFINE_ERROR(ResourceExhausted, kResourceExhausted)
SHOAL_DEFINE_ERROR(Unavailable, kUnavailable)
SHOAL_DEFINE_ERROR(DeadlineExceeded, kDeadlineExceeded)
SHOAL_DEFINE_ERROR(DataLoss, kDataLoss)
SHOAL_DEFINE_ERROR(Unimplemented, kUnimplemented)
SHOAL_DEFINE_ERROR(Internal, kInternal)
SHOAL_DEFINE_ERROR(Cancelled, kCancelled)
SHOAL_DEFINE_ERROR(OutOfRange, kOutOfRange)
SHOAL_DEFINE_ERROR(Unauthenticated, kUnauthenticated)
SHOAL_DEFINE_ERROR(PermissionDenied, kPermissionDenied)
#undef SHOAL_DEFINE_ERROR

/// The message of a status, as std::string because absl's own type differs between distributions.
std::string Message(const absl::Status& status);

/// "UNAVAILABLE: message", or "OK".
std::string ToString(const absl::Status& status);

/// `status` with "where: " in front of its message. An OK status stays OK.
absl::Status Annotate(const absl::Status& status, std::string_view where);

/// Name of a code as gRPC writes it: "INVALID_ARGUMENT".
std::string_view CodeName(absl::StatusCode code);

}  // namespace shoal

/// Returns from the calling function when `expression` (a Status) is not OK.
#define RETURN_IF_ERROR(expression)                    \
  do {                                                 \
    absl::Status status_of_expression_ = (expression); \
    if (!status_of_expression_.ok()) {                 \
      return status_of_expression_;                    \
    }                                                  \
  } while (false)

#define SHOAL_CONCAT_INNER(a, b) a##b
#define SHOAL_CONCAT(a, b) SHOAL_CONCAT_INNER(a, b)

/// ASSIGN_OR_RETURN(auto x, F()): x gets the value, or the calling function returns the error.
#define ASSIGN_OR_RETURN(target, expression) \
  ASSIGN_OR_RETURN_IMPL(SHOAL_CONCAT(status_or_, __LINE__), target, expression)
#define ASSIGN_OR_RETURN_IMPL(holder, target, expression) \
  auto holder = (expression);                             \
  if (!holder.ok()) {                                     \
    return holder.status();                               \
  }                                                       \
  target = std::move(holder).value()
