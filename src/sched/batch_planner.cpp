#include "sched/batch_planner.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/status.h"

namespace shoal {
int64_t PrefillChunkRows(int64_t rows_left, int stages, int64_t rows_per_step) {
  constexpr int64_t kChunksPerHop = 9;   // n / (n + S - 1) >= 0.9.
  constexpr int64_t kChunkRowsMin = 64;  // Products of fewer rows run below the rate of large ones.
  const int64_t hops = stages - 1;
  if (hops <= 0) return rows_per_step;
  const int64_t chunk =
      std::max((rows_left + kChunksPerHop * hops - 1) / (kChunksPerHop * hops), kChunkRowsMin);
  return std::min(chunk, rows_per_step);
}

// Every running sequence that does not decode must find at least one row, or decodes would starve prefill.
BatchPlannerOptions BatchPlanner::Bounded(BatchPlannerOptions options) {
  SHOAL_CHECK_GE(options.rows_per_step, 1);
  SHOAL_CHECK_GE(options.sequences_max, 1);
  SHOAL_CHECK_GE(options.draft_max, 0);
  options.sequences_max = std::min(options.sequences_max, options.rows_per_step);
  return options;
}

BatchPlanner::BatchPlanner(BatchPlannerOptions options)
    : options_(Bounded(options)),
      caches_(options.prefix_cache),
      drafter_({options.draft_max, options.draft_when}) {}

void BatchPlanner::enqueue(std::unique_ptr<Sequence> sequence) {
  // Scheduler::submit refuses other requests, and makes each sequence, with an id of its own.
  SHOAL_CHECK(!sequence->request.prompt.empty() && sequence->request.max_tokens >= 0);
  SHOAL_CHECK(sequence->state == SequenceState::kWaiting && sequence->cursor.blocks().empty());
  Sequence* raw = sequence.get();
  waiting_.insert(*raw);
  const bool inserted = sequences_.emplace(raw->id, std::move(sequence)).second;
  SHOAL_CHECK(inserted);
}

Sequence* BatchPlanner::find(SeqId id) const {
  const auto it = sequences_.find(id);
  if (it == sequences_.end() || it->second->state == SequenceState::kEnded) return nullptr;
  return it->second.get();
}

std::optional<Step> BatchPlanner::compose(StepId id) {
  Step step{.id = id};
  InFlight record{.id = id};
  admit();
  add_decodes(step, record);
  const size_t decodes = step.slices.size();
  // Prompts go with the decodes, which follow as soon as the draft model is done.
  if (decodes == 0 && in_flight_.empty() && drafter_.drafting()) return std::nullopt;
  for (const SeqSlice& slice : step.slices) record.load.add_decode(slice.position, std::ssize(slice.tokens));
  add_prefills(step, record);
  caches_.put_orders(step);
  if (step.slices.empty() && !step.has_orders()) return std::nullopt;
  record.rows = step.rows();
  record.decodes_only = decodes > 0 && decodes == step.slices.size();
  record.alone = in_flight_.empty();
  for (InFlight& other : in_flight_) other.alone = false;
  step.ends = std::exchange(ends_, {});
  in_flight_.push_back(std::move(record));
  return step;
}

// Decodes are split evenly among as many steps as the model finds best; those that waited longest go first.
void BatchPlanner::add_decodes(Step& step, InFlight& record) {
  int64_t decoding = 0;
  std::vector<Sequence*> ready;
  for (const auto& [rank, sequence] : running_) {
    if (!sequence->decoding()) continue;
    ++decoding;
    if (!sequence->sample_pending && !drafter_.waits(*sequence)) ready.push_back(sequence);
  }
  if (ready.empty() && drafter_.drafting()) return;
  std::ranges::sort(ready, {},
                    [](const Sequence* sequence) { return std::pair(sequence->last_step, sequence->id); });
  const int steps = model_.choose(decoding);
  // One step for all waits until all are back; the pipeline is not empty meanwhile.
  if (steps == 1 && static_cast<int64_t>(ready.size()) < decoding) return;
  const int64_t share = (decoding + steps - 1) / steps;
  auto found = draft(std::span(ready).first(static_cast<size_t>(std::min<int64_t>(share, std::ssize(ready)))),
                     steps == 1);
  if (!found.has_value()) return;
  std::vector<Draft> drafts = *std::move(found);
  drafts.resize(ready.size());
  int64_t taken = 0;
  for (size_t i = 0; i < ready.size(); ++i) {
    Sequence& sequence = *ready[i];
    if (taken == share) break;
    if (sequence.state != SequenceState::kRunning) continue;  // Preempted for the sake of an earlier one.
    if (rows_left(step) < sequence.unscheduled()) break;
    if (!grow(sequence, std::ssize(sequence.tokens))) continue;
    make_room(sequence, drafts[i].tokens);
    if (drafts[i].tokens.empty()) {
      add_slice(sequence, sequence.unscheduled(), step, record);
    } else {
      add_draft_slice(sequence, std::move(drafts[i]), step, record);
    }
    ++taken;
  }
}

// Of sequences that decode in the next step. Every running sequence finds a row beside the drafts, and those that it
// computes again.
std::optional<std::vector<Draft>> BatchPlanner::draft(std::span<Sequence* const> decodes, bool alone) {
  if (decodes.empty()) return std::vector<Draft>();
  int64_t rows = 0;
  for (const Sequence* sequence : decodes) rows += sequence->unscheduled();
  int64_t others = std::ssize(running_);
  for (const auto& [rank, sequence] : running_) others += sequence->standing.again;
  UndraftedStep step{.decodes = std::ssize(decodes),
                     .rows = rows + prefill_rows(std::max<int64_t>(options_.rows_per_step - rows, 0)),
                     .draft_rows = std::max<int64_t>(options_.rows_per_step - others, 0),
                     .alone = alone};
  // Of a sequence's slots one is read, one is for the end, and one is for the state before the draft.
  if (limits_.state_slots > 0) step.states_kept = limits_.state_slots_each() - 3;
  return drafter_.draft(decodes, step);
}

// Rows of prompts that a step takes which has room for `rows_left`, where its time is not bounded.
int64_t BatchPlanner::prefill_rows(int64_t rows_left) const {
  int64_t waiting_rows = 0;
  for (const auto& [rank, sequence] : running_) {
    if (!sequence->decoding() && sequence->standing.restoring == 0) waiting_rows += sequence->unscheduled();
  }
  const int64_t chunk = PrefillChunkRows(waiting_rows, limits_.steps_in_flight, options_.rows_per_step);
  return std::min({waiting_rows, chunk, rows_left});
}

void BatchPlanner::add_prefills(Step& step, InFlight& record) {
  std::vector<Sequence*> prefilling;
  std::vector<PrefillWish> wishes;
  for (const auto& [rank, sequence] : running_) {
    record.decoding |= sequence->decoding();
    if (sequence->decoding() || sequence->standing.restoring > 0) continue;
    const GenerationRequest& request = sequence->request;
    wishes.push_back({request.party, request.priority, sequence->cursor.position(), sequence->unscheduled()});
    prefilling.push_back(sequence);
  }
  PrefillBudget budget = pacer_.budget(prefill_rows(rows_left(step)), record.load, record.decoding);
  const std::vector<int64_t> rows = SharePrefill(wishes, budget);
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] == 0) continue;
    record.load.add_prefill(wishes[i].position, rows[i]);
    add_slice(*prefilling[i], rows[i], step, record);
  }
}

