// What a model's text turns out to be: an answer, its reasoning, and calls of tools.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace shoal {

struct OutputEvent {
  enum class Kind : uint8_t {
    kContent,    ///< `text` is a piece of the answer.
    kReasoning,  ///< `text` is a piece of the reasoning.
    kCallBegin,  ///< A call begins: `name` is the tool's, `call_id` what the model called the call, often empty.
    kArguments,  ///< `text` is a piece of the call's arguments, which are JSON whatever the format.
    kCallEnd,    ///< The call is over; its arguments are complete unless the text ended too early.
  };
  Kind kind = Kind::kContent;
  std::string text = {};
  int call = 0;  ///< The number of the call, from 0; 0 for content and reasoning.
  std::string call_id = {};
  std::string name = {};
  bool operator==(const OutputEvent&) const = default;
};
using OutputEvents = std::vector<OutputEvent>;

/// Appends `event`; pieces of the same thing become one, empty pieces none.
inline void AddEvent(OutputEvents& events, OutputEvent event) {
  using Kind = OutputEvent::Kind;
  const bool piece = event.kind != Kind::kCallBegin && event.kind != Kind::kCallEnd;
  if (piece && event.text.empty()) return;
  if (piece && !events.empty() && events.back().kind == event.kind && events.back().call == event.call) {
    events.back().text += event.text;
  } else {
    events.push_back(std::move(event));
  }
}

}  // namespace shoal
