#include "compute/sampler.h"

#include <algorithm>

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

absl::Status ApplyPenalties(const SamplingParams& params, const TokenHistory& history,
                            std::span<float> logits) {
  const auto vocabulary = static_cast<int64_t>(logits.size());
  for (const auto& [id, bias] : params.logit_bias) {
    if (id < 0 || id >= vocabulary)
      return InvalidArgument("logit_bias: id {} is outside the vocabulary of {}", id, vocabulary);
    logits[id] += bias;
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

}  // namespace

TokenHistory::TokenHistory(std::span<const int32_t> tokens, int64_t prompt_tokens) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (static_cast<int64_t>(i) < prompt_tokens) {
      counts_[tokens[i]].seen = true;
    } else {
      append(tokens[i]);
    }
  }
}

void TokenHistory::append(int32_t token) {
  Counts& counts = counts_[token];
  counts.seen = true;
  ++counts.generated;
}

absl::StatusOr<int32_t> SampleToken(const Kernels& kernels, const SamplingParams& params,
                                    const TokenHistory& history, int64_t position, Arena& scratch,
                                    std::span<float> logits) {
  RETURN_IF_ERROR(ApplyPenalties(params, history, logits));
  const int64_t best = kernels.argmax({logits.data(), static_cast<int64_t>(logits.size())});
  if (best < 0) return OutOfRange("sampling at position {}: the logits hold a NaN", position);
  if (params.temperature <= 0.0f) return static_cast<int32_t>(best);

  const double peak = logits[best];
  const ArenaScope scope(scratch);
  const std::span<Candidate> candidates = scratch.allocate<Candidate>(std::ssize(logits));
  double total = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double mass = Exp((logits[i] - peak) / params.temperature);
    candidates[i] = {logits[i], static_cast<int32_t>(i), mass};
    total += mass;
  }
  size_t kept = candidates.size();
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

}  // namespace shoal