// In the order of the queue: a large request at its head is not overtaken for ever by small ones. Only those that
// wait for a prefix let others pass, who have something to compute meanwhile.
void BatchPlanner::admit() {
  WaitingQueue::Walk walk(waiting_);
  while (running() < options_.sequences_max) {
    Sequence* next = walk.next();
    if (next == nullptr) return;
    Sequence& sequence = *next;
    // One block of air for each running sequence, or the next decodes would preempt what was just admitted.
    const CacheLedger::Admission admission = caches_.admit(sequence, std::ssize(running_));
    if (admission == CacheLedger::Admission::kNoRoom) {
      if (shed_blocks()) continue;  // And once more.
      const bool alone = running_.empty() && returning_blocks_ == 0;
      SHOAL_CHECK(!alone);  // An empty cache holds all that waits: CheckFits, again for each generation.
      return;
    }
    if (admission == CacheLedger::Admission::kLater) {
      SHOAL_CHECK(!running_.empty() || !in_flight_.empty());  // Who promised something ends, or writes it.
      continue;
    }
    waiting_.erase(sequence);
    charge(sequence);
    sequence.state = SequenceState::kRunning;
    sequence.begun = false;
    sequence.started = true;
    if (sequence.standing.restoring > 0) ++sequence.steps_in_flight;  // Its blocks are written, as by a step.
    running_.emplace(RankOf(sequence), &sequence);
  }
}

