#include "sched/batch_planner.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "base/check.h"
#include "base/status.h"

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

int64_t PrefillChunkRows(int64_t rows_left, int stages, int64_t rows_per_step) {
  constexpr int64_t kChunksPerHop = 9;   // n / (n + S - 1) >= 0.9.
  constexpr int64_t kChunkRowsMin = 64;  // Products of fewer rows run below the rate of large ones.
  const int64_t hops = stages - 1;
  if (hops <= 0) return rows_per_step;
  const int64_t chunk =
      std::max((rows_left + kChunksPerHop * hops - 1) / (kChunksPerHop * hops), kChunkRowsMin);
  return std::min(chunk, rows_per_step);
}

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
  const int64_t blocks = BlocksFor(prompt + request.max_tokens - 1);
  if (blocks > limits.blocks) {
    return InvalidArgument(
        "the prompt has {} tokens and max_tokens is {}: that needs {} blocks of {} positions, but the whole "
        "KV cache has {}; shorten the prompt, lower max_tokens, or serve with a larger cache",
        prompt, request.max_tokens, blocks, kBlockPositions, limits.blocks);
  }
  return absl::OkStatus();
}

// Every running sequence that does not decode must find at least one row, or decodes would starve prefill.
BatchPlannerOptions BatchPlanner::Bounded(BatchPlannerOptions options) {
  SHOAL_CHECK_GE(options.rows_per_step, 1);
  SHOAL_CHECK_GE(options.sequences_max, 1);
  options.sequences_max = std::min(options.sequences_max, options.rows_per_step);
  return options;
}

BatchPlanner::BatchPlanner(BatchPlannerOptions options)
    : options_(Bounded(options)), caches_(options.prefix_cache) {}

void BatchPlanner::reset(const EngineLimits& limits) {
  SHOAL_CHECK(running_.empty() && in_flight_.empty());  // The scheduler settles a lost generation first.
  SHOAL_CHECK(CheckLimits(limits).ok());                // And takes no limits that fail it.
  limits_ = limits;
  caches_.reset(limits);
  model_ = PipelineModel(limits.steps_in_flight);
  forget_workers();
}

void BatchPlanner::enqueue(std::unique_ptr<Sequence> sequence) {
  // Scheduler::submit refuses other requests, and makes each sequence, with an id of its own.
  SHOAL_CHECK(!sequence->request.prompt.empty() && sequence->request.max_tokens > 0);
  SHOAL_CHECK(sequence->state == SequenceState::kWaiting && sequence->cursor.blocks().empty());
  Sequence* raw = sequence.get();
  waiting_.emplace(raw->id, raw);
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
  add_prefills(step, record);
  if (step.slices.empty()) return std::nullopt;
  record.rows = step.rows();
  record.decodes_only = decodes == step.slices.size();
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
  for (const auto& [id, sequence] : running_) {
    if (!sequence->decoding()) continue;
    ++decoding;
    if (!sequence->sample_pending) ready.push_back(sequence);
  }
  std::ranges::sort(ready, {},
                    [](const Sequence* sequence) { return std::pair(sequence->last_step, sequence->id); });
  const int steps = model_.choose(decoding);
  // One step for all waits until all are back; the pipeline is not empty meanwhile.
  if (steps == 1 && static_cast<int64_t>(ready.size()) < decoding) return;
  const int64_t share = (decoding + steps - 1) / steps;
  int64_t taken = 0;
  for (Sequence* sequence : ready) {
    if (taken == share || rows_left(step) == 0) break;
    if (sequence->state != SequenceState::kRunning) continue;  // Preempted for the sake of an earlier one.
    if (!grow(*sequence, sequence->cursor.position() + 1)) continue;
    add_slice(*sequence, 1, step, record);
    ++taken;
  }
}

void BatchPlanner::add_prefills(Step& step, InFlight& record) {
  int64_t waiting_rows = 0;
  for (const auto& [id, sequence] : running_) {
    if (!sequence->decoding()) waiting_rows += sequence->unscheduled();
  }
  int64_t budget = std::min(PrefillChunkRows(waiting_rows, limits_.steps_in_flight, options_.rows_per_step),
                            rows_left(step));
  for (const auto& [id, sequence] : running_) {
    const int64_t rows = std::min(budget, sequence->unscheduled());
    if (rows == 0 || sequence->decoding()) continue;
    add_slice(*sequence, rows, step, record);
    budget -= rows;
  }
}

