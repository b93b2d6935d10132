#include "text/grammar.h"

#include <vector>

#include "text/bridge.h"

namespace shoal {
namespace {

ShoalGrammarKind BridgeKind(GrammarKind kind) {
  switch (kind) {
    case GrammarKind::kJsonSchema:
      return kShoalJsonSchema;
    case GrammarKind::kRegex:
      return kShoalRegex;
    case GrammarKind::kLark:
      return kShoalLark;
  }
  return kShoalJsonSchema;
}

}  // namespace

void Grammar::Free::operator()(ShoalMatcher* handle) const { shoal_matcher_free(handle); }

absl::Status Grammar::mask(std::span<uint32_t> words) {
  ShoalBytes error{};
  return bridge::Result(shoal_matcher_mask(handle_.get(), words.data(), words.size(), &error), error);
}

absl::Status Grammar::consume(int32_t token) {
  ShoalBytes error{};
  return bridge::Result(shoal_matcher_consume(handle_.get(), static_cast<uint32_t>(token), &error), error);
}

absl::Status Grammar::rewind(int64_t count) {
  ShoalBytes error{};
  return bridge::Result(shoal_matcher_rewind(handle_.get(), static_cast<size_t>(count), &error), error);
}

absl::StatusOr<std::vector<int32_t>> Grammar::forced_tokens() {
  ShoalIds tokens{};
  ShoalBytes error{};
  RETURN_IF_ERROR(bridge::Result(shoal_matcher_forced_tokens(handle_.get(), &tokens, &error), error));
  return bridge::Take(tokens);
}

absl::StatusOr<bool> Grammar::is_accepting() {
  bool accepting = false;
  ShoalBytes error{};
  RETURN_IF_ERROR(bridge::Result(shoal_matcher_is_accepting(handle_.get(), &accepting, &error), error));
  return accepting;
}

bool Grammar::is_stopped() const { return shoal_matcher_is_stopped(handle_.get()); }

absl::StatusOr<std::string> Grammar::forced_text() {
  ShoalBytes text{};
  ShoalBytes error{};
  RETURN_IF_ERROR(bridge::Result(shoal_matcher_forced_text(handle_.get(), &text, &error), error));
  return bridge::Take(text);
}

absl::StatusOr<Grammar> Grammar::copy() const {
  ShoalMatcher* handle = nullptr;
  ShoalBytes error{};
  RETURN_IF_ERROR(bridge::Result(shoal_matcher_copy(handle_.get(), &handle, &error), error));
  return Grammar(handle, mask_words_);
}

void GrammarCompiler::Free::operator()(ShoalCompiler* handle) const { shoal_compiler_free(handle); }

absl::StatusOr<GrammarCompiler> GrammarCompiler::Create(const Tokenizer& tokenizer, int32_t vocab_size,
                                                        std::span<const int32_t> eos) {
  if (vocab_size < 0) return InvalidArgument("grammar: expected a number of logits, found {}", vocab_size);
  const std::vector<uint32_t> eos_ids(eos.begin(), eos.end());
  ShoalCompiler* handle = nullptr;
  ShoalBytes error{};
  const int32_t code = shoal_compiler_new(tokenizer.handle(), static_cast<size_t>(vocab_size), eos_ids.data(),
                                          eos_ids.size(), &handle, &error);
  RETURN_IF_ERROR(bridge::Result(code, error));
  return GrammarCompiler(handle, (static_cast<size_t>(vocab_size) + 31) / 32);
}

absl::StatusOr<Grammar> GrammarCompiler::compile(GrammarKind kind, std::string_view text) const {
  ShoalMatcher* handle = nullptr;
  ShoalBytes error{};
  const int32_t code =
      shoal_compiler_compile(handle_.get(), BridgeKind(kind), bridge::Slice(text), &handle, &error);
  RETURN_IF_ERROR(bridge::Result(code, error));
  return Grammar(handle, mask_words_);
}

}  // namespace shoal