void BatchPlanner::begin(Sequence& sequence, Step& step) {
  if (std::exchange(sequence.begun, true)) return;
  step.begins.push_back({.id = sequence.id,
                         .sampling = sequence.request.sampling,
                         .tokens = sequence.tokens,
                         .prompt_tokens = static_cast<int32_t>(sequence.request.prompt.size())});
  sequence.known_to_workers = true;
}

// What is found in the cache is not computed, and what is computed again after a preemption or a loss is no fault of
// the party's: neither is charged.
void BatchPlanner::charge(Sequence& sequence) {
  const int64_t tokens = std::ssize(sequence.tokens);
  waiting_.charge(sequence, tokens - std::max(sequence.charged, sequence.cursor.position()));
  sequence.charged = tokens;
}

void BatchPlanner::add_slice(Sequence& sequence, int64_t rows, Step& step, InFlight& record) {
  SHOAL_CHECK_LE(rows, sequence.unscheduled());  // Both callers ask it first.
  begin(sequence, step);
  // The cursor counts on it: the slot that is written next must have been read. So does the scheduler: it
  // composes no step beyond the engine's limit.
  if (limits_.state_slots > 0) SHOAL_CHECK_LT(sequence.steps_in_flight, limits_.steps_in_flight);
  const bool last = rows == sequence.unscheduled();
  const bool sample = last && sequence.request.max_tokens > 0;
  const int64_t end = sequence.cursor.position() + rows;
  if (!sample) drafter_.index(sequence);
  step.slices.push_back(caches_.next_slice(sequence, rows, sample));
  SeqSlice& slice = step.slices.back();
  slice.masked = sample && sequence.masks != nullptr;
  if (limits_.mtp && !last) slice.next_token = sequence.tokens[static_cast<size_t>(end)];
  record.named.push_back({.id = sequence.id,
                          .begin = slice.position,
                          .end = sequence.cursor.position(),
                          .sampled = sample,
                          .due = AskOfPrompt(sequence, slice),
                          .completes = last && !sample});
  note_slice(sequence, step.id, slice, record.named.back());
}

// As a decode, of which no other step is in flight: what it writes behind its first row is overwritten by the next
// slice where a draft was wrong.
void BatchPlanner::add_draft_slice(Sequence& sequence, Draft draft, Step& step, InFlight& record) {
  begin(sequence, step);
  step.slices.push_back(caches_.drafted_slice(sequence, draft.tokens));
  step.slices.back().masked = sequence.masks != nullptr;
  record.named.push_back({.id = sequence.id,
                          .begin = step.slices.back().position,
                          .end = std::ssize(sequence.tokens),
                          .sampled = true,
                          .draft = std::move(draft)});
  note_slice(sequence, step.id, step.slices.back(), record.named.back());
}

void BatchPlanner::note_slice(Sequence& sequence, StepId step, SeqSlice& slice, Named& named) {
  named.asks_head = slice.draft = named.sampled && drafter_.asks_head(sequence);
  sequence.sample_pending = named.sampled;
  sequence.last_step = step;
  ++sequence.steps_in_flight;
}

