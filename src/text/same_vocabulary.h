// Whether two models mean the same by a token id.
#pragma once

#include "base/status.h"
#include "text/tokenizer.h"

namespace shoal {

/// OK where every id has the same token in both, special in both or in neither. InvalidArgument names the first that
/// differs. How many logits the models have does not matter: checkpoints pad theirs.
absl::Status CheckSameVocabulary(const Tokenizer& model, const Tokenizer& draft);

}  // namespace shoal
