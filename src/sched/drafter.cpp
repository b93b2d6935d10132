#include "sched/drafter.h"

#include <algorithm>
#include <utility>

#include "base/status.h"

namespace shoal {
namespace {

/// Tokens indexed at a time: well below a millisecond.
constexpr int64_t kIndexedAtOnce = 8192;
/// Expected tokens in one draft: nearly all are right, so that there may be more of them than of others.
constexpr int64_t kExpectedAtOnce = 64;

/// A text is expected to go on for as long again as it has, and for so long at least.
constexpr int64_t kLeftMin = 128;

/// When the model's head drafted for so many steps of which none accepted any of it, it drafts for every so many only:
/// it reads the output head once more each time.
constexpr int64_t kUselessMax = 64;
constexpr int64_t kAskEvery = 32;

/// A token that ends the text is followed by none.
void CutAtEnd(const Sequence& sequence, std::vector<int32_t>& tokens) {
  if (sequence.request.ignore_eos && sequence.masks == nullptr) return;
  tokens.erase(std::ranges::find_first_of(tokens, sequence.request.eos_ids), tokens.end());
}

/// What is left of the expected tokens: none once the text went another way.
std::span<const int32_t> ExpectedNext(const Sequence& sequence) {
  const std::span<const int32_t> expected = sequence.request.expected;
  const auto at = static_cast<size_t>(sequence.generated());
  if (at >= expected.size() || sequence.drafts.unexpected) return {};
  return expected.subspan(at);
}

/// Compares the sequence's latest `count` tokens with what was expected.
void NoteUnexpected(Sequence& sequence, int64_t count) {
  const std::span<const int32_t> expected = sequence.request.expected;
  const auto end = std::min(static_cast<size_t>(sequence.generated()), expected.size());
  const auto begin = std::min(static_cast<size_t>(sequence.generated() - count), end);
  const auto tokens = std::span(sequence.tokens).subspan(sequence.request.prompt.size());
  if (!std::ranges::equal(tokens.subspan(begin, end - begin), expected.subspan(begin, end - begin)))
    sequence.drafts.unexpected = true;
}

/// What was found, if it goes on as a grammar forces the text to; else what is forced, `most` tokens of it.
Draft WithForced(Draft found, std::vector<int32_t> forced, int64_t most) {
  if (std::ssize(forced) > most) forced.resize(static_cast<size_t>(most));
  const auto certain = std::ssize(forced);
  if (std::ranges::mismatch(found.tokens, forced).in2 != forced.end()) found = {.tokens = std::move(forced)};
  found.certain = certain;
  return found;
}

DraftCandidate CandidateOf(const Sequence& sequence, const Draft& draft) {
  return {&sequence.drafts.rates, draft.matched, std::ssize(draft.tokens), draft.source, draft.certain};
}

}  // namespace

void Drafter::reset(const EngineLimits& limits) {
  limits_ = limits;
  policy_.reset();
  useless_ = 0;
}

bool Drafter::drafts_for(const Sequence& sequence) const {
  return options_.tokens_max > 0 && !sequence.drafts.off;
}

// A step samples one token more than it has drafts.
int64_t Drafter::tokens_max(const Sequence& sequence, int64_t draft_max) const {
  const GenerationRequest& request = sequence.request;
  int64_t most = std::min<int64_t>(draft_max, request.max_tokens - sequence.generated() - 1);
  // Ends are withheld from as many tokens as that, and from no more.
  if (sequence.withheld > 0) most = std::min(most, request.min_tokens - sequence.generated() - 1);
  if (!sequence.cursor.long_rope()) {
    most = std::min(most, limits_.short_rope_positions - std::ssize(sequence.tokens));
  }
  return std::max<int64_t>(most, 0);
}

void Drafter::index(Sequence& sequence) const {
  if (drafts_for(sequence)) sequence.drafts.lookup.extend(sequence.tokens, kIndexedAtOnce);
}

Draft Drafter::draft_for(Sequence& sequence) const {
  if (const auto expected = ExpectedNext(sequence); !expected.empty()) {
    const int64_t most = std::min<int64_t>(tokens_max(sequence, kExpectedAtOnce), std::ssize(expected));
    return {.matched = PromptLookup::kMatchMax, .tokens = {expected.begin(), expected.begin() + most}};
  }
  index(sequence);
  const int64_t most = tokens_max(sequence, options_.tokens_max);
  if (most == 0) return {};
  Draft found;
  if (sequence.drafts.lookup.indexed() == std::ssize(sequence.tokens)) {
    found = sequence.drafts.lookup.draft(sequence.tokens, most);
  }
  if (sequence.masks == nullptr) return found;
  return WithForced(std::move(found), sequence.masks->forced(), tokens_max(sequence, kExpectedAtOnce));
}

void Drafter::look_up(std::span<Sequence* const> sequences, std::vector<Draft>& drafts) const {
  for (size_t i = 0; i < sequences.size(); ++i) {
    Sequence& sequence = *sequences[i];
    if (!drafts_for(sequence)) continue;
    drafts[i] = draft_for(sequence);
    CutAtEnd(sequence, drafts[i].tokens);
    take_predicted(sequence, drafts[i]);
  }
}

// One round a step: what it gave, be it nothing, is taken.
std::optional<std::vector<Draft>> Drafter::draft(std::span<Sequence* const> sequences,
                                                 const UndraftedStep& step) {
  ++steps_;
  std::vector<Draft> drafts(sequences.size());
  look_up(sequences, drafts);
  const bool drafted =
      std::ranges::any_of(sequences, [&](const Sequence* one) { return model_.drafted(*one) != nullptr; });
  if (!drafted && model_.idle() && begin_round(sequences, drafts, step)) return std::nullopt;
  std::vector<DraftCandidate> candidates;
  bool any = false;
  for (size_t i = 0; i < drafts.size(); ++i) {
    if (drafted && drafts_for(*sequences[i])) take_drafted(*sequences[i], drafts[i]);
    candidates.push_back(CandidateOf(*sequences[i], drafts[i]));
    any = any || candidates.back().tokens > 0;
  }
  if (!any) return drafts;
  const auto by_head = [](const DraftCandidate& one) {
    return one.source == DraftSource::kMtp && one.tokens > 0;
  };
  if (std::ranges::any_of(candidates, by_head)) ++useless_;
  const std::vector<int64_t> counts = policy_.choose(candidates, step);
  for (size_t i = 0; i < drafts.size(); ++i) drafts[i].tokens.resize(static_cast<size_t>(counts[i]));
  return drafts;
}

bool Drafter::begin_round(std::span<Sequence* const> sequences, std::span<const Draft> drafts,
                          const UndraftedStep& step) {
  std::vector<DraftCandidate> candidates;
  std::vector<DraftOffer> offers(sequences.size());
  for (size_t i = 0; i < sequences.size(); ++i) {
    const Sequence& sequence = *sequences[i];
    candidates.push_back(CandidateOf(sequence, drafts[i]));
    // What is expected, or certain, needs no model.
    const bool asks = drafts_for(sequence) && ExpectedNext(sequence).empty() && drafts[i].certain == 0;
    const int64_t most = asks ? tokens_max(sequence, options_.tokens_max) : 0;
    if (most == 0) continue;
    offers[i] = model_.offer(sequence, most);
    offers[i].left = std::min(sequence.request.max_tokens - sequence.generated(),
                              std::max(kLeftMin, sequence.generated()));
    offers[i].begun = sequence.drafts.catching_up;
  }
  const std::vector<DraftShare> shares = policy_.choose_round(candidates, offers, step);
  std::vector<DraftModel::Wish> wishes;
  for (size_t i = 0; i < shares.size(); ++i) {
    if (shares[i].rows == 0) continue;
    sequences[i]->drafts.catching_up = shares[i].rows < offers[i].behind;
    wishes.push_back({*sequences[i], shares[i]});
  }
  return !wishes.empty() && model_.begin(wishes, limits_.vocabulary);
}

void Drafter::take_drafted(const Sequence& sequence, Draft& draft) const {
  const std::vector<int32_t>* tokens = model_.drafted(sequence);
  if (tokens == nullptr) return;
  take_better(sequence, {.tokens = *tokens, .source = DraftSource::kModel}, draft);
}

void Drafter::take_predicted(const Sequence& sequence, Draft& draft) const {
  if (sequence.drafts.predicted_at != std::ssize(sequence.tokens)) return;
  Draft by_head{.tokens = sequence.drafts.predicted, .source = DraftSource::kMtp};
  CutAtEnd(sequence, by_head.tokens);
  take_better(sequence, std::move(by_head), draft);
}

// Of two drafts the one of which more is expected to be right.
void Drafter::take_better(const Sequence& sequence, Draft other, Draft& draft) const {
  const int64_t most = tokens_max(sequence, options_.tokens_max);
  if (std::ssize(other.tokens) > most) other.tokens.resize(static_cast<size_t>(most));
  const auto expected = [&](const Draft& one) { return policy_.expected(CandidateOf(sequence, one)); };
  if (expected(other) > expected(draft)) draft = std::move(other);
}

// The head draws without the mask of a grammar: what it would draft there is mostly forbidden.
bool Drafter::asks_head(const Sequence& sequence) const {
  if (!limits_.mtp || !drafts_for(sequence) || sequence.masks != nullptr) return false;
  if (!ExpectedNext(sequence).empty()) return false;
  // Its draft stands behind the token that the step gives at least, and one more is sampled behind it.
  if (sequence.generated() + 2 >= sequence.request.max_tokens) return false;
  return options_.when == DraftWhen::kAlways || useless_ < kUselessMax || steps_ % kAskEvery == 0;
}

void Drafter::predicted(Sequence& sequence, std::span<const int32_t> tokens) {
  sequence.drafts.predicted.assign(tokens.begin(), tokens.end());
  sequence.drafts.predicted_at = std::ssize(sequence.tokens);
}

absl::Status Drafter::acknowledge(const StepResult& result, int64_t rows, int64_t ns) {
  RETURN_IF_ERROR(model_.acknowledge(result, ns));
  policy_.observe_draft_step(rows, static_cast<double>(ns));
  return absl::OkStatus();
}

void Drafter::verified(Sequence& sequence, const Draft& draft, int64_t accepted) {
  if (!drafts_for(sequence)) return;
  NoteUnexpected(sequence, accepted + 1);
  const auto tokens = std::ssize(draft.tokens);
  policy_.verified(sequence.drafts.rates, {draft.matched, tokens, accepted, draft.source, draft.certain});
  std::vector<DraftTotals*> all = {&sequence.drafts.totals, &totals_};
  if (draft.source == DraftSource::kModel) all.push_back(&model_totals_);
  if (draft.source == DraftSource::kMtp) {
    all.push_back(&mtp_totals_);
    if (accepted > 0) useless_ = 0;
  }
  for (DraftTotals* totals : all) {
    totals->drafted += tokens;
    totals->accepted += accepted;
  }
}

void Drafter::failed(Sequence& sequence, const Draft& draft) {
  verified(sequence, draft, 0);
  sequence.drafts = {.totals = sequence.drafts.totals, .off = true};
}

}  // namespace shoal
