// Tokens that may follow those of a sequence, and where they come from.
#pragma once

#include <cstdint>
#include <vector>

namespace shoal {

enum class DraftSource : uint8_t {
  kLookup,  ///< The sequence's own tokens (PromptLookup).
  kModel,   ///< A smaller model (DraftModel).
  kMtp,     ///< The model's head for multi-token prediction, with the result of the step before.
};

/// What may follow a sequence's tokens.
struct Draft {
  /// Of kLookup: latest tokens that stand before both places, PromptLookup::kMatchMax at most; 0: there is no draft.
  /// Longer matches are right more often.
  int64_t matched = 0;
  std::vector<int32_t> tokens;
  DraftSource source = DraftSource::kLookup;
  int64_t certain = 0;  ///< The first so many must come: a grammar allows nothing else.
};

}  // namespace shoal
