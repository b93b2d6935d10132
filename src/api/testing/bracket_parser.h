// An output format for tests: "(reasoning)", "[name:arguments]", and all else is content.
#pragma once

#include <fmt/format.h>

#include <memory>
#include <string>

#include "api/answer/answer_event.h"

namespace shoal {

class BracketParser : public OutputParser {
 public:
  void push(std::string_view text, std::vector<AnswerEvent>& out) override {
    for (const char c : text) push_one(c, out);
  }
  void finish(std::vector<AnswerEvent>& out) override {
    if (state_ == State::kName) {
      AppendEvent(out, {.kind = AnswerEvent::Kind::kContent, .text = "[" + name_});
    } else if (state_ == State::kArguments) {
      AppendEvent(out, {.kind = AnswerEvent::Kind::kCallEnd, .call = calls_++});
    }
    state_ = State::kContent;
  }

 private:
  enum class State { kContent, kReasoning, kName, kArguments };

  void push_one(char c, std::vector<AnswerEvent>& out) {
    using Kind = AnswerEvent::Kind;
    if (state_ == State::kContent && c == '(') {
      state_ = State::kReasoning;
    } else if (state_ == State::kReasoning && c == ')') {
      state_ = State::kContent;
    } else if (state_ == State::kContent && c == '[') {
      state_ = State::kName;
      name_.clear();
    } else if (state_ == State::kName && c == ':') {
      state_ = State::kArguments;
      AppendEvent(out, {.kind = Kind::kCallBegin,
                        .call = calls_,
                        .call_id = fmt::format("call_{}", calls_),
                        .name = name_});
    } else if (state_ == State::kName) {
      name_ += c;
    } else if (state_ == State::kArguments && c == ']') {
      state_ = State::kContent;
      AppendEvent(out, {.kind = Kind::kCallEnd, .call = calls_++});
    } else {
      const Kind kind = state_ == State::kContent     ? Kind::kContent
                        : state_ == State::kReasoning ? Kind::kReasoning
                                                      : Kind::kCallArguments;
      AppendEvent(
          out, {.kind = kind, .text = std::string(1, c), .call = kind == Kind::kCallArguments ? calls_ : 0});
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
