#include "text/stream_decoder.h"

#include <algorithm>
#include <cstddef>
#include <span>
#include <string_view>
#include <utility>

namespace shoal {
namespace {

constexpr size_t kAlwaysLook = 64;
constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

}  // namespace

absl::StatusOr<std::string> StreamDecoder::push(int32_t id) {
  if (id < 0) return InvalidArgument("{} is no token id", id);
  if (silent(id)) return std::string();
  window_.push_back(id);
  if (held() > kAlwaysLook && held() < next_look_) return std::string();
  next_look_ = held() + held() / 8;

  ASSIGN_OR_RETURN(std::string text, decode(0));
  if (text.ends_with(kReplacement)) return std::string();
  if (!text.starts_with(sent_text_)) {
    forget_sent();
    ASSIGN_OR_RETURN(text, decode(0));
    if (text.ends_with(kReplacement)) return std::string();
  }
  if (text.size() == sent_text_.size()) return std::string();

  std::string piece = text.substr(sent_text_.size());
  forget_sent();
  sent_ = window_.size();
  ASSIGN_OR_RETURN(sent_text_, decode(0));
  return piece;
}

absl::StatusOr<std::string> StreamDecoder::flush() {
  ASSIGN_OR_RETURN(std::string text, decode(0));
  if (text.starts_with(sent_text_)) {
    text.erase(0, sent_text_.size());
  } else {
    ASSIGN_OR_RETURN(text, decode(sent_));
  }
  window_.clear();
  forget_sent();
  return text;
}

bool StreamDecoder::silent(int32_t id) const {
  if (id >= tokenizer_->vocab_size()) return true;
  return skip_special_ && tokenizer_->is_special(id) && !std::ranges::binary_search(shown_, id);
}

// Tokens that have no text are not in the window.
absl::StatusOr<std::string> StreamDecoder::decode(size_t from) const {
  return tokenizer_->decode(std::span(window_).subspan(from), /*skip_special=*/false);
}

void StreamDecoder::forget_sent() {
  window_.erase(window_.begin(),
                window_.begin() + static_cast<std::ptrdiff_t>(std::min(sent_, window_.size())));
  sent_ = 0;
  sent_text_.clear();
  next_look_ = 0;
}

}  // namespace shoal
