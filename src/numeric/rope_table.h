// Cosines and sines of rotary position embeddings.
// Source: Su et al. 2021, arXiv:2104.09864; rounding as in transformers' modeling_rope_utils (f32 frequencies
// and angles), so that long positions rotate by the same angle as in the reference.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace shoal {

/// f32 1 / (factors[i] theta^(2i / rotary)) for i < rotary / 2; theta > 0, rotary even. factors: > 0, one for
/// each, or none: all 1. Scaling rules work on this list.
std::vector<float> RopeInverseFrequencies(double theta, int64_t rotary, std::span<const double> factors = {});

/// cosine[i], sine[i] = scale * cos, sin of the f32 angle position * inverse_frequencies[i]. Both of the
/// list's length. scale: 1, or the attention factor of yarn and longrope. |angle| <= kTrigArgumentMax.
void RopeRow(std::span<const float> inverse_frequencies, int64_t position, float scale, float* cosine,
             float* sine);

}  // namespace shoal
