#include "api/answer/sampling_fields.h"

#include <algorithm>
#include <limits>

#include "base/random.h"

namespace shoal {

SamplingParams ResolveSampling(const SamplingFields& fields, const SamplingDefaults& defaults) {
  const double temperature =
      fields.temperature.value_or(defaults.greedy ? 0.0 : defaults.temperature.value_or(1.0));
  SamplingParams params;
  params.temperature = temperature < 1e-5 ? 0.0f : static_cast<float>(temperature);
  // Stays above 0 as f32: the likeliest token always remains.
  params.top_p = std::max(std::numeric_limits<float>::min(),
                          static_cast<float>(fields.top_p.value_or(defaults.top_p.value_or(1.0))));
  params.min_p = static_cast<float>(fields.min_p.value_or(defaults.min_p.value_or(0.0)));
  params.top_k =
      static_cast<int32_t>(std::max<int64_t>(0, fields.top_k.value_or(defaults.top_k.value_or(0))));
  params.repetition_penalty =
      static_cast<float>(fields.repetition_penalty.value_or(defaults.repetition_penalty.value_or(1.0)));
  params.presence_penalty = static_cast<float>(fields.presence_penalty.value_or(0.0));
  params.frequency_penalty = static_cast<float>(fields.frequency_penalty.value_or(0.0));
  params.seed = fields.seed.has_value() ? *fields.seed : EntropySeed();
  params.logit_bias = fields.logit_bias;
  params.top_logprobs = fields.top_logprobs;
  return params;
}

}  // namespace shoal
