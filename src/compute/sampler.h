// Logits to a token. The transformations run in one fixed order, the random number is a function of (seed,
// choice, position), and exp is our own: the same seed gives the same text on any cluster.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "compute/sampling_params.h"
#include "cpu/arena.h"
#include "kernels/kernels.h"

namespace shoal {

/// Which ids a sequence has seen: what penalties need.
class TokenHistory {
 public:
  TokenHistory() = default;
  TokenHistory(std::span<const int32_t> tokens, int64_t prompt_tokens);

  /// Appends a generated id.
  void append(int32_t token);

  struct Counts {
    bool seen = false;      ///< In prompt or generated text.
    int32_t generated = 0;  ///< Times in the generated text.
  };
  const std::unordered_map<int32_t, Counts>& counts() const { return counts_; }

 private:
  std::unordered_map<int32_t, Counts> counts_;
};

/// Chooses the token at `position` (the absolute position that it will take). Order: logit_bias; repetition
/// penalty (Keskar et al. 2019, arXiv:1909.05858: divides positive logits, multiplies negative ones);
/// presence and frequency penalties (OpenAI's definition, on generated ids); temperature; top_k; top_p (the
/// fewest ids that reach it); min_p (of the largest probability). temperature = 0 takes the largest logit
/// after the penalties, ties to the lowest id. logits: [V], overwritten. Scratch of a few numbers per id
/// comes from the arena. OutOfRange if they hold a NaN. InvalidArgument if logit_bias names an id outside [0,
/// V).
absl::StatusOr<int32_t> SampleToken(const Kernels& kernels, const SamplingParams& params,
                                    const TokenHistory& history, int64_t position, Arena& scratch,
                                    std::span<float> logits);

}  // namespace shoal
