#include "plan/id_list.h"

#include <algorithm>
#include <charconv>

#include "base/text.h"

namespace shoal {

std::string FormatIdList(const std::vector<int32_t>& ids) {
  std::string text;
  for (size_t i = 0; i < ids.size();) {
    size_t last = i;
    while (last + 1 < ids.size() && ids[last + 1] == ids[last] + 1) ++last;
    if (!text.empty()) text += ',';
    text += last == i ? fmt::format("{}", ids[i]) : fmt::format("{}-{}", ids[i], ids[last]);
    i = last + 1;
  }
  return text;
}

absl::StatusOr<int64_t> ParseInteger(std::string_view text) {
  int64_t value = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc() && rest == text.data() + text.size()) return value;
  return InvalidArgument("expected a whole number, got '{}'", text);
}

absl::StatusOr<std::vector<int32_t>> ParseIdList(std::string_view text, int32_t end) {
  std::vector<int32_t> ids;
  for (const std::string& item : Split(text, ',')) {
    const size_t dash = item.find('-', 1);
    const auto first = ParseInteger(item.substr(0, dash));
    const auto last = dash == std::string::npos ? first : ParseInteger(item.substr(dash + 1));
    if (!first.ok() || !last.ok() || *first > *last) {
      return InvalidArgument("ids '{}': expected a list such as 0-3,7, got '{}'", text, item);
    }
    if (*first < 0 || *last >= end) {
      return InvalidArgument("ids '{}': expected ids from 0 to {}, got {}", text, end - 1,
                             *first < 0 ? *first : *last);
    }
    for (int64_t id = *first; id <= *last; ++id) ids.push_back(static_cast<int32_t>(id));
    if (static_cast<int32_t>(ids.size()) > end) break;  // Some id appears twice.
  }
  std::sort(ids.begin(), ids.end());
  const auto twice = std::adjacent_find(ids.begin(), ids.end());
  if (twice != ids.end()) return InvalidArgument("ids '{}': {} appears twice", text, *twice);
  return ids;
}

}  // namespace shoal
