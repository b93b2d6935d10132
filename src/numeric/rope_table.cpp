#include "numeric/rope_table.h"

#include "base/check.h"
#include "numeric/transcendental.h"

namespace shoal {

std::vector<float> RopeInverseFrequencies(double theta, int64_t rotary, std::span<const double> factors) {
  SHOAL_CHECK(theta > 0 && rotary >= 0 && rotary % 2 == 0);
  SHOAL_CHECK(factors.empty() || static_cast<int64_t>(factors.size()) == rotary / 2);
  std::vector<float> frequencies;
  frequencies.reserve(static_cast<size_t>(rotary / 2));
  for (int64_t i = 0; i < rotary; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(rotary);
    const float factor = factors.empty() ? 1.0f : static_cast<float>(factors[frequencies.size()]);
    frequencies.push_back(1.0f / (factor * static_cast<float>(Pow(theta, exponent))));
  }
  return frequencies;
}

void RopeRow(std::span<const float> inverse_frequencies, int64_t position, float scale, float* cosine,
             float* sine) {
  for (size_t i = 0; i < inverse_frequencies.size(); ++i) {
    const float angle = static_cast<float>(position) * inverse_frequencies[i];
    cosine[i] = static_cast<float>(Cos(angle)) * scale;
    sine[i] = static_cast<float>(Sin(angle)) * scale;
  }
}

}  // namespace shoal