// Drafts get blocks that nobody misses, as admission leaves them, and preempt no one. Those without a place go.
void BatchPlanner::make_room(Sequence& sequence, std::vector<int32_t>& draft) {
  const int64_t begin = std::ssize(sequence.tokens);
  const auto held = std::ssize(sequence.cursor.blocks());
  const int64_t more = BlocksFor(begin + std::ssize(draft)) - held;
  if (more <= 0) return;
  if (caches_.available() - more >= std::ssize(running_)) return caches_.give(sequence, more);
  draft.resize(static_cast<size_t>(held * kBlockPositions - begin));
}

// True when `sequence` has blocks for `positions`. Takes unused cached ones, those that sequences do not see any more,
// and then those of the last by rank if it must, which may be `sequence` itself; false then, or while blocks are on
// their way back.
bool BatchPlanner::grow(Sequence& sequence, int64_t positions) {
  const int64_t need = BlocksFor(positions) - std::ssize(sequence.cursor.blocks());
  if (need <= 0) return true;
  while (caches_.available() < need) {
    if (shed_blocks()) continue;
    if (returning_blocks_ > 0 || sheds_later()) return false;
    SHOAL_CHECK_GT(running_.size(), size_t{1});  // Alone it fits: CheckFits, again for each generation.
    Sequence& last = *running_.rbegin()->second;
    preempt(last);
    if (&last == &sequence) return false;
  }
  caches_.give(sequence, need);
  return true;
}

// Some that a sequence no longer sees. False where there are none.
bool BatchPlanner::shed_blocks() {
  return limits_.window < limits_.context &&
         std::ranges::any_of(running_, [&](const auto& entry) { return caches_.shed(*entry.second); });
}

// Once their steps in flight are back.
bool BatchPlanner::sheds_later() const {
  return limits_.window < limits_.context && std::ranges::any_of(running_, [&](const auto& entry) {
           return entry.second->steps_in_flight > 0 && caches_.can_shed(*entry.second);
         });
}

void BatchPlanner::preempt(Sequence& sequence) {
  ++preemptions_;
  requeue(sequence);
}

// Takes its blocks, to begin again from its tokens.
void BatchPlanner::requeue(Sequence& sequence) {
  running_.erase(RankOf(sequence));
  caches_.withdraw(sequence);
  if (sequence.steps_in_flight > 0) {
    sequence.state = SequenceState::kDraining;
    returning_blocks_ += std::ssize(sequence.cursor.blocks());
    ++draining_;
    return;
  }
  caches_.take_back(sequence);
  sequence.state = SequenceState::kWaiting;
  waiting_.insert(sequence);
}

void BatchPlanner::end(SeqId id) {
  Sequence* sequence = find(id);
  SHOAL_CHECK(sequence != nullptr);  // The scheduler forgets a request when it ends it.
  if (sequence->known_to_workers) ends_.push_back(id);
  waiting_.erase(*sequence);
  running_.erase(RankOf(*sequence));
  if (sequence->state == SequenceState::kDraining) {
    --draining_;
  } else if (sequence->steps_in_flight > 0) {
    returning_blocks_ += std::ssize(sequence->cursor.blocks());
  }
  caches_.withdraw(*sequence);
  drafter_.forget(id);
  sequence->sink.reset();
  sequence->state = SequenceState::kEnded;
  if (sequence->steps_in_flight > 0) return;
  caches_.take_back(*sequence);
  sequences_.erase(id);
}

int64_t BatchPlanner::Named::accepted(std::span<const SampledToken> tokens) const {
  size_t right = 0;
  while (right < draft.tokens.size() && right < tokens.size() && tokens[right].id == draft.tokens[right])
    ++right;
  return std::min<int64_t>(std::ssize(tokens), static_cast<int64_t>(right) + 1);
}

