// What sampling must know of the ids that a sequence has.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace shoal {

/// The ids of a sequence and how often each occurs: what penalties need.
class TokenHistory {
 public:
  TokenHistory() = default;
  /// The first `prompt_tokens` of `tokens` are the prompt; whatever stands behind it was generated.
  TokenHistory(std::span<const int32_t> tokens, int64_t prompt_tokens);

  /// `tokens` stand at `position` and the positions behind it, and nothing behind them: ids that were drafted
  /// and not accepted are forgotten. Positions before them that nobody told of count as no id.
  void place(int64_t position, std::span<const int32_t> tokens);

  struct Counts {
    int32_t prompt = 0;     ///< Times in the prompt.
    int32_t generated = 0;  ///< Times in the generated text.
  };
  /// Of every id that occurs.
  const std::unordered_map<int32_t, Counts>& counts() const { return counts_; }

 private:
  void append(int32_t token);
  void truncate(size_t length);
  int32_t& count_at(size_t position);

  int64_t prompt_tokens_ = 0;
  std::vector<int32_t> tokens_;
  std::unordered_map<int32_t, Counts> counts_;
};

}  // namespace shoal
