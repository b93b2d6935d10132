#include "text/output/tool_parser.h"

#include <algorithm>

#include "text/output/json_text.h"

namespace shoal {
namespace {

/// Text that is held back while it may become a call: names, ids, and arguments that stand before the name.
/// Text that is full of opening markers is read again for each of them, so the limit bounds the time, too.
constexpr size_t kHeldMax = 8 << 10;
/// Text of an open call that is held back: a value whose type shows only at its end.
constexpr size_t kValueMax = 1 << 20;
constexpr size_t kSpacesMax = 256;

std::vector<std::string> AllMarkers(const ToolSyntax& syntax) {
  std::vector<std::string> markers = syntax.openers;
  markers.insert(markers.end(), syntax.closers.begin(), syntax.closers.end());
  markers.insert(markers.end(), syntax.dropped.begin(), syntax.dropped.end());
  return markers;
}

bool Contains(const std::vector<std::string>& markers, const std::string& marker) {
  return std::ranges::find(markers, marker) != markers.end();
}

}  // namespace

// ---- CallWriter ----

void CallWriter::begin(std::string_view name, std::string_view id) {
  end();
  open_ = true;
  accept();
  AddEvent(*events_, {.kind = OutputEvent::Kind::kCallBegin,
                      .call = calls_++,
                      .call_id = std::string(id),
                      .name = std::string(name)});
}

void CallWriter::arguments(std::string_view json) {
  AddEvent(*events_, {.kind = OutputEvent::Kind::kArguments, .text = std::string(json), .call = calls_ - 1});
}

void CallWriter::end() {
  if (!std::exchange(open_, false)) return;
  AddEvent(*events_, {.kind = OutputEvent::Kind::kCallEnd, .call = calls_ - 1});
}

void CallWriter::content(std::string_view text) {
  AddEvent(*events_, {.kind = OutputEvent::Kind::kContent, .text = std::string(text)});
}

// ---- ToolParser ----

ToolParser::ToolParser(ToolSyntax syntax, std::unique_ptr<CallGrammar> grammar)
    : syntax_(std::move(syntax)), grammar_(std::move(grammar)), matcher_(AllMarkers(syntax_)) {}

void ToolParser::push(std::string_view text, OutputEvents& events) {
  writer_.events_ = &events;
  for (const char c : text) next(c);
}

void ToolParser::finish(OutputEvents& events) {
  writer_.events_ = &events;
  // Refused text may open a call again, each time with less of it.
  while (in_call_) {
    end_call();
    give_up();
    read_again();
  }
  add_content(matcher_.take_held());
  if (!after_call_) writer_.content(spaces_);
  spaces_.clear();
}

void ToolParser::next(char c) {
  again_ += c;
  read_again();
}

void ToolParser::read_again() {
  while (!again_.empty()) {
    const char c = again_.back();
    again_.pop_back();
    in_call_ ? next_of_call(c) : next_of_content(c);
  }
}

void ToolParser::next_of_content(char c) {
  if (!begun_ && !IsSpace(c)) {
    begun_ = true;
    if (syntax_.opened || syntax_.first.contains(c)) {
      open("");
      return next_of_call(c);
    }
  }
  std::string released;
  const int found = matcher_.next(c, released);
  add_content(released);
  if (found < 0) return;
  const std::string& marker = matcher_.marker(found);
  if (Contains(syntax_.openers, marker)) return open(marker);
  const bool drop = Contains(syntax_.dropped, marker) || writer_.calls() > 0;
  if (!drop) add_content(marker);
}

void ToolParser::open(std::string_view marker) {
  opener_ = marker;
  unaccepted_.clear();
  called_ = false;
  in_call_ = true;
  grammar_->open(marker);
}

void ToolParser::next_of_call(char c) {
  unaccepted_ += c;
  const Verdict verdict = grammar_->next(c, writer_);
  take_accepted();
  if (verdict == Verdict::kDone && called_) {
    in_call_ = false;
    writer_.end();
  } else if (verdict != Verdict::kMore) {
    give_up();
  } else if (unaccepted_.size() > (writer_.open() ? kValueMax : kHeldMax)) {
    end_call();
    give_up();
  }
}

// An open call gets the rest as it is.
void ToolParser::end_call() {
  if (!writer_.open()) return;
  writer_.arguments(std::exchange(unaccepted_, {}));
  writer_.end();
}

void ToolParser::take_accepted() {
  if (!std::exchange(writer_.accepted_, false)) return;
  called_ = true;
  after_call_ = true;
  unaccepted_.erase(0, unaccepted_.size() - std::min(writer_.held_, unaccepted_.size()));
  spaces_.clear();
}

// What was read and is no call becomes content.
void ToolParser::give_up() {
  writer_.end();
  in_call_ = false;
  if (!called_) add_content(opener_);
  again_.append(unaccepted_.rbegin(), unaccepted_.rend());
  unaccepted_.clear();
}

void ToolParser::add_content(std::string_view text) {
  for (const char c : text) {
    if (IsSpace(c) && spaces_.size() < kSpacesMax) {
      spaces_ += c;
      continue;
    }
    if (!spaces_.empty()) writer_.content(std::exchange(spaces_, {}));
    after_call_ = false;
    writer_.content(std::string_view(&c, 1));
  }
}

}  // namespace shoal
