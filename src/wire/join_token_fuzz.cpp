// Any text as a token: one that is whole, or an InvalidArgument.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "base/status.h"
#include "wire/join_token.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto token = shoal::ParseJoinToken(text);
  if (!token.ok()) {
    SHOAL_CHECK(token.status().code() == absl::StatusCode::kInvalidArgument);
    return 0;
  }
  SHOAL_CHECK(shoal::FormatJoinToken(*token) == text);
  SHOAL_CHECK(!token->addresses.empty());
  return 0;
}
