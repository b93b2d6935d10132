// What every format's test does: an answer is read whole, in any pieces, cut off, and damaged.
#pragma once

#include <gtest/gtest.h>

#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "text/output/dialect_parser.h"

namespace shoal::test {

struct Call {
  std::string name;
  std::string arguments;
  std::string id = "";
  bool operator==(const Call&) const = default;
};
inline std::ostream& operator<<(std::ostream& out, const Call& call) {
  return out << call.name << " " << call.arguments << " " << call.id;
}

/// What the events of an answer amount to.
struct Answer {
  std::string content;
  std::string reasoning;
  std::vector<Call> calls;
  bool operator==(const Answer&) const = default;
};
inline std::ostream& operator<<(std::ostream& out, const Answer& answer) {
  out << "content [" << answer.content << "] reasoning [" << answer.reasoning << "]";
  for (const Call& call : answer.calls) out << "\n  call " << call;
  return out;
}

/// get_weather(city: string, days: integer, exact: boolean, where: object, tags: array, note: string or null, any),
/// get_time(zone: string), now(), python(code: string).
inline constexpr std::string_view kTools = R"([
  {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {
    "city": {"type": "string"}, "days": {"type": "integer"}, "exact": {"type": "boolean"},
    "where": {"type": "object"}, "tags": {"type": "array"},
    "note": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "any": {}}}}},
  {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {
    "zone": {"type": "string"}}}}},
  {"type": "function", "function": {"name": "now"}},
  {"type": "function", "function": {"name": "python", "parameters": {"type": "object", "properties": {
    "code": {"type": "string"}}}}}])";

struct Reading {
  Dialect dialect;
  bool reasoning_open = false;
  /// Parts of the notation that say nothing, whose damage need not show.
  std::vector<std::string> silent = {};
};

inline DialectOptions Options(const Reading& reading) {
  return {.tools = kTools, .parse_tools = true, .reasoning_open = reading.reasoning_open};
}

/// The events of `text`, read in pieces that end at `cuts`.
OutputEvents EventsOf(const Reading& reading, std::string_view text, const std::vector<size_t>& cuts = {});

/// Checks that the events are well formed: calls are numbered, begun, and ended in order.
Answer AnswerOf(const OutputEvents& events);
inline Answer Read(const Reading& reading, std::string_view text) {
  return AnswerOf(EventsOf(reading, text));
}

/// Expects that `text` is `answer`, however it is cut; that all its beginnings are read alike however they are cut;
/// and that a word is not lost, wherever in the text it stands.
void ExpectReads(const Reading& reading, std::string_view text, const Answer& answer);

}  // namespace shoal::test
