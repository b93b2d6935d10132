#include "text/output/reasoning_parser.h"

#include <algorithm>

#include "text/output/json_text.h"

namespace shoal {
namespace {

constexpr size_t kSpacesMax = 256;

std::vector<std::string> Joined(std::vector<std::string> markers, const std::string& first) {
  markers.insert(markers.begin(), first);
  return markers;
}

}  // namespace

ReasoningParser::ReasoningParser(ReasoningSyntax syntax, bool opened, std::vector<std::string> call_openers)
    : syntax_(std::move(syntax)),
      at_(opened ? At::kInside : At::kBegin),
      inside_(Joined(Joined(std::move(call_openers), syntax_.open), syntax_.close)),
      outside_(syntax_.anywhere ? Joined(syntax_.dropped, syntax_.open) : syntax_.dropped) {}

void ReasoningParser::next(char c, std::string& rest, OutputEvents& events) {
  switch (at_) {
    case At::kInside:
      return next_inside(c, rest, events);
    case At::kAfter:
      if (IsSpace(c)) return;
      at_ = At::kOutside;
      return next_outside(c, rest);
    case At::kOutside:
      return next_outside(c, rest);
    case At::kBegin:
      break;
  }
  held_ += c;
  const std::string_view text =
      std::string_view(held_).substr(std::min(held_.find_first_not_of(" \n\t\r"), held_.size()));
  if (text == syntax_.open) {
    held_.clear();
    at_ = At::kInside;
  } else if (!syntax_.open.starts_with(text) || held_.size() > kSpacesMax) {
    at_ = At::kOutside;
    for (const char again : std::exchange(held_, {})) next_outside(again, rest);
  }
}

void ReasoningParser::next_inside(char c, std::string& rest, OutputEvents& events) {
  std::string released;
  const int found = inside_.next(c, released);
  add_reasoning(released, events);
  if (found < 0) return;
  const std::string& marker = inside_.marker(found);
  if (marker == syntax_.close) {
    spaces_.clear();
    spoken_ = false;
    at_ = At::kAfter;
  } else if (marker == syntax_.open) {
    if (spoken_) add_reasoning(marker, events);  // Else the model repeats what the prompt has.
  } else if (ends_reasoning(marker)) {
    spaces_.clear();
    spoken_ = false;
    at_ = At::kOutside;
    rest += marker;
  } else {
    add_reasoning(marker, events);
  }
}

// "<tool_call>" in the middle of a line is talk about calls; marks that no text has by chance begin one.
bool ReasoningParser::ends_reasoning(const std::string& marker) const {
  const bool unlikely = marker.starts_with('[') || marker.contains('|') || marker.contains("｜");
  return unlikely || !spoken_ || spaces_.contains('\n');
}

void ReasoningParser::next_outside(char c, std::string& rest) {
  const int found = outside_.next(c, rest);
  if (found < 0 || outside_.marker(found) != syntax_.open) return;
  at_ = At::kInside;
}

void ReasoningParser::add_reasoning(std::string_view text, OutputEvents& events) {
  for (const char c : text) {
    if (IsSpace(c) && spaces_.size() < kSpacesMax) {
      spaces_ += c;
      continue;
    }
    if (!spoken_) spaces_.clear();
    spoken_ = true;
    AddEvent(events, {.kind = OutputEvent::Kind::kReasoning, .text = std::exchange(spaces_, {}) + c});
  }
}

void ReasoningParser::finish(std::string& rest, OutputEvents& events) {
  add_reasoning(inside_.take_held(), events);
  rest += std::exchange(held_, {});
  rest += outside_.take_held();
}

}  // namespace shoal
