// What a choice of an answer consists of, in the order in which it came: the output of the chain that turns
// tokens into an answer, and what every wire format is written from.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shoal {

/// A piece of a choice. Pieces of one kind in a row are one text that came in parts.
struct AnswerEvent {
  enum class Kind : uint8_t {
    kContent,        ///< `text` is for the user.
    kReasoning,      ///< `text` is what the model thinks before it answers.
    kCallBegin,      ///< Tool call `call` begins: `call_id`, `name`.
    kCallArguments,  ///< `text` goes on with the arguments of `call`, which joined are JSON.
    kCallEnd,        ///< `call` is complete.
  };
  Kind kind = Kind::kContent;
  std::string text = {};
  int call = 0;  ///< Index of the tool call within the choice, from 0.
  std::string call_id = {};
  std::string name = {};
  bool operator==(const AnswerEvent&) const = default;
};

/// The last machine of the chain: tells content, reasoning and tool calls apart in the text of one choice, which
/// comes in pieces. Any cut of the text gives the same events, as far as AppendEvent joins them.
class OutputParser {
 public:
  virtual ~OutputParser() = default;
  /// Appends to `out` what `text` sets free.
  virtual void push(std::string_view text, std::vector<AnswerEvent>& out) = 0;
  /// The end of the text: appends what was held back, and ends what is open.
  virtual void finish(std::vector<AnswerEvent>& out) = 0;
};

/// How the text of a model is read.
struct OutputFormat {
  /// A parser for one choice. Empty: all text is content.
  std::function<std::unique_ptr<OutputParser>()> parser = {};
  /// Special tokens that the parser is given as text, since they are its marks; sorted. Others have no text.
  std::vector<int32_t> shown_special = {};
};

/// Appends `event`, or joins it to the last one where both are parts of one text.
inline void AppendEvent(std::vector<AnswerEvent>& events, AnswerEvent event) {
  const bool joins =
      !events.empty() && events.back().kind == event.kind && events.back().call == event.call &&
      (event.kind == AnswerEvent::Kind::kContent || event.kind == AnswerEvent::Kind::kReasoning ||
       event.kind == AnswerEvent::Kind::kCallArguments);
  if (joins) {
    events.back().text += event.text;
  } else {
    events.push_back(std::move(event));
  }
}

}  // namespace shoal
