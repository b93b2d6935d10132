// Cosines and sines of rotary position embeddings. Frequencies and angles are rounded to f32 as in
// transformers' modeling_rope_utils, so that long positions rotate by the same angle as in the reference.
// Source: Su et al. 2021, arXiv:2104.09864.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace shoal {

/// f32 1 / (factors[i] theta^(2i / rotary)) for i < rotary / 2. Scaling rules modify this list.
/// theta > 0; rotary even; factors: rotary / 2 values > 0, or none for all 1.
std::vector<float> RopeInverseFrequencies(double theta, int64_t rotary, std::span<const double> factors = {});

/// cosine[i] = scale * cos(a) and sine[i] = scale * sin(a), with the f32 angle a = position * frequency i.
/// cosine, sine: as long as inverse_frequencies. scale: 1, or the attention factor of yarn and longrope.
/// Requires |a| <= kTrigArgumentMax.
void RopeRow(std::span<const float> inverse_frequencies, int64_t position, float scale, float* cosine,
             float* sine);

}  // namespace shoal
