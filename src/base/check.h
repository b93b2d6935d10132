// CHECK: always on, prints its operands, aborts. For our own bugs only; whatever a file, a flag, a request or
// a peer can cause is an absl::Status (base/status.h).
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

namespace shoal {

/// Prints "file:line: CHECK failed: text" and aborts.
[[noreturn]] void CheckFailed(const char* file, int line, std::string_view text);

namespace check_internal {
template <typename A, typename B>
[[noreturn]] void BinaryFailed(const char* file, int line, const char* text, const A& a, const B& b) {
  CheckFailed(file, line, fmt::format("{} ({} vs {})", text, a, b));
}
}  // namespace check_internal

}  // namespace shoal

#define SHOAL_CHECK(condition) ((condition) ? (void)0 : ::shoal::CheckFailed(__FILE__, __LINE__, #condition))

#define SHOAL_CHECK_OP(a, op, b)                                                                        \
  do {                                                                                                  \
    const auto& check_a_ = (a);                                                                         \
    const auto& check_b_ = (b);                                                                         \
    if (!(check_a_ op check_b_)) {                                                                      \
      ::shoal::check_internal::BinaryFailed(__FILE__, __LINE__, #a " " #op " " #b, check_a_, check_b_); \
    }                                                                                                   \
  } while (false)
#define SHOAL_CHECK_EQ(a, b) SHOAL_CHECK_OP(a, ==, b)
#define SHOAL_CHECK_NE(a, b) SHOAL_CHECK_OP(a, !=, b)
#define SHOAL_CHECK_LT(a, b) SHOAL_CHECK_OP(a, <, b)
#define SHOAL_CHECK_LE(a, b) SHOAL_CHECK_OP(a, <=, b)
#define SHOAL_CHECK_GT(a, b) SHOAL_CHECK_OP(a, >, b)
#define SHOAL_CHECK_GE(a, b) SHOAL_CHECK_OP(a, >=, b)