// What a result says of one sequence; named: its slice in the step.
absl::StatusOr<BatchPlanner::Outcome> BatchPlanner::read_one(const Named* named, const SeqResult& one,
                                                             StepId step) const {
  const bool failed = !one.status.ok();
  if (named == nullptr || (failed ? !one.tokens.empty() : !named->told())) {
    return Internal("step {}: got {} tokens ({}) for sequence {}, expected none, or not again", step,
                    one.tokens.size(), CodeName(one.status.code()), one.id);
  }
  if (failed) return Outcome{.id = one.id, .tokens = {}, .status = one.status};
  if (std::ssize(one.tokens) != named->tokens_max() || !named->due.is_in(one)) {
    return Internal(
        "step {}: got {} tokens, {} scores and an embedding of {} values for sequence {}, expected {} "
        "tokens, {} "
        "scores{}",
        step, one.tokens.size(), one.scores.size(), one.embedding.size(), one.id, named->tokens_max(),
        named->due.scores, named->due.embedding ? " and an embedding" : "");
  }
  for (const SampledToken& token : one.tokens) {
    if (token.id >= 0 && token.id < limits_.vocabulary) continue;
    return Internal("step {}: got token {} for sequence {}, outside the vocabulary of {}", step, token.id,
                    one.id, limits_.vocabulary);
  }
  for (const int32_t id : one.drafted) {
    if (named->asks_head && std::ssize(one.drafted) <= kMtpTokens && id >= 0 && id < limits_.vocabulary)
      continue;
    return Internal(
        "step {}: got {} drafted tokens, {} among them, for sequence {}, expected {} at most of {}", step,
        one.drafted.size(), id, one.id, named->asks_head ? kMtpTokens : 0, limits_.vocabulary);
  }
  const auto accepted = static_cast<size_t>(named->accepted(one.tokens));
  return Outcome{one.id,     std::span(one.tokens).first(accepted), one.status, one.scores, one.embedding,
                 one.drafted};
}

// What a result says of the sequences of its step: tokens or an error for each that was sampled, an error
// for any other that failed.
absl::StatusOr<std::vector<BatchPlanner::Outcome>> BatchPlanner::read(const InFlight& record,
                                                                      const StepResult& result) const {
  if (result.id != record.id) {
    return Internal("step {}: expected its result next, got the result of step {}", record.id, result.id);
  }
  std::unordered_map<SeqId, const Named*> named;
  for (const Named& one : record.named) named.emplace(one.id, &one);
  std::vector<Outcome> outcomes;
  for (const SeqResult& one : result.sequences) {
    const auto found = named.extract(one.id);
    ASSIGN_OR_RETURN(Outcome outcome, read_one(found.empty() ? nullptr : found.mapped(), one, result.id));
    outcomes.push_back(std::move(outcome));
  }
  const auto missing = std::ranges::count_if(named, [](const auto& entry) { return entry.second->told(); });
  if (missing > 0) {
    return Internal("step {}: expected tokens for {} sequences, or what their prompts say; {} are missing",
                    result.id, std::ranges::count_if(record.named, &Named::told), missing);
  }
  return outcomes;
}

// What a sequence that has not ended got. False where its failure may be that of a draft: then it goes on from where
// it was, without drafts, and the workers hear of it anew, as they remember that it failed.
bool BatchPlanner::settle(Named& named, const Outcome& outcome) {
  Sequence& sequence = *find(named.id);
  sequence.sample_pending = sequence.sample_pending && !named.sampled;
  if (!outcome.status.ok()) {
    if (named.draft.tokens.empty()) return true;
    named.end = named.begin;
    drafter_.failed(sequence, named.draft);
    sequence.begun = false;
    return false;
  }
  if (outcome.tokens.empty()) return true;  // It says something of the prompt.
  for (const SampledToken& token : outcome.tokens) sequence.tokens.push_back(token.id);
  sequence.losses_in_a_row = 0;
  const int64_t accepted = std::ssize(outcome.tokens) - 1;
  Drafter::predicted(sequence, outcome.drafted);
  named.end += accepted;
  drafter_.verified(sequence, named.draft, accepted);
  return true;
}

