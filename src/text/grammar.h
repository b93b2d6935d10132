// Constrained decoding: which tokens may come next so that the text keeps to a grammar (llguidance).
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

/// Where one sequence stands in its grammar. Used by one thread at a time.
class Grammar {
 public:
  /// Number of 32-bit words of a mask: ceil(vocab_size / 32).
  size_t mask_words() const { return mask_words_; }

  /// Bit i % 32 of words[i / 32] says whether token i may come next. Where the text is complete and nothing
  /// can follow, only the end-of-text tokens may. `words` has mask_words() elements.
  absl::Status mask(std::span<uint32_t> words);

  /// Takes the next token. InvalidArgument, and no change, where it may not come.
  absl::Status consume(int32_t token);

  /// Whether the text may end here.
  absl::StatusOr<bool> is_accepting();

  /// Whether the text has ended: nothing may follow.
  bool is_stopped() const;

  /// The text that must come next whatever the model says, often empty.
  absl::StatusOr<std::string> forced_text();

  /// A second one at the same place, independent of this one.
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

/// The vocabulary made ready for grammars: costs a second and some ten megabytes once, for all grammars of a
/// model. Immutable; `compile` may be called by many threads at once.
class GrammarCompiler {
 public:
  /// `vocab_size`: number of logits, at least the tokenizer's; `eos`: the tokens that end a text, at least
  /// one.
  static absl::StatusOr<GrammarCompiler> Create(const Tokenizer& tokenizer, int32_t vocab_size,
                                                std::span<const int32_t> eos);

  /// InvalidArgument says what is wrong with the grammar, or that it is too large or nested too deeply.
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