// First come, first served: a large request at the head of the queue is not overtaken for ever by small ones.
// Only those that wait for a prefix let others pass, who have something to compute meanwhile.
void BatchPlanner::admit() {
  for (auto it = waiting_.begin(); it != waiting_.end() && running() < options_.sequences_max;) {
    Sequence& sequence = *it->second;
    // One block of air for each running sequence, or the next decodes would preempt what was just admitted.
    const CacheLedger::Admission admission = caches_.admit(sequence, std::ssize(running_));
    if (admission == CacheLedger::Admission::kNoRoom) {
      const bool alone = running_.empty() && returning_blocks_ == 0;
      SHOAL_CHECK(!alone);  // An empty cache holds all that waits: CheckFits, again for each generation.
      return;
    }
    if (admission == CacheLedger::Admission::kLater) {
      SHOAL_CHECK(!running_.empty() || !in_flight_.empty());  // Who promised something ends, or writes it.
      ++it;
      continue;
    }
    it = waiting_.erase(it);
    sequence.state = SequenceState::kRunning;
    sequence.begun = false;
    sequence.started = true;
    running_.emplace(sequence.id, &sequence);
  }
}

void BatchPlanner::add_slice(Sequence& sequence, int64_t rows, Step& step, InFlight& record) {
  SHOAL_CHECK_LE(rows, sequence.unscheduled());  // Both callers ask it first.
  if (!sequence.begun) {
    step.begins.push_back({.id = sequence.id,
                           .sampling = sequence.request.sampling,
                           .tokens = sequence.tokens,
                           .prompt_tokens = static_cast<int32_t>(sequence.request.prompt.size())});
    sequence.begun = sequence.known_to_workers = true;
  }
  // The cursor counts on it: the slot that is written next must have been read. So does the scheduler: it
  // composes no step beyond the engine's limit.
  if (limits_.state_slots > 0) SHOAL_CHECK_LT(sequence.steps_in_flight, limits_.steps_in_flight);
  const bool sample = rows == sequence.unscheduled();
  step.slices.push_back(caches_.next_slice(sequence, rows, sample));
  step.slices.back().masked = sample && sequence.masks != nullptr;
  record.named.push_back({sequence.id, sequence.cursor.position()});
  if (sample) record.sampled.push_back(sequence.id);
  sequence.sample_pending = sample;
  sequence.last_step = step.id;
  ++sequence.steps_in_flight;
}

// True when `sequence` has blocks for `positions`. Takes unused cached ones, and then those of the youngest
// sequence if it must, which may be `sequence` itself; false then, or while blocks are on their way back.
bool BatchPlanner::grow(Sequence& sequence, int64_t positions) {
  const int64_t need = BlocksFor(positions) - std::ssize(sequence.cursor.blocks());
  if (need <= 0) return true;
  while (caches_.available() < need) {
    if (returning_blocks_ > 0) return false;
    SHOAL_CHECK_GT(running_.size(), size_t{1});  // Alone it fits: CheckFits, again for each generation.
    Sequence& youngest = *running_.rbegin()->second;
    preempt(youngest);
    if (&youngest == &sequence) return false;
  }
  caches_.give(sequence, need);
  return true;
}

void BatchPlanner::preempt(Sequence& sequence) {
  ++preemptions_;
  requeue(sequence);
}

// Takes its blocks, to begin again from its tokens.
void BatchPlanner::requeue(Sequence& sequence) {
  running_.erase(sequence.id);
  caches_.withdraw(sequence);
  if (sequence.steps_in_flight > 0) {
    sequence.state = SequenceState::kDraining;
    returning_blocks_ += std::ssize(sequence.cursor.blocks());
    ++draining_;
    return;
  }
  caches_.take_back(sequence);
  sequence.state = SequenceState::kWaiting;
  waiting_.emplace(sequence.id, &sequence);
}

void BatchPlanner::end(SeqId id) {
  Sequence* sequence = find(id);
  SHOAL_CHECK(sequence != nullptr);  // The scheduler forgets a request when it ends it.
  if (sequence->known_to_workers) ends_.push_back(id);
  waiting_.erase(id);
  running_.erase(id);
  if (sequence->state == SequenceState::kDraining) {
    --draining_;
  } else if (sequence->steps_in_flight > 0) {
    returning_blocks_ += std::ssize(sequence->cursor.blocks());
  }
  caches_.withdraw(*sequence);
  sequence->sink.reset();
  sequence->state = SequenceState::kEnded;
  if (sequence->steps_in_flight > 0) return;
  caches_.take_back(*sequence);
  sequences_.erase(id);
}

// What a result says of the sequences of its step: a token or an error for each that was sampled, an error
// for any other that failed.
absl::StatusOr<std::vector<BatchPlanner::Outcome>> BatchPlanner::read(const InFlight& record,
                                                                      const StepResult& result) const {
  if (result.id != record.id) {
    return Internal("step {}: expected its result next, got the result of step {}", record.id, result.id);
  }
  std::unordered_set<SeqId> named;
  for (const Named& one : record.named) named.insert(one.id);
  std::unordered_set<SeqId> sampled(record.sampled.begin(), record.sampled.end());
  std::vector<Outcome> outcomes;
  for (const SeqResult& one : result.sequences) {
    const bool fresh = named.erase(one.id) == 1;
    const bool due = sampled.erase(one.id) == 1;
    if (!fresh || (one.status.ok() ? !due || one.tokens.size() != 1 : !one.tokens.empty())) {
      return Internal("step {}: got {} tokens ({}) for sequence {}, which was not to be sampled once in it",
                      result.id, one.tokens.size(), CodeName(one.status.code()), one.id);
    }
    if (!one.status.ok()) {
      outcomes.push_back({one.id, {}, one.status});
      continue;
    }
    const int32_t token = one.tokens[0].id;
    if (token < 0 || token >= limits_.vocabulary) {
      return Internal("step {}: got token {} for sequence {}, outside the vocabulary of {}", result.id, token,
                      one.id, limits_.vocabulary);
    }
    outcomes.push_back({one.id, one.tokens, absl::OkStatus()});
  }
  if (!sampled.empty()) {
    return Internal("step {}: expected tokens for {} sequences, {} are missing", result.id,
                    record.sampled.size(), sampled.size());
  }
  return outcomes;
}