void BatchPlanner::observe(const InFlight& record, std::span<const StageTiming> timings, int64_t elapsed_ns) {
  if (record.rows == 0) return;  // Orders for disks.
  if (record.decodes_only) {
    model_.observe(record.rows, timings, record.alone);
  } else {
    caches_.disk().observe_prefill(record.rows, timings);
  }
  pacer_.observe(record.load, timings, record.decoding);
  // What travels between nodes counts where nothing hides it.
  double ns = static_cast<double>(elapsed_ns);
  if (!record.alone || elapsed_ns == 0) {
    ns = 0;
    for (const StageTiming& stage : timings) ns += stage.elapsed_ns();
  }
  if (ns > 0) drafter_.observe_step(record.rows, ns, record.alone);
}

absl::StatusOr<std::vector<BatchPlanner::Outcome>> BatchPlanner::acknowledge(const StepResult& result,
                                                                             int64_t elapsed_ns) {
  SHOAL_CHECK(!in_flight_.empty());  // The scheduler drops results of which it has submitted no step.
  ASSIGN_OR_RETURN(std::vector<Outcome> outcomes, read(in_flight_.front(), result));
  InFlight record = std::move(in_flight_.front());
  in_flight_.pop_front();
  std::unordered_map<SeqId, Named*> named;
  for (Named& one : record.named) named.emplace(one.id, &one);
  std::erase_if(outcomes, [&](const Outcome& one) {
    const bool known = find(one.id) != nullptr;  // Else it ended while the step was in flight.
    const bool dropped = !known || !settle(*named.at(one.id), one);
    // What is wrong with it may be in its blocks.
    if (!one.status.ok() && !(known && dropped)) sequences_.at(one.id)->standing.closed = true;
    return dropped;
  });
  observe(record, result.timings, elapsed_ns);
  tell_of_prompts(record.named, outcomes);
  for (const Named& one : record.named) {
    Sequence& sequence = *sequences_.at(one.id);
    SHOAL_CHECK_GT(sequence.steps_in_flight, 0);  // From our own record of the step, not from its result.
    --sequence.steps_in_flight;
    caches_.wrote(sequence, one.draft.tokens.empty() ? one.end : caches_.go_back(sequence, one.end));
    step_returned(sequence);
  }
  for (const Outcome& one : outcomes) {
    Sequence& sequence = *find(one.id);
    if (!one.status.ok()) continue;
    charge(sequence);
    if (outgrown(sequence)) requeue(sequence);
  }
  return outcomes;
}

// Marks the outcomes of sequences that end with their prompt, and leaves out scores that were told before.
void BatchPlanner::tell_of_prompts(const std::vector<Named>& named, std::vector<Outcome>& outcomes) {
  for (const Named& one : named) {
    Sequence* sequence = find(one.id);
    if (sequence == nullptr || (!one.due.any() && !one.completes)) continue;
    auto outcome = std::ranges::find(outcomes, one.id, &Outcome::id);
    if (outcome == outcomes.end()) outcome = outcomes.insert(outcome, {.id = one.id});
    if (!outcome->status.ok()) continue;
    outcome->scores = NewScores(*sequence, one.begin, outcome->scores);
    outcome->complete = one.completes;
    sequence->losses_in_a_row = 0;
  }
}

void BatchPlanner::disk_report(NodeId node, const KvReport& report) {
  for (const RestoreOutcome& outcome : caches_.disk().report(node, report)) {
    Sequence& sequence = *sequences_.at(outcome.id);  // It stays until its restore has ended.
    --sequence.steps_in_flight;
    caches_.restored(sequence, outcome);
    step_returned(sequence);
  }
}

