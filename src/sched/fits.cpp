#include "sched/fits.h"

#include <algorithm>
#include <span>

#include "base/status.h"
#include "kv/block_pool.h"

namespace shoal {
namespace {

absl::Status CheckTokens(std::span<const int32_t> prompt, int64_t vocabulary) {
  const auto beyond = std::ranges::find_if(prompt, [&](int32_t id) { return id < 0 || id >= vocabulary; });
  if (beyond == prompt.end()) return absl::OkStatus();
  return InvalidArgument(
      "token {} of the prompt has the id {}, but the model's vocabulary has {} ids; leave that token out of "
      "the text, or serve the model with its own tokenizer",
      beyond - prompt.begin(), *beyond, vocabulary);
}

}  // namespace

absl::Status CheckLimits(const EngineLimits& limits) {
  if (limits.steps_in_flight >= 1 && limits.blocks >= 0 && limits.state_slots >= 0 &&
      limits.state_slots_each() <= limits.state_slots) {
    return absl::OkStatus();
  }
  return Internal(
      "engine: expected at least one step in flight, and state slots for one sequence ({}) or none, "
      "got {} steps, {} blocks, {} slots",
      limits.state_slots_each(), limits.steps_in_flight, limits.blocks, limits.state_slots);
}

int64_t PositionsMax(const EngineLimits& limits) {
  // The last generated token is never fed, so it needs no position in the cache.
  return std::min(limits.context, static_cast<int64_t>(limits.blocks) * kBlockPositions + 1);
}

absl::Status CheckFits(const GenerationRequest& request, const EngineLimits& limits) {
  RETURN_IF_ERROR(CheckTokens(request.prompt, limits.vocabulary));
  for (const auto& [id, bias] : request.sampling.logit_bias) {
    if (id >= 0 && id < limits.vocabulary) continue;
    return InvalidArgument("logit_bias names the id {}, but the model's vocabulary has {} ids", id,
                           limits.vocabulary);
  }
  const int64_t prompt = std::ssize(request.prompt);
  if (request.max_tokens > limits.context - prompt) {
    return InvalidArgument(
        "the prompt has {} tokens and max_tokens is {}, but the model's context is {} tokens; shorten the "
        "prompt or lower max_tokens",
        prompt, request.max_tokens, limits.context);
  }
  const int64_t blocks = BlocksFor(prompt + std::max<int64_t>(request.max_tokens - 1, 0));
  if (blocks > limits.blocks) {
    return InvalidArgument(
        "the prompt has {} tokens and max_tokens is {}: that needs {} blocks of {} positions, but the whole "
        "KV cache has {}; shorten the prompt, lower max_tokens, or serve with a larger cache",
        prompt, request.max_tokens, blocks, kBlockPositions, limits.blocks);
  }
  return absl::OkStatus();
}

}  // namespace shoal
