#include "sched/drafter.h"

#include <algorithm>

namespace shoal {
namespace {

/// Tokens indexed at a time: well below a millisecond.
constexpr int64_t kIndexedAtOnce = 8192;

/// A token that ends the text is followed by none.
void CutAtEnd(const GenerationRequest& request, std::vector<int32_t>& tokens) {
  if (request.ignore_eos) return;
  tokens.erase(std::ranges::find_first_of(tokens, request.eos_ids), tokens.end());
}

}  // namespace

void Drafter::reset(const EngineLimits& limits) {
  limits_ = limits;
  policy_.reset();
}

// A state can't go back to before a token that was wrong; a mask is computed from the token before it, which a step
// that verifies several does not know yet.
bool Drafter::drafts_for(const Sequence& sequence) const {
  return draft_max_ > 0 && limits_.state_slots == 0 && sequence.masks == nullptr && !sequence.drafts.off;
}

// A step samples one token more than it has drafts.
int64_t Drafter::tokens_max(const Sequence& sequence) const {
  const GenerationRequest& request = sequence.request;
  int64_t most = std::min<int64_t>(draft_max_, request.max_tokens - sequence.generated() - 1);
  // Ends are withheld from as many tokens as that, and from no more.
  if (sequence.withheld > 0) most = std::min(most, request.min_tokens - sequence.generated() - 1);
  if (!sequence.cursor.long_rope()) {
    most = std::min(most, limits_.short_rope_positions - std::ssize(sequence.tokens));
  }
  return std::max<int64_t>(most, 0);
}

void Drafter::index(Sequence& sequence) {
  if (drafts_for(sequence)) sequence.drafts.lookup.extend(sequence.tokens, kIndexedAtOnce);
}

std::vector<Draft> Drafter::draft(std::span<Sequence* const> sequences, const UndraftedStep& step) {
  std::vector<Draft> drafts(sequences.size());
  std::vector<DraftCandidate> candidates(sequences.size());
  bool any = false;
  for (size_t i = 0; i < sequences.size(); ++i) {
    Sequence& sequence = *sequences[i];
    if (!drafts_for(sequence)) continue;
    index(sequence);
    const int64_t most = tokens_max(sequence);
    if (most == 0 || sequence.drafts.lookup.indexed() < std::ssize(sequence.tokens)) continue;
    drafts[i] = sequence.drafts.lookup.draft(sequence.tokens, most);
    CutAtEnd(sequence.request, drafts[i].tokens);
    candidates[i] = {&sequence.drafts.rates, drafts[i].matched, std::ssize(drafts[i].tokens)};
    any = any || candidates[i].tokens > 0;
  }
  if (!any) return drafts;
  const std::vector<int64_t> counts = policy_.choose(candidates, step);
  for (size_t i = 0; i < drafts.size(); ++i) drafts[i].tokens.resize(static_cast<size_t>(counts[i]));
  return drafts;
}

void Drafter::verified(Sequence& sequence, const Draft& draft, int64_t accepted) {
  if (!drafts_for(sequence)) return;
  const auto tokens = std::ssize(draft.tokens);
  policy_.verified(sequence.drafts.rates, {draft.matched, tokens, accepted});
  for (DraftTotals* totals : {&sequence.drafts.totals, &totals_}) {
    totals->drafted += tokens;
    totals->accepted += accepted;
  }
}

void Drafter::failed(Sequence& sequence, const Draft& draft) {
  verified(sequence, draft, 0);
  sequence.drafts = {.totals = sequence.drafts.totals, .off = true};
}

}  // namespace shoal
