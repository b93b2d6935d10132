// Prompts that ask a model for what stands between two texts, for models that were trained for it: editors complete
// code so. Source: Bavarian et al. 2022, arXiv:2207.14255.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "text/tokenizer.h"

namespace shoal {

struct FillInMiddle {
  std::vector<int32_t> tokens;   ///< The prompt.
  std::vector<int32_t> end_ids;  ///< What such models write behind the middle, besides the end of text.
};

/// A file, or a part of one, that is to be known beside the text.
struct ContextFile {
  std::string name;
  std::string text;
};

/// What the middle is asked for of.
struct AroundMiddle {
  std::string_view prefix;
  std::string_view suffix;
  std::string_view begun = {};  ///< The middle begins so.
  std::vector<ContextFile> files = {};
};

/// The prompt in the control tokens that the tokenizer has; `files` come in those for files of a repository, where it
/// has them, else as text. Texts are never control tokens themselves. Returns FailedPrecondition if the tokenizer has
/// no such tokens, InvalidArgument for text that is not UTF-8.
absl::StatusOr<FillInMiddle> EncodeFillInMiddle(const Tokenizer& tokenizer, const AroundMiddle& around);

}  // namespace shoal
