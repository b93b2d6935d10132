// The chain from the tokens of one choice to its answer: tokens -> text (whole characters) -> stop strings ->
// output parser -> events. Each machine takes pieces and gives pieces; none knows a wire format or a clock.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "api/answer/output_parser.h"
#include "api/answer/stop_matcher.h"
#include "exec/step.h"
#include "text/stream_decoder.h"

namespace shoal {

struct ChainPlan {
  std::vector<std::string> stop;
  int64_t min_tokens = 0;  ///< The text of so many tokens is not searched for stop strings.
  OutputFormat format;
};

class ChoiceChain {
 public:
  /// `tokenizer` must outlive it.
  ChoiceChain(const Tokenizer& tokenizer, ChainPlan plan);

  /// Appends to `out` what the next tokens set free. Those behind a stop string are not counted. An error is ours
  /// (ids that do not decode).
  absl::Status push(std::span<const SampledToken> tokens, OutputEvents& out);

  /// The end: appends what is still held back.
  absl::Status finish(OutputEvents& out);

  bool stopped() const { return stop_.stopped(); }
  /// The stop string that ended the text; "" if none did.
  const std::string& stop_string() const { return stop_.matched(); }
  /// Tokens of the text, those of a stop string included.
  int64_t tokens() const { return tokens_; }
  /// Tool calls that began.
  int calls() const { return calls_; }

 private:
  void parse(const std::string& text, OutputEvents& out);
  void count_calls(const OutputEvents& events, size_t from);

  const int64_t min_tokens_;
  StreamDecoder decoder_;
  StopMatcher stop_;
  std::unique_ptr<OutputParser> parser_;  // Null: all is content.
  int64_t tokens_ = 0;
  int calls_ = 0;
};

}  // namespace shoal
