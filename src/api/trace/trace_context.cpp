#include "api/trace/trace_context.h"

#include <fmt/format.h>

namespace shoal {
namespace {

/// Digits as the standard has them: lower-case letters only.
std::optional<uint64_t> HexOf(std::string_view digits) {
  uint64_t value = 0;
  for (const char digit : digits) {
    if (digit >= '0' && digit <= '9') {
      value = value << 4 | static_cast<uint64_t>(digit - '0');
    } else if (digit >= 'a' && digit <= 'f') {
      value = value << 4 | static_cast<uint64_t>(digit - 'a' + 10);
    } else {
      return std::nullopt;
    }
  }
  return value;
}

}  // namespace

std::string TraceContext::trace_id() const { return fmt::format("{:016x}{:016x}", trace_high, trace_low); }

std::string SpanId(uint64_t span) { return fmt::format("{:016x}", span); }

std::optional<TraceContext> ParseTraceParent(std::string_view text) {
  constexpr size_t kLength = 55;  // "00-" 32 "-" 16 "-" 2
  constexpr uint64_t kSampledFlag = 1;
  if (text.size() < kLength || text[2] != '-' || text[35] != '-' || text[52] != '-') return std::nullopt;
  const auto version = HexOf(text.substr(0, 2));
  const auto high = HexOf(text.substr(3, 16));
  const auto low = HexOf(text.substr(19, 16));
  const auto span = HexOf(text.substr(36, 16));
  const auto flags = HexOf(text.substr(53, 2));
  if (!version || !high || !low || !span || !flags || *version == 0xff) return std::nullopt;
  if (text.size() > kLength && (*version == 0 || text[kLength] != '-')) return std::nullopt;
  if ((*high == 0 && *low == 0) || *span == 0) return std::nullopt;
  return TraceContext{*high, *low, *span, (*flags & kSampledFlag) != 0};
}

}  // namespace shoal
