// Drafts from a sequence's own tokens: what followed the last time that its latest tokens occurred. An answer that
// repeats its prompt, such as a file with an edit, is mostly drafted right, and no second model is needed.
// Source: Saxena 2023, "Prompt Lookup Decoding"; the index is the hash chains of LZ77 compressors (RFC 1951,
// section 4), which search the same thing.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sched/draft.h"

namespace shoal {

/// An index over the tokens of one sequence, which only ever grow. It takes 16 bytes a token at most; a search compares
/// kCandidatesMax places at most, whatever the length (prompt_lookup_bench).
class PromptLookup {
 public:
  static constexpr int64_t kMatchMin = 3;        ///< Shorter matches say little.
  static constexpr int64_t kMatchMax = 32;       ///< Longer ones are not told apart.
  static constexpr int64_t kCandidatesMax = 32;  ///< The latest places of kMatchMin tokens that are compared.

  /// Indexes those of `tokens` that it does not know yet, `most` of them at most. `tokens` begin with what it was
  /// given before.
  void extend(std::span<const int32_t> tokens, int64_t most);
  /// Tokens in the index.
  int64_t indexed() const { return std::ssize(previous_); }

  /// Up to `most` tokens that followed the longest match of the end of `tokens`: of equal ones the one that goes on
  /// from before, else the latest. A draft that reaches the end goes on with itself. Empty where nothing matches.
  /// CHECKs that all of `tokens` are indexed.
  Draft draft(std::span<const int32_t> tokens, int64_t most);

 private:
  void insert(std::span<const int32_t> tokens, int64_t position);
  void grow(std::span<const int32_t> tokens);
  size_t bucket(std::span<const int32_t> tokens, int64_t position) const;

  std::vector<int32_t> previous_;  // By position: where the kMatchMin tokens up to it stood before, or -1.
  std::vector<int32_t> latest_;    // By hash of such tokens: where they end, the last time. A power of two.
  int64_t source_ = -1;            // The match goes on: the last token stands here, too.
};

}  // namespace shoal
