// What the text of a sequence must match, as the scheduler sees it: which tokens may come next.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shoal {

/// The state of a text in its grammar. One thread at a time calls it, but any number may clone() it.
class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;

  /// Replaces `words` by those of the next token's mask (TokenMask). Where the text can't go on, its
  /// end-of-text ids are what is left. An error ends the sequence.
  virtual absl::Status mask(std::vector<uint32_t>& words) = 0;

  /// The text goes on with `token`, which the mask allowed.
  virtual absl::Status consume(int32_t token) = 0;

  /// Takes back the latest `count` consumed tokens, as if they had never been.
  virtual absl::Status rewind(int64_t count) = 0;

  /// Tokens that must come next, those that are known; often none.
  virtual absl::StatusOr<std::vector<int32_t>> forced() = 0;

  /// An independent state at the same place.
  virtual absl::StatusOr<std::unique_ptr<TokenConstraint>> clone() const = 0;
};

}  // namespace shoal
