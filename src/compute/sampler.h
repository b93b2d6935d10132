// Logits to a token. The transformations run in one fixed order, the random number is a function of (seed,
// choice, position), and exp is our own: the same seed gives the same text on any cluster.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "compute/sampling_params.h"
#include "compute/token_history.h"
#include "cpu/arena.h"
#include "kernels/kernels.h"

namespace shoal {

/// Chooses the token at draw.position (the absolute position that it will take). Order: mask; logit_bias; repetition
/// penalty (Keskar et al. 2019, arXiv:1909.05858: divides positive logits, multiplies negative ones);
/// presence and frequency penalties (OpenAI's definition, on generated ids); temperature; top_k; top_p (the
/// fewest ids that reach it); min_p (of the largest probability). temperature = 0 takes the largest logit
/// after the penalties, ties to the lowest id. logits: [V], overwritten. Scratch of a few numbers per id
/// comes from the arena.
/// Log-probabilities, where params.top_logprobs asks for them, are log softmax of the logits as they came
/// from the head: before mask, logit_bias, penalties, temperature and cut-offs, as OpenAI's are. Ids with the
/// largest come first, ties by the lowest id.
/// OutOfRange: the logits hold a NaN or their largest is infinite. InvalidArgument: logit_bias names an id
/// outside [0, V), or no id is left to sample: the mask allows none, or the logits of all that it allows are
/// -infinity.
absl::StatusOr<SampledToken> SampleToken(const Kernels& kernels, const TokenDraw& draw, Arena& scratch,
                                         std::span<float> logits);

/// The token `asked.id` with its log-probability and those of the `asked.top` most likely ids: what SampleToken says
/// of a token that it draws. logits: [V]. OutOfRange: the logits hold a NaN or their largest is infinite.
absl::StatusOr<SampledToken> ScoreToken(const Kernels& kernels, const TokenScore& asked, Arena& scratch,
                                        std::span<const float> logits);

}  // namespace shoal
