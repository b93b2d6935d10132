// Ids to text, one token at a time: what a streaming server may send now.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "text/tokenizer.h"

namespace shoal {

/// Sends whole characters only: nothing while the text so far ends in U+FFFD, which may be a character that
/// is not complete yet. The pieces joined are the full decode.
///
/// One exception, of vocabularies with byte fallback: they decode a run of byte tokens as a whole, so a
/// broken byte turns characters into U+FFFD that were complete, and sent, before it. What was sent stays; the
/// rest is decoded alone.
///
/// A token costs the decoding of a window: the tokens of the last piece and those held back, few unless a
/// model babbles bytes. Beyond 64 held tokens the window is looked at less and less often, so the cost per
/// token stays bounded, and what would end the hold may come up to an eighth of the held tokens later.
class StreamDecoder {
 public:
  /// `tokenizer` must outlive the decoder.
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special)
      : tokenizer_(&tokenizer), skip_special_(skip_special) {}

  /// The text that `id` sets free, often empty. InvalidArgument for a negative id.
  absl::StatusOr<std::string> push(int32_t id);

  /// The text still held back; the decoder then begins anew.
  absl::StatusOr<std::string> flush();

 private:
  size_t held() const { return window_.size() - sent_; }
  absl::StatusOr<std::string> decode(size_t from) const;
  void forget_sent();

  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::vector<int32_t> window_;  ///< The tokens of the last piece, then those held back.
  size_t sent_ = 0;              ///< How many of the window were sent,
  std::string sent_text_;        ///< and what they decode to.
  size_t next_look_ = 0;         ///< Number of held tokens from which to decode again.
};

}  // namespace shoal
