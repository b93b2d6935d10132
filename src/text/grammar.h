// Constrained decoding: which tokens may come next, so that the text matches a grammar. Uses llguidance.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"
#include "text/tokenizer.h"

struct ShoalCompiler;
struct ShoalMatcher;

namespace shoal {

enum class GrammarKind { kJsonSchema, kRegex, kLark };

/// The state of one sequence in its grammar. Used by one thread at a time.
class Grammar {
 public:
  /// The number of 32-bit words of a mask: ceil(vocab_size / 32).
  size_t mask_words() const { return mask_words_; }

  /// Sets bit i % 32 of words[i / 32] if token i may come next. If the text is complete and nothing can
  /// follow, these are the end-of-text tokens only. `words` has mask_words() elements.
  absl::Status mask(std::span<uint32_t> words);

  /// Appends the next token. Returns InvalidArgument, and changes nothing, if the token is not allowed.
  absl::Status consume(int32_t token);

  /// Takes back the latest `count` consumed tokens, as if they had never been. `count` is at most their number.
  absl::Status rewind(int64_t count);

  /// The tokens that must come next, often none: the mask behind each of them but the last, and the mask now, allow
  /// one token.
  absl::StatusOr<std::vector<int32_t>> forced_tokens();

  /// Whether the text may end here.
  absl::StatusOr<bool> is_accepting();

  /// Whether the text has ended: nothing may follow.
  bool is_stopped() const;

  /// The text that the grammar forces next, often empty.
  absl::StatusOr<std::string> forced_text();

  /// An independent copy of this state.
  absl::StatusOr<Grammar> copy() const;

 private:
  friend class GrammarCompiler;
  struct Free {
    void operator()(ShoalMatcher* handle) const;
  };
  Grammar(ShoalMatcher* handle, size_t mask_words) : handle_(handle), mask_words_(mask_words) {}

  std::unique_ptr<ShoalMatcher, Free> handle_;
  size_t mask_words_;
};

/// A vocabulary prepared for grammars. Takes a second and some ten megabytes once, for all grammars of a
/// model. Immutable; many threads may call `compile` at once.
class GrammarCompiler {
 public:
  /// vocab_size: the number of logits, at least the tokenizer's vocabulary. eos: the tokens that end a text,
  /// at least one.
  static absl::StatusOr<GrammarCompiler> Create(const Tokenizer& tokenizer, int32_t vocab_size,
                                                std::span<const int32_t> eos);

  /// Returns InvalidArgument if the grammar is wrong, too large or nested too deeply.
  absl::StatusOr<Grammar> compile(GrammarKind kind, std::string_view text) const;

 private:
  struct Free {
    void operator()(ShoalCompiler* handle) const;
  };
  GrammarCompiler(ShoalCompiler* handle, size_t mask_words) : handle_(handle), mask_words_(mask_words) {}

  std::unique_ptr<ShoalCompiler, Free> handle_;
  size_t mask_words_;
};

}  // namespace shoal
