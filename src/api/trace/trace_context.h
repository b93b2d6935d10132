// Which trace a request belongs to, as its client says it in the header traceparent.
// Source: W3C Trace Context, https://www.w3.org/TR/trace-context/ (version 00).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace shoal {

struct TraceContext {
  uint64_t trace_high = 0;  ///< The trace's id, of 128 bits; not 0.
  uint64_t trace_low = 0;
  uint64_t span = 0;  ///< That the request is part of; 0: it begins the trace.
  bool sampled = false;
  bool operator==(const TraceContext&) const = default;

  /// 32 digits of hex.
  std::string trace_id() const;
};

/// A span's id: 16 digits of hex.
std::string SpanId(uint64_t span);

/// Nothing for what is no traceparent, which is then as good as absent. A version to come may have more at its end.
std::optional<TraceContext> ParseTraceParent(std::string_view text);

}  // namespace shoal