absl::StatusOr<std::vector<BatchPlanner::Outcome>> BatchPlanner::acknowledge(const StepResult& result) {
  SHOAL_CHECK(!in_flight_.empty());  // The scheduler drops results of which it has submitted no step.
  const InFlight& record = in_flight_.front();
  ASSIGN_OR_RETURN(std::vector<Outcome> outcomes, read(record, result));
  for (const Outcome& one : outcomes) {
    // What is wrong with it may be in its blocks.
    if (!one.status.ok()) sequences_.at(one.id)->standing.closed = true;
  }
  std::erase_if(outcomes, [&](const Outcome& one) {
    Sequence* sequence = find(one.id);
    if (sequence == nullptr) return true;  // It ended while the step was in flight.
    if (!one.status.ok()) return false;
    for (const SampledToken& token : one.tokens) sequence->tokens.push_back(token.id);
    sequence->sample_pending = false;
    sequence->losses_in_a_row = 0;
    return false;
  });
  if (record.decodes_only) model_.observe(record.rows, result.timings, record.alone);
  const std::vector<Named> named = record.named;
  in_flight_.pop_front();
  for (const Named& one : named) {
    Sequence& sequence = *sequences_.at(one.id);
    SHOAL_CHECK_GT(sequence.steps_in_flight, 0);  // From our own record of the step, not from its result.
    --sequence.steps_in_flight;
    caches_.wrote(sequence, one.end);
    step_returned(sequence);
  }
  for (const Outcome& one : outcomes) {
    Sequence& sequence = *find(one.id);
    if (one.status.ok() && outgrown(sequence)) requeue(sequence);
  }
  return outcomes;
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
  waiting_.emplace(sequence.id, &sequence);
}

std::vector<std::unique_ptr<Sequence>> BatchPlanner::lose_generation(const LossPolicy& policy) {
  // A failed step fails all later ones: if a sequence is to blame, it is in the oldest.
  if (!in_flight_.empty()) {
    for (const Named& one : in_flight_.front().named) ++sequences_.at(one.id)->losses_in_a_row;
  }
  std::vector<std::unique_ptr<Sequence>> removed;
  for (auto it = sequences_.begin(); it != sequences_.end();) {
    Sequence& sequence = *it->second;
    const bool keep = policy.resume && sequence.losses_in_a_row < policy.losses_in_a_row_max;
    if (sequence.state == SequenceState::kWaiting) {
      ++it;
    } else if (sequence.state != SequenceState::kEnded && keep) {
      sequence.cursor = SequenceCursor();
      sequence.standing = {};
      sequence.steps_in_flight = 0;
      sequence.sample_pending = false;
      sequence.state = SequenceState::kWaiting;
      waiting_.emplace(sequence.id, &sequence);
      ++restarts_;
      ++it;
    } else {
      if (sequence.state != SequenceState::kEnded) removed.push_back(std::move(it->second));
      it = sequences_.erase(it);
    }
  }
  running_.clear();
  in_flight_.clear();
  draining_ = 0;
  returning_blocks_ = 0;
  caches_.reset(limits_);
  forget_workers();
  std::ranges::sort(removed, {}, [](const auto& sequence) { return sequence->id; });
  return removed;
}

// Workers of a new generation know nobody.
void BatchPlanner::forget_workers() {
  ends_.clear();
  for (const auto& [id, sequence] : waiting_) sequence->known_to_workers = false;
}

int BatchPlanner::queued() const {
  return static_cast<int>(
      std::ranges::count_if(waiting_, [](const auto& entry) { return !entry.second->started; }));
}

std::vector<SeqId> BatchPlanner::waiting_ids() const {
  std::vector<SeqId> ids;
  for (const auto& [id, sequence] : waiting_) ids.push_back(id);
  return ids;
}

std::vector<SeqId> BatchPlanner::live_ids() const {
  std::vector<SeqId> ids;
  for (const auto& [id, sequence] : sequences_) {
    if (sequence->state != SequenceState::kEnded) ids.push_back(id);
  }
  return ids;
}

absl::Status BatchPlanner::verify() const {
  std::vector<const Sequence*> all;
  for (const auto& [id, sequence] : sequences_) all.push_back(sequence.get());
  return caches_.verify(all);
}

}  // namespace shoal
