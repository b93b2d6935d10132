// How a request wants its tokens sampled, in any API, and what the model itself would have.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "exec/step.h"

namespace shoal {

/// Sampling fields as they came; what is absent is the model's default.
struct SamplingFields {
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<int64_t> top_k;
  std::optional<double> repetition_penalty;
  std::optional<double> presence_penalty;
  std::optional<double> frequency_penalty;
  std::optional<uint64_t> seed;
  std::vector<std::pair<int32_t, float>> logit_bias;
  /// How many of the most likely tokens come with each token's own log-probability; kNoLogprobs: none of all that.
  int32_t top_logprobs = kNoLogprobs;
};

/// The model's own defaults (generation_config.json); nullopt where it has none.
struct SamplingDefaults {
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<int64_t> top_k;
  std::optional<double> repetition_penalty;
  bool greedy = false;  ///< do_sample is false: temperature 0 unless the request sets one.
};

/// Request over model over OpenAI's defaults (temperature 1, all else off). Without a seed a random one is
/// drawn. A temperature below 1e-5 is greedy: its softmax could not be told from the argmax.
SamplingParams ResolveSampling(const SamplingFields& fields, const SamplingDefaults& defaults);

}  // namespace shoal
