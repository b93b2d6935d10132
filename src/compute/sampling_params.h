// How a sequence is sampled: what a request asks for, as the last stage gets it, and what sampling gives.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace shoal {

class TokenHistory;

/// SamplingParams::top_logprobs where no log-probabilities are asked for.
inline constexpr int32_t kNoLogprobs = -1;

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
  /// How many of the most likely ids come back with each token, besides its own log-probability.
  int32_t top_logprobs = kNoLogprobs;
  bool operator==(const SamplingParams&) const = default;
};

/// What one token is drawn from, besides its logits. Points to what its maker owns.
struct TokenDraw {
  const SamplingParams& params;
  const TokenHistory& history;
  int64_t position = 0;            ///< That the token will take.
  std::span<const uint32_t> mask;  ///< Bit i % 32 of mask[i / 32]: id i may be drawn. Empty: every id may.
};

/// A token that is there already, whose log-probability is asked for.
struct TokenScore {
  int32_t id = 0;        ///< In [0, V).
  int64_t position = 0;  ///< Where it stands.
  int32_t top = 0;       ///< How many of the most likely ids come with it.
};

/// An id with its log-probability.
struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0;
  bool operator==(const TokenLogprob&) const = default;
};

/// What sampling gave one position. Log-probabilities are 0 and `top` is empty where they were not asked for.
struct SampledToken {
  int32_t id = 0;
  float logprob = 0;
  std::vector<TokenLogprob> top;  ///< The most likely ids, by descending log-probability.
  bool operator==(const SampledToken&) const = default;
};

}  // namespace shoal
