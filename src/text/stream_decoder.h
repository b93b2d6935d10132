// Decodes ids to text one token at a time: the text that a streaming server can send now.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "text/tokenizer.h"

namespace shoal {

/// Sends whole characters only: it holds text back while the text ends in U+FFFD, which may be an incomplete
/// character. The sent texts joined are the full decode.
///
/// One exception: vocabularies with byte fallback decode a run of byte tokens as a whole, so a broken byte
/// turns complete characters before it into U+FFFD, after they were sent. Sent text stays as it is; the rest
/// is decoded alone.
///
/// Cost: each token decodes a window, the tokens sent last and those held back, which are few unless a model
/// emits bytes without end. With more than 64 held tokens the window is decoded less and less often, so that
/// the cost per token stays bounded. Held text is then sent late by at most an eighth of the held tokens.
class StreamDecoder {
 public:
  /// skip_special: special tokens have no text, but for those in `shown`, which is sorted: the marks of a model's
  /// dialect. `tokenizer` must outlive the decoder.
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special, std::vector<int32_t> shown = {})
      : tokenizer_(&tokenizer), skip_special_(skip_special), shown_(std::move(shown)) {}

  /// Appends `id` and returns the text that can be sent now, often empty. Returns InvalidArgument for a
  /// negative id.
  absl::StatusOr<std::string> push(int32_t id);

  /// Returns the text that is still held back, and resets the decoder.
  absl::StatusOr<std::string> flush();

 private:
  size_t held() const { return window_.size() - sent_; }
  bool silent(int32_t id) const;
  absl::StatusOr<std::string> decode(size_t from) const;
  void forget_sent();

  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::vector<int32_t> shown_;
  std::vector<int32_t> window_;  ///< The tokens sent last, then those held back.
  size_t sent_ = 0;              ///< How many tokens of the window were sent.
  std::string sent_text_;        ///< The text of these.
  size_t next_look_ = 0;         ///< The number of held tokens at which to decode again.
};

}  // namespace shoal
