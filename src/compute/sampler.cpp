#include "compute/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/random.h"
#include "base/status.h"
#include "numeric/transcendental.h"

namespace shoal {
namespace {

/// An id that may be drawn, with its unnormalised probability.
struct Candidate {
  float logit;
  int32_t id;
  double mass;
};

/// The largest logit first, ties to the lowest id.
bool Above(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/// Ids that the mask forbids get -infinity, which no later transformation lifts.
void ApplyMask(std::span<const uint32_t> mask, std::span<float> logits) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  const size_t vocabulary = logits.size();
  for (size_t begin = 0; begin < vocabulary; begin += 32) {
    const uint32_t word = begin / 32 < mask.size() ? mask[begin / 32] : 0;
    if (word == ~uint32_t{0}) continue;
    const size_t end = std::min(begin + 32, vocabulary);
    for (size_t id = begin; id < end; ++id) {
      if ((word >> (id - begin) & 1) == 0) logits[id] = kNever;
    }
  }
}

bool AllowsAny(std::span<const uint32_t> mask, size_t vocabulary) {
  for (size_t i = 0; i < mask.size() && 32 * i < vocabulary; ++i) {
    const size_t left = vocabulary - 32 * i;
    const uint32_t known = left >= 32 ? ~uint32_t{0} : (uint32_t{1} << left) - 1;
    if ((mask[i] & known) != 0) return true;
  }
  return false;
}

absl::Status ApplyPenalties(const SamplingParams& params, const TokenHistory& history,
                            std::span<float> logits) {
  const auto vocabulary = static_cast<int64_t>(logits.size());
  for (const auto& [id, bias] : params.logit_bias) {
    if (id < 0 || id >= vocabulary) {
      return InvalidArgument("logit_bias: id {} is outside the vocabulary of {}; leave it out", id,
                             vocabulary);
    }
    logits[static_cast<size_t>(id)] += bias;
  }
  const bool penalised = params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
                         params.frequency_penalty != 0.0f;
  if (!penalised) return absl::OkStatus();
  for (const auto& [id, counts] : history.counts()) {
    if (id < 0 || id >= vocabulary) continue;
    float& logit = logits[id];
    logit = logit > 0.0f ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    if (counts.generated > 0) {
      logit -= params.presence_penalty;
      logit -= params.frequency_penalty * static_cast<float>(counts.generated);
    }
  }
  return absl::OkStatus();
}

/// Brings the ids that top_k, top_p and min_p leave to the front, by descending logit, and returns how many
/// they are. `total` is the mass of all candidates. Only as much is sorted as is needed: vocabularies are
/// large, choices few.
size_t Filter(const SamplingParams& params, double total, std::span<Candidate> candidates) {
  const size_t most =
      params.top_k > 0 ? std::min<size_t>(params.top_k, candidates.size()) : candidates.size();
  size_t window = params.top_k > 0 ? most : std::min<size_t>(most, 64);
  while (true) {
    std::partial_sort(candidates.begin(), candidates.begin() + window, candidates.end(), Above);
    if (window == most && most < candidates.size()) {  // top_p is a share of what top_k leaves.
      total = 0;
      for (size_t i = 0; i < most; ++i) total += candidates[i].mass;
    }
    const double floor = params.min_p * candidates.front().mass;
    double reached = 0;
    for (size_t kept = 0; kept < window; ++kept) {
      const Candidate& next = candidates[kept];
      if (kept > 0 && (reached >= params.top_p * total || next.mass < floor)) return kept;
      reached += next.mass;
    }
    if (window == most) return most;
    window = std::min(most, window * 8);
  }
}

/// The largest of the logits, which may be drawn from.
absl::StatusOr<int32_t> Best(const Kernels& kernels, int64_t position, std::span<const float> logits) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const int64_t best = kernels.argmax({logits.data(), std::ssize(logits)});
  if (best < 0 || logits[static_cast<size_t>(best)] == kInfinity) {
    return OutOfRange("sampling at position {}: a logit is not finite (NaN or infinity)", position);
  }
  if (logits[static_cast<size_t>(best)] == -kInfinity) {
    return InvalidArgument(
        "sampling at position {}: no token is left, the logits of all that may come are -infinity; weaken "
        "logit_bias, or the grammar",
        position);
  }
  return static_cast<int32_t>(best);
}

/// Draws an id from the logits after all penalties, of which `best` is the largest.
int32_t Draw(const SamplingParams& params, int64_t position, int32_t best, Arena& scratch,
             std::span<const float> logits) {
  const double peak = logits[static_cast<size_t>(best)];
  const ArenaScope scope(scratch);
  std::span<Candidate> candidates = scratch.allocate<Candidate>(std::ssize(logits));
  double total = 0;
  size_t kept = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] == -std::numeric_limits<float>::infinity()) continue;  // Its mass is 0 exactly.
    const double mass = Exp((logits[i] - peak) / params.temperature);
    candidates[kept++] = {logits[i], static_cast<int32_t>(i), mass};
    total += mass;
  }
  candidates = candidates.first(kept);
  if (params.top_k > 0 || params.top_p < 1.0f || params.min_p > 0.0f) {
    kept = Filter(params, total, candidates);
    total = 0;
    for (size_t i = 0; i < kept; ++i) total += candidates[i].mass;
  }
  const double target = RandomUniform(params.seed, params.choice, static_cast<uint64_t>(position)) * total;
  double reached = 0;
  for (size_t i = 0; i < kept; ++i) {
    reached += candidates[i].mass;
    if (reached > target) return candidates[i].id;
  }
  // Rounding left the target beyond the last sum: the last id that has any mass.
  while (kept > 1 && candidates[kept - 1].mass == 0.0) --kept;
  return candidates[kept - 1].id;
}

