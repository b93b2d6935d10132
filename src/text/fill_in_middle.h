// Prompts that ask a model for what stands between two texts, for models that were trained for it: editors complete
// code so. Source: Bavarian et al. 2022, arXiv:2207.14255.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "text/tokenizer.h"

namespace shoal {

struct FillInMiddle {
  std::vector<int32_t> tokens;   ///< The prompt.
  std::vector<int32_t> end_ids;  ///< What such models write behind the middle, besides the end of text.
};

/// The prompt in the control tokens that the tokenizer has. The two texts are never control tokens themselves.
/// Returns FailedPrecondition if the tokenizer has no such tokens, InvalidArgument for text that is not UTF-8.
absl::StatusOr<FillInMiddle> EncodeFillInMiddle(const Tokenizer& tokenizer, std::string_view prefix,
                                                std::string_view suffix);

}  // namespace shoal