// With its last token it is longer than short rope goes: its cache is of no further use. As its next step
// would be a decode, no step in flight names it.
bool BatchPlanner::outgrown(const Sequence& sequence) const {
  return sequence.state == SequenceState::kRunning && !sequence.cursor.long_rope() &&
         limits_.long_rope(static_cast<int64_t>(sequence.tokens.size()));
}

void BatchPlanner::step_returned(Sequence& sequence) {
  if (sequence.steps_in_flight > 0 || sequence.state == SequenceState::kRunning) return;
  returning_blocks_ -= std::ssize(sequence.cursor.blocks());
  caches_.take_back(sequence);
  if (sequence.state == SequenceState::kEnded) {
    sequences_.erase(sequence.id);
    return;
  }
  SHOAL_CHECK(sequence.state == SequenceState::kDraining);
  --draining_;
  sequence.state = SequenceState::kWaiting;
  waiting_.insert(sequence);
}

std::vector<std::unique_ptr<Sequence>> BatchPlanner::lose_generation(const LossPolicy& policy) {
  // A failed step fails all later ones: if a sequence is to blame, it is in the oldest.
  if (!in_flight_.empty()) {
    for (const Named& one : in_flight_.front().named) ++sequences_.at(one.id)->losses_in_a_row;
  }
  bool trust = policy.trust_caches;
  for (const auto& [id, sequence] : sequences_) {
    if (sequence->state == SequenceState::kWaiting) continue;
    trust = trust && sequence->losses_in_a_row < 2;
    caches_.take_back(
        *sequence);  // With their session the steps in flight have ended: nobody names its blocks.
  }
  std::vector<std::unique_ptr<Sequence>> removed;
  for (auto it = sequences_.begin(); it != sequences_.end();) {
    Sequence& sequence = *it->second;
    const bool keep = policy.resume && sequence.losses_in_a_row < policy.losses_in_a_row_max;
    if (sequence.state == SequenceState::kWaiting) {
      ++it;
    } else if (sequence.state != SequenceState::kEnded && keep) {
      sequence.steps_in_flight = 0;
      sequence.sample_pending = false;
      sequence.state = SequenceState::kWaiting;
      waiting_.insert(sequence);
      ++restarts_;
      ++it;
    } else {
      if (sequence.state != SequenceState::kEnded) {
        drafter_.forget(it->first);
        removed.push_back(std::move(it->second));
      }
      it = sequences_.erase(it);
    }
  }
  running_.clear();
  in_flight_.clear();
  draining_ = 0;
  returning_blocks_ = 0;
  if (trust) {
    caches_.lose();
  } else {
    caches_.reset(limits_);
  }
  forget_workers();
  std::ranges::sort(removed, {}, [](const auto& sequence) { return sequence->id; });
  return removed;
}

// Workers of a new generation know nobody.
void BatchPlanner::forget_workers() {
  ends_.clear();
  for (const auto& [id, sequence] : sequences_) {
    if (sequence->state == SequenceState::kWaiting) sequence->known_to_workers = false;
  }
}

std::vector<SeqId> BatchPlanner::waiting_ids() const { return waiting_.ids(); }

std::vector<SeqId> BatchPlanner::live_ids() const {
  std::vector<SeqId> ids;
  for (const auto& [id, sequence] : sequences_) {
    if (sequence->state != SequenceState::kEnded) ids.push_back(id);
  }
  return ids;
}

std::vector<RemainingWork> BatchPlanner::remaining_work() const {
  std::vector<RemainingWork> work;
  for (const auto& [rank, sequence] : running_) {
    work.push_back({.prompt_rows = sequence->decoding() ? 0 : sequence->unscheduled(),
                    .generated = sequence->generated(),
                    .tokens_max = sequence->request.max_tokens - sequence->generated()});
  }
  return work;
}

absl::Status BatchPlanner::verify() const {
  std::vector<const Sequence*> all;
  for (const auto& [id, sequence] : sequences_) all.push_back(sequence.get());
  RETURN_IF_ERROR(drafter_.model().verify());
  return caches_.verify(all);
}

}  // namespace shoal
