#include "compute/token_history.h"

#include <cstddef>
#include <limits>

namespace shoal {
namespace {

/// Stands at positions that nobody told of.
constexpr int32_t kUnknown = std::numeric_limits<int32_t>::min();

/// Ids to come for which a history has room: a decode step seldom allocates.
constexpr size_t kRoom = 1024;

}  // namespace

TokenHistory::TokenHistory(std::span<const int32_t> tokens, int64_t prompt_tokens)
    : prompt_tokens_(prompt_tokens) {
  tokens_.reserve(tokens.size() + kRoom);
  for (const int32_t token : tokens) append(token);
}

void TokenHistory::place(int64_t position, std::span<const int32_t> tokens) {
  const auto begin = static_cast<size_t>(position);
  while (tokens_.size() < begin) append(kUnknown);
  size_t same = 0;
  while (same < tokens.size() && begin + same < tokens_.size() && tokens_[begin + same] == tokens[same])
    ++same;
  truncate(begin + same);
  for (const int32_t token : tokens.subspan(same)) append(token);
}

int32_t& TokenHistory::count_at(size_t position) {
  Counts& counts = counts_[tokens_[position]];
  return static_cast<int64_t>(position) < prompt_tokens_ ? counts.prompt : counts.generated;
}

void TokenHistory::append(int32_t token) {
  tokens_.push_back(token);
  if (token != kUnknown) ++count_at(tokens_.size() - 1);
}

void TokenHistory::truncate(size_t length) {
  for (; tokens_.size() > length; tokens_.pop_back()) {
    if (tokens_.back() == kUnknown) continue;
    --count_at(tokens_.size() - 1);
    const Counts& left = counts_.at(tokens_.back());
    if (left.prompt == 0 && left.generated == 0) counts_.erase(tokens_.back());
  }
}

}  // namespace shoal
