// Compiled grammars of the served model: made once, kept for the next request, and given to the scheduler as what
// texts must match.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "api/api_error.h"
#include "api/structure/structure.h"
#include "sched/token_constraint.h"
#include "text/grammar.h"
#include "text/tokenizer.h"

namespace shoal {

struct GrammarServiceOptions {
  int32_t vocabulary = 0;        ///< Number of logits.
  std::vector<int32_t> eos_ids;  ///< What ends a text, at least one.
  size_t kept_max = 64;          ///< Compiled grammars that are kept, the least recently used dropped first.
};

/// Any thread may call it.
class GrammarService {
 public:
  /// `tokenizer` must outlive it. The vocabulary is prepared with the first grammar, which takes a second.
  GrammarService(const Tokenizer& tokenizer, GrammarServiceOptions options);

  /// Compiles `structure`, or finds it compiled. Takes up to some seconds, in the caller's thread: the compiler's
  /// limits on size and work bound it. A 400 says what is wrong.
  ApiResult<std::shared_ptr<const TokenConstraint>> constraint(const Structure& structure);

  /// Grammars compiled so far; those found again do not count.
  int64_t compiled() const;

 private:
  struct Entry {
    std::string key;
    std::shared_ptr<const TokenConstraint> constraint;
  };

  absl::StatusOr<std::shared_ptr<const GrammarCompiler>> compiler();
  std::shared_ptr<const TokenConstraint> find(const std::string& key);
  void keep(std::string key, std::shared_ptr<const TokenConstraint> constraint);

  const Tokenizer& tokenizer_;
  const GrammarServiceOptions options_;
  std::mutex compiler_mutex_;
  std::shared_ptr<const GrammarCompiler> compiler_;  ///< Null before the first grammar.
  mutable std::mutex mutex_;                         ///< Guards all below.
  std::list<Entry> kept_;                            ///< The most recently used first.
  std::unordered_map<std::string, std::list<Entry>::iterator> by_key_;
  int64_t compiled_ = 0;
};

}  // namespace shoal
