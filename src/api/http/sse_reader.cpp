#include "api/http/sse_reader.h"

namespace shoal {

void SseReader::push(std::string_view piece) {
  while (!piece.empty()) {
    if (after_return_ && piece.front() == '\n') piece.remove_prefix(1);
    after_return_ = false;
    const size_t end = piece.find_first_of("\r\n");
    line_ += piece.substr(0, end);
    if (end == std::string_view::npos) return;
    after_return_ = piece[end] == '\r';
    piece.remove_prefix(end + 1);
    end_line();
  }
}

void SseReader::end_line() {
  constexpr std::string_view kData = "data:";
  if (line_.empty()) {
    if (has_data_) on_data_(data_);
    has_data_ = false;
    data_.clear();
    return;
  }
  std::string_view line = line_;
  if (line.starts_with(kData)) {
    line.remove_prefix(kData.size());
    if (line.starts_with(' ')) line.remove_prefix(1);
    if (has_data_) data_ += '\n';
    data_ += line;
    has_data_ = true;
  }
  line_.clear();
}

}  // namespace shoal
