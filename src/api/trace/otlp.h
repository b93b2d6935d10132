// Spans as OpenTelemetry's collectors take them over HTTP: OTLP in its JSON encoding. Pure functions.
// Source: https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding (1.3).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "api/trace/trace_context.h"

namespace shoal {

using SpanValue = std::variant<std::string, int64_t, double>;
using SpanAttributes = std::vector<std::pair<std::string, SpanValue>>;

struct Span {
  uint64_t id = 0;
  uint64_t parent = 0;  ///< 0: none.
  std::string name;
  bool server = false;   ///< It is what a client asked for, not a part of it.
  int64_t start_ns = 0;  ///< Since the Unix epoch.
  int64_t end_ns = 0;    ///< Not before the start.
  SpanAttributes attributes = {};
  std::string error = {};  ///< Empty: it went well.
};

/// What goes before and behind the spans (OtlpSpan, separated by commas) of one export. resource: who made them.
struct OtlpEnvelope {
  std::string head;
  std::string tail;
};
OtlpEnvelope OtlpEnvelopeOf(const SpanAttributes& resource, std::string_view version);

/// One span of the trace, as a JSON object.
std::string OtlpSpan(const TraceContext& trace, const Span& span);

}  // namespace shoal
