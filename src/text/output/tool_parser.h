// Splits a model's text, which arrives in pieces, into content and calls of tools.
//
// The parser reads byte by byte, so that the events do not depend on how the text was cut. It looks for a format's
// opening markers; what follows one is read by the format's grammar. Text that turns out to be no call goes out as
// content, with its markers: nothing is lost but the notation of calls and the spaces around them.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/output/event.h"
#include "text/output/marker_matcher.h"
#include "text/output/tool_schemas.h"

namespace shoal {

/// What a grammar says of the next byte.
enum class Verdict {
  kMore,     ///< It was taken.
  kDone,     ///< It was taken, and the calls that the opening marker announced are over.
  kRefused,  ///< The text since the last `accept` is no call.
};

/// Where a grammar puts calls.
class CallWriter {
 public:
  /// Begins a call, ends the one before it, and accepts.
  void begin(std::string_view name, std::string_view id = "");
  void arguments(std::string_view json);
  /// The arguments are complete.
  void end();
  /// Text that is no part of a call.
  void content(std::string_view text);
  /// The text up to here was read, but for its last `held` bytes: it will not go out as it is.
  void accept(size_t held = 0) {
    accepted_ = true;
    held_ = held;
  }

  bool open() const { return open_; }
  int calls() const { return calls_; }

 private:
  friend class ToolParser;
  OutputEvents* events_ = nullptr;
  bool open_ = false;
  bool accepted_ = false;
  size_t held_ = 0;
  int calls_ = 0;
};

/// Reads what follows an opening marker. It need not mind where the text ends: what it has not accepted by then goes out
/// as arguments of the open call, or else as content.
class CallGrammar {
 public:
  virtual ~CallGrammar() = default;
  /// Begins anew, after `marker`.
  virtual void open(std::string_view marker) = 0;
  virtual Verdict next(char c, CallWriter& out) = 0;
};

struct ToolSyntax {
  std::vector<std::string> openers;
  /// Ends of notation that follow a call without belonging to one: dropped once a call was made.
  std::vector<std::string> closers;
  /// Bytes at the very beginning of the answer that open a call: "{" of a format without markers.
  std::string first = "";
  /// Marks around content, which are dropped.
  std::vector<std::string> dropped = {};
  /// The prompt has the opening marker of what comes first.
  bool opened = false;
};

class ToolParser {
 public:
  ToolParser(ToolSyntax syntax, std::unique_ptr<CallGrammar> grammar);

  /// The next piece of text. Holds back at most 1 MiB.
  void push(std::string_view text, OutputEvents& events);
  /// The text is over.
  void finish(OutputEvents& events);

 private:
  void next(char c);
  void next_of_content(char c);
  void next_of_call(char c);
  void open(std::string_view marker);
  void take_accepted();
  void give_up();
  void end_call();
  void read_again();
  void add_content(std::string_view text);

  const ToolSyntax syntax_;
  const std::unique_ptr<CallGrammar> grammar_;
  MarkerMatcher matcher_;
  CallWriter writer_;
  bool in_call_ = false;
  bool begun_ = false;       ///< Something other than spaces was read.
  bool called_ = false;      ///< A call was made since the last opening marker.
  bool after_call_ = false;  ///< Only spaces follow the last call so far.
  std::string opener_;       ///< The marker that opened what is being read.
  std::string unaccepted_;   ///< What the grammar read since its last `accept`.
  std::string spaces_;       ///< Spaces that vanish if a call follows.
  std::string again_;        ///< Refused text, to be read as content; the next byte is at the back.
};

}  // namespace shoal
