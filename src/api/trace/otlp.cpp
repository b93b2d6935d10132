#include "api/trace/otlp.h"

#include <nlohmann/json.hpp>

#include "api/json.h"

namespace shoal {
namespace {

constexpr int kKindInternal = 1;
constexpr int kKindServer = 2;
constexpr int kStatusError = 2;

Json SpanValueJson(const SpanValue& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return {{"stringValue", *text}};
  // As a text: JavaScript has no integers of 64 bits.
  if (const auto* number = std::get_if<int64_t>(&value)) return {{"intValue", std::to_string(*number)}};
  return {{"doubleValue", std::get<double>(value)}};
}

Json AttributesJson(const SpanAttributes& attributes) {
  Json list = Json::array();
  for (const auto& [key, value] : attributes) list.push_back({{"key", key}, {"value", SpanValueJson(value)}});
  return list;
}

}  // namespace

OtlpEnvelope OtlpEnvelopeOf(const SpanAttributes& resource, std::string_view version) {
  Json scope = {{"name", "shoal"}, {"version", version}};
  Json all = {{"resource", {{"attributes", AttributesJson(resource)}}},
              {"scopeSpans", Json::array({{{"scope", std::move(scope)}, {"spans", Json::array()}}})}};
  const std::string text = DumpJson({{"resourceSpans", Json::array({std::move(all)})}});
  // The list of spans is the last thing in it.
  const size_t spans = text.rfind("[]");
  return {text.substr(0, spans + 1), text.substr(spans + 1)};
}

std::string OtlpSpan(const TraceContext& trace, const Span& span) {
  Json json = {{"traceId", trace.trace_id()}, {"spanId", SpanId(span.id)}};
  if (span.parent != 0) json["parentSpanId"] = SpanId(span.parent);
  json["name"] = span.name;
  json["kind"] = span.server ? kKindServer : kKindInternal;
  json["startTimeUnixNano"] = std::to_string(span.start_ns);
  json["endTimeUnixNano"] = std::to_string(span.end_ns);
  json["attributes"] = AttributesJson(span.attributes);
  if (!span.error.empty()) json["status"] = {{"code", kStatusError}, {"message", span.error}};
  return DumpJson(json);
}

}  // namespace shoal
