// What a request asks of the rows of its prompt, beyond its tokens: scores, and an embedding.
#pragma once

#include <cstdint>

#include "exec/step.h"
#include "sched/sequence.h"

namespace shoal {

/// What is due of one slice of a prompt.
struct PromptDue {
  int64_t scores = 0;
  bool embedding = false;

  bool any() const { return scores > 0 || embedding; }
  bool is_in(const SeqResult& result) const {
    return std::ssize(result.scores) == scores && result.embedding.empty() != embedding;
  }
};

/// Says in `slice`, the next one of the sequence, what the request wants to know of its rows.
PromptDue AskOfPrompt(const Sequence& sequence, SeqSlice& slice);

/// Of the scores of a slice that begins at `position`, those that the sink has not been told; from then on it has.
std::span<const SampledToken> NewScores(Sequence& sequence, int64_t position,
                                        std::span<const SampledToken> scores);

}  // namespace shoal
