// Variants of the operations that models ask for and kernels compute, and the kernels' limits. They are
// declared here so that a model spec does not depend on kernels.
#pragma once

#include <cstdint>

namespace shoal {

/// Which elements of a head rotate together.
enum class RopePairing : uint8_t {
  kHalfSplit,    ///< (i, i + rotary / 2): Llama and Qwen as Hugging Face stores them.
  kInterleaved,  ///< (2i, 2i + 1).
};

/// What a state takes in of a value (kernels.h, DeltaRuleArgs).
enum class StateRule : uint8_t {
  kDelta,  ///< Its difference from what the state has for the key.
  kAdd,    ///< The value itself.
};

/// What a convolution along the sequence applies to its sums.
enum class ConvActivation : uint8_t { kSilu, kNone };

/// The widest attention head: DeepSeek's latent of 512 and 64 rotary dimensions.
inline constexpr int64_t kHeadDimMax = 576;

/// The most experts of a layer that `route` can choose among.
inline constexpr int64_t kExpertsMax = 1024;

/// What a feed-forward without a gate does with each of its hidden values.
enum class Activation : uint8_t {
  kGelu,   ///< The Gaussian error linear unit by its tanh form.
  kRelu2,  ///< max(x, 0)^2
  kXielu,  ///< XieluShape.
};

/// xIELU: positive * x^2 + slope * x above 0, else (expm1(min(x, top)) - x) * negative + slope * x.
/// Source: Huang, Schlag 2024, arXiv:2411.13010; transformers `XIELUActivation`.
struct XieluShape {
  float positive = 0;
  float negative = 0;
  float slope = 0;
  float top = 0;  ///< Just below 0.
};

/// How a router turns logits into the scores that it compares.
enum class RouteScores : uint8_t {
  kSoftmax,  ///< Over all experts, in f32; summed in 16 lanes as in rms_norm.
  kSigmoid,  ///< 1 / (1 + exp(-logit))
  kLogits,   ///< The logit itself.
};

/// How a router turns the scores of the chosen experts into weights. Sums run in descending order of score.
enum class RouteWeights : uint8_t {
  kAsIs,
  kRenormalized,  ///< score / (RouteArgs::sum_eps + sum of scores).
  kSoftmax,       ///< Softmax over the chosen; the first score is the maximum that is subtracted.
  /// Of kLogits, as SparseMixer weighs at inference: for each of the chosen, its softmax over the experts that were not
  /// chosen before it and are no further below it than RouteArgs::near_distance. Source: Liu et al. 2023,
  /// arXiv:2310.00811; transformers `sparsemixer`.
  kSoftmaxOfNear,
  kSigmoid,  ///< 1 / (1 + exp(-score)), of logits that are compared as they are.
};

/// Restricts the choice of experts to the `topk_group` groups of highest rank. Group g holds the experts
/// [g E / count, (g + 1) E / count).
/// Source: DeepSeek-V2, arXiv:2405.04434, section 2.2.2; DeepSeek-V3, arXiv:2412.19437.
struct RouteGroups {
  int64_t count = 1;        ///< Divides E.
  int64_t topk_group = 1;   ///< 1 <= topk_group <= count; k <= topk_group E / count.
  bool by_top_two = false;  ///< A group's rank is the sum of its two largest scores, not the largest.
  bool operator==(const RouteGroups&) const = default;
};

}  // namespace shoal
