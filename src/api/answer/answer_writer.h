// The end of the chain: one wire format of one answer, streamed or whole. A format is one implementation; the
// property that all share: the stream joined is the whole answer.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "api/answer/output_parser.h"
#include "api/api_error.h"
#include "exec/step.h"
#include "sched/request.h"

namespace shoal {

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;      ///< Of the prompt: found in the cache.
  int64_t completion_tokens = 0;  ///< Of all choices. The end-of-text token is not among them.
  DraftTotals drafts;             ///< Of all choices.
};

enum class EndReason : uint8_t { kStop, kLength, kToolCalls };

/// Why a choice ended.
struct ChoiceEnd {
  EndReason reason = EndReason::kStop;
  std::string stop_string = {};  ///< The one that ended it; "" if none did.
  int64_t tokens = 0;            ///< Tokens of the choice.
};

/// What one step gave one choice.
struct AnswerPiece {
  int choice = 0;
  std::span<const OutputEvent> events;  ///< Empty while text is held back.
  std::span<const SampledToken>
      sampled;  ///< The tokens that it came from; they carry log-probabilities if asked for.
};

/// Called in this order: admitted; then begin, pieces and end of each choice, in any order among choices; then
/// finish. error() may come at any time instead, and is the last call then. Never blocks.
class AnswerWriter {
 public:
  virtual ~AnswerWriter() = default;
  /// The cluster computes the request, or will: what goes wrong from now on can't have a status line of its own
  /// in a streamed answer.
  virtual void admitted() = 0;
  virtual void piece(const AnswerPiece& piece) = 0;
  /// The next tokens of a prompt, in order, from its second on, as AnswerOrder::score_prompts asks: told to the first
  /// choice of each prompt, before its first piece.
  virtual void prompt_scores(int /*choice*/, std::span<const SampledToken> /*scores*/) {}
  /// The end-of-text token of the choice, which its end follows.
  virtual void end_token(int /*choice*/, const SampledToken& /*token*/) {}
  /// events: the last of the choice.
  virtual void end_choice(int choice, std::span<const OutputEvent> events, const ChoiceEnd& end) = 0;
  /// All choices have ended.
  virtual void finish(const Usage& usage) = 0;
  virtual void error(const ApiError& error) = 0;
  /// Nothing was written for a while.
  virtual void keep_alive() = 0;
  /// Sends what was written since the last flush; false if that is nothing.
  virtual bool flush() = 0;
  /// Nobody listens any more.
  virtual bool gone() const = 0;
};

}  // namespace shoal
