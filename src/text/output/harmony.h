// OpenAI's harmony format: messages with channels.
//   <|channel|>analysis<|message|>reasoning<|end|>
//   <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>
//   <|start|>assistant<|channel|>final<|message|>answer<|return|>
// Source: https://cookbook.openai.com/articles/openai-harmony
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/output/call_syntax.h"
#include "text/output/event.h"
#include "text/output/marker_matcher.h"

namespace shoal {

inline constexpr std::string_view kHarmonyReasoning = "<|channel|>analysis<|message|>";
inline constexpr std::string_view kHarmonyAnswer = "<|channel|>final<|message|>";
/// How gpt-oss writes calls.
const CallWriting& HarmonyWriting();

struct HarmonyOptions {
  bool tools = true;      ///< Messages to tools are calls; otherwise they are content.
  bool reasoning = true;  ///< The channel of the analysis is reasoning; otherwise it is content.
};

/// What the parser looks for in the text.
std::vector<std::string> HarmonyMarks();

class HarmonyParser {
 public:
  explicit HarmonyParser(HarmonyOptions options);
  void push(std::string_view text, OutputEvents& events);
  void finish(OutputEvents& events);

 private:
  enum class At { kBegin, kHeader, kBody, kBetween };
  enum class Body { kContent, kReasoning, kCall };

  void next(char c);
  void next_of_begin(char c);
  void add_text(std::string_view text);
  void at_marker(const std::string& marker);
  void begin_body();
  void begin_content();
  void end_header();
  void end_body();
  void emit(std::string_view text);

  const HarmonyOptions options_;
  At at_ = At::kBegin;
  Body body_ = Body::kContent;
  bool body_empty_ = true;
  bool said_[2] = {false, false};  ///< Whether there was content, and reasoning: messages are kept apart.
  std::string header_;             ///< At the beginning: what may be one.
  MarkerMatcher matcher_;
  OutputEvents* events_ = nullptr;
  int calls_ = 0;
};

}  // namespace shoal