/// Fills in the log-probabilities of out.id and of the `count` most likely ids. logits: as they came from the
/// head, without NaN. One chain of sums over ascending ids, so that the bits are the same everywhere.
void AddLogprobs(std::span<const float> logits, int32_t count, Arena& scratch, SampledToken& out) {
  const double peak = *std::ranges::max_element(logits);
  double total = 0;
  for (const float logit : logits) total += Exp(logit - peak);
  const double log_total = Log(total);
  const auto logprob = [&](int32_t id) {
    return static_cast<float>(logits[static_cast<size_t>(id)] - peak - log_total);
  };
  out.logprob = logprob(out.id);
  const auto top = std::min<size_t>(static_cast<size_t>(count), logits.size());
  const ArenaScope scope(scratch);
  const std::span<int32_t> ids = scratch.allocate<int32_t>(std::ssize(logits));
  std::iota(ids.begin(), ids.end(), 0);
  std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(top), ids.end(),
                    [&](int32_t a, int32_t b) {
                      const float of_a = logits[static_cast<size_t>(a)];
                      const float of_b = logits[static_cast<size_t>(b)];
                      return of_a > of_b || (of_a == of_b && a < b);
                    });
  out.top.reserve(top);
  for (const int32_t id : ids.first(top)) out.top.push_back({id, logprob(id)});
}

}  // namespace

absl::StatusOr<SampledToken> SampleToken(const Kernels& kernels, const TokenDraw& draw, Arena& scratch,
                                         std::span<float> logits) {
  const SamplingParams& params = draw.params;
  const ArenaScope scope(scratch);
  std::span<float> raw;
  if (params.top_logprobs >= 0) {
    raw = scratch.allocate<float>(std::ssize(logits));
    std::ranges::copy(logits, raw.begin());
  }
  if (!draw.mask.empty()) {
    if (!AllowsAny(draw.mask, logits.size())) {
      return InvalidArgument("sampling at position {}: the grammar allows no token here", draw.position);
    }
    ApplyMask(draw.mask, logits);
  }
  RETURN_IF_ERROR(ApplyPenalties(params, draw.history, logits));
  ASSIGN_OR_RETURN(const int32_t best, Best(kernels, draw.position, logits));
  SampledToken out;
  out.id = params.temperature <= 0.0f ? best : Draw(params, draw.position, best, scratch, logits);
  if (!raw.empty()) AddLogprobs(raw, params.top_logprobs, scratch, out);
  return out;
}

absl::StatusOr<SampledToken> ScoreToken(const Kernels& kernels, const TokenScore& asked, Arena& scratch,
                                        std::span<const float> logits) {
  const int64_t best = kernels.argmax({logits.data(), std::ssize(logits)});
  if (best < 0 || std::abs(logits[static_cast<size_t>(best)]) == std::numeric_limits<float>::infinity()) {
    return OutOfRange("scoring the token at position {}: a logit is not finite (NaN or infinity)",
                      asked.position);
  }
  SampledToken out{.id = asked.id};
  AddLogprobs(logits, asked.top, scratch, out);
  return out;
}

}  // namespace shoal
