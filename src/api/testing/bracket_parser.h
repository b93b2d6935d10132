// An output format for tests: "(reasoning)", "[name:arguments]", and all else is content.
#pragma once

#include <fmt/format.h>

#include <memory>
#include <string>

#include "api/answer/output_parser.h"

namespace shoal {

class BracketParser : public OutputParser {
 public:
  void push(std::string_view text, OutputEvents& out) override {
    for (const char c : text) push_one(c, out);
  }
  void finish(OutputEvents& out) override {
    if (state_ == State::kName) {
      AddEvent(out, {.kind = OutputEvent::Kind::kContent, .text = "[" + name_});
    } else if (state_ == State::kArguments) {
      AddEvent(out, {.kind = OutputEvent::Kind::kCallEnd, .call = calls_++});
    }
    state_ = State::kContent;
  }

 private:
  enum class State { kContent, kReasoning, kName, kArguments };

  void push_one(char c, OutputEvents& out) {
    using Kind = OutputEvent::Kind;
    if (state_ == State::kContent && c == '(') {
      state_ = State::kReasoning;
    } else if (state_ == State::kReasoning && c == ')') {
      state_ = State::kContent;
    } else if (state_ == State::kContent && c == '[') {
      state_ = State::kName;
      name_.clear();
    } else if (state_ == State::kName && c == ':') {
      state_ = State::kArguments;
      AddEvent(out, {.kind = Kind::kCallBegin,
                     .call = calls_,
                     .call_id = fmt::format("call_{}", calls_),
                     .name = name_});
    } else if (state_ == State::kName) {
      name_ += c;
    } else if (state_ == State::kArguments && c == ']') {
      state_ = State::kContent;
      AddEvent(out, {.kind = Kind::kCallEnd, .call = calls_++});
    } else {
      const Kind kind = state_ == State::kContent     ? Kind::kContent
                        : state_ == State::kReasoning ? Kind::kReasoning
                                                      : Kind::kArguments;
      AddEvent(out, {.kind = kind, .text = std::string(1, c), .call = kind == Kind::kArguments ? calls_ : 0});
    }
  }

  State state_ = State::kContent;
  std::string name_;
  int calls_ = 0;
};

inline OutputFormat BracketFormat() {
  return {.parser = [] { return std::make_unique<BracketParser>(); }};
}

}  // namespace shoal
