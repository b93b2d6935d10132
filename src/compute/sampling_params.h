// How a sequence is sampled: what a request asks for, as the last stage gets it.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace shoal {

/// How the next token is chosen from logits. Defaults are no-ops: greedy needs temperature = 0.
struct SamplingParams {
  float temperature = 1.0f;         ///< 0 = greedy.
  int32_t top_k = 0;                ///< 0 = off.
  float top_p = 1.0f;               ///< 1 = off.
  float min_p = 0.0f;               ///< 0 = off.
  float repetition_penalty = 1.0f;  ///< On prompt and generated tokens; 1 = off.
  float presence_penalty = 0.0f;    ///< On generated tokens.
  float frequency_penalty = 0.0f;   ///< On generated tokens.
  uint64_t seed = 0;
  uint32_t choice = 0;  ///< Index of the choice (OpenAI's n), part of the random key.
  std::vector<std::pair<int32_t, float>> logit_bias;
  bool operator==(const SamplingParams&) const = default;
};

}  // namespace shoal
