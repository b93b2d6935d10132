#include "text/same_vocabulary.h"

#include <algorithm>
#include <string>

namespace shoal {
namespace {

/// How an error names it.
std::string Described(const Tokenizer& tokenizer, int32_t id) {
  const auto name = tokenizer.token_name(id);
  if (!name.ok()) return "no token";
  return fmt::format("{}'{}'", tokenizer.is_special(id) ? "the special token " : "", *name);
}

bool Same(const Tokenizer& a, const Tokenizer& b, int32_t id) {
  const auto one = a.token_name(id);
  const auto other = b.token_name(id);
  if (one.ok() != other.ok()) return false;
  return !one.ok() || (*one == *other && a.is_special(id) == b.is_special(id));
}

}  // namespace

absl::Status CheckSameVocabulary(const Tokenizer& model, const Tokenizer& draft) {
  const int32_t ids = std::max(model.vocab_size(), draft.vocab_size());
  for (int32_t id = 0; id < ids; ++id) {
    if (Same(model, draft, id)) continue;
    return InvalidArgument(
        "the tokenizers differ: id {} is {} in the draft model and {} in the model; a draft model needs the "
        "model's own tokenizer, as smaller models of one family mostly have",
        id, Described(draft, id), Described(model, id));
  }
  return absl::OkStatus();
}

}  // namespace shoal
