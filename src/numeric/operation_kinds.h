// Variants of the operations that models ask for and kernels compute, and how far kernels go. Here, so that a model's
// description needs no kernel.
#pragma once

#include <cstdint>

namespace shoal {

/// Which elements of a head rotate together.
enum class RopePairing : uint8_t {
  kHalfSplit,    ///< (i, i + rotary / 2): Llama and Qwen as Hugging Face stores them.
  kInterleaved,  ///< (2i, 2i + 1).
};

inline constexpr int64_t kHeadDimMax = 576;  ///< DeepSeek's latent of 512, and 64 that are rotated.

/// Experts of a layer that `route` can choose among.
inline constexpr int64_t kExpertsMax = 1024;

/// What a logit becomes before experts are compared.
enum class RouteScores : uint8_t {
  kSoftmax,  ///< Over all experts, in f32; the sum in 16 lanes as in rms_norm.
  kSigmoid,  ///< 1 / (1 + exp(-logit))
  kLogits,   ///< The logit itself.
};

/// What the scores of the chosen become.
enum class RouteWeights : uint8_t {
  kAsIs,
  kRenormalized,  ///< Divided by 1e-20 + their sum, taken in the order of rank.
  kSoftmax,       ///< Softmax over them, the first being the largest; the sum in the order of rank.
};

/// Experts [g E / count, (g + 1) E / count) are group g; only those of the `topk_group` groups of highest
/// rank may be chosen. Source: DeepSeek-V2, arXiv:2405.04434, section 2.2.2; DeepSeek-V3, arXiv:2412.19437.
struct RouteGroups {
  int64_t count = 1;        ///< Divides E.
  int64_t topk_group = 1;   ///< 1 <= topk_group <= count; k <= topk_group E / count.
  bool by_top_two = false;  ///< A group's rank is the sum of its two largest scores, not the largest.
  bool operator==(const RouteGroups&) const = default;
};

}  // namespace shoal
