#include "sched/prompt_results.h"

#include <algorithm>

namespace shoal {

PromptDue AskOfPrompt(const Sequence& sequence, SeqSlice& slice) {
  const GenerationRequest& request = sequence.request;
  const auto prompt = std::ssize(request.prompt);
  const int64_t begin = slice.position;
  const int64_t end = begin + std::ssize(slice.tokens);
  PromptDue due;
  if (request.score_prompt && sequence.scored + 1 < prompt) {
    // Row r tells of the token behind it.
    for (int64_t next = begin + 1; next < std::min<int64_t>(end + 1, prompt); ++next) {
      slice.scored.push_back(request.prompt[static_cast<size_t>(next)]);
    }
    due.scores = std::ssize(slice.scored);
  }
  if (request.pool == Pool::kNone) return due;
  due.embedding = end == prompt;
  if (request.pool == Pool::kMean) slice.pool = due.embedding ? Pool::kMean : Pool::kSum;
  if (request.pool == Pool::kLast && due.embedding) slice.pool = Pool::kLast;
  return due;
}

// A sequence that was preempted computes some rows again: their scores are the same.
std::span<const SampledToken> NewScores(Sequence& sequence, int64_t position,
                                        std::span<const SampledToken> scores) {
  const int64_t known = std::clamp<int64_t>(sequence.scored - position, 0, std::ssize(scores));
  sequence.scored = std::max(sequence.scored, position + std::ssize(scores));
  return scores.subspan(static_cast<size_t>(known));
}

}  // namespace shoal
