#include "sched/testing/fake_engine.h"

#include <algorithm>

#include "base/random.h"
#include "base/status.h"
#include "kv/block_pool.h"

namespace shoal {

NextTokenFn HashModel(int vocabulary) {
  return
      [vocabulary](std::span<const int32_t> tokens, int32_t prompt_tokens, const SamplingParams& sampling) {
        uint64_t hash = Mix64(sampling.seed ^ static_cast<uint64_t>(prompt_tokens));
        for (const int32_t token : tokens) hash = Mix64(hash ^ static_cast<uint64_t>(token));
        return static_cast<int32_t>(hash % static_cast<uint64_t>(vocabulary));
      };
}

std::vector<int32_t> ExpectedTokens(const NextTokenFn& model, std::vector<int32_t> prompt, int count,
                                    const SamplingParams& sampling) {
  const auto prompt_tokens = static_cast<int32_t>(prompt.size());
  std::vector<int32_t> tokens = std::move(prompt);
  for (int i = 0; i < count; ++i) tokens.push_back(model(tokens, prompt_tokens, sampling));
  return {tokens.begin() + prompt_tokens, tokens.end()};
}

std::vector<float> FakeEmbedding(std::span<const int32_t> tokens, Pool pool) {
  if (pool == Pool::kLast) tokens = tokens.last(1);
  std::vector<float> embedding = {0, static_cast<float>(tokens.size())};
  for (const int32_t token : tokens) embedding[0] += static_cast<float>(token);
  return embedding;
}

SampledToken WithLogprobs(int32_t token, int32_t top) {
  const auto logprob = [](int32_t id) { return -0.25f * static_cast<float>(1 + id % 7); };
  SampledToken sampled{.id = token, .logprob = logprob(token)};
  for (int32_t id = 0; id < top; ++id) sampled.top.push_back({id, logprob(id)});
  return sampled;
}

FakeEngine::FakeEngine(FakeEngineOptions options)
    : FakeEngine(options, HashModel(options.limits.vocabulary)) {}

FakeEngine::FakeEngine(FakeEngineOptions options, NextTokenFn model)
    : options_(options), model_(std::move(model)) {
  state_ = {.status = options_.up ? absl::OkStatus() : Unavailable("node 'fake' is away"),
            .generation = options_.up ? uint64_t{1} : 0,
            .limits = options_.limits};
  disks_.resize(static_cast<size_t>(options_.disks));
  if (options_.threaded) thread_ = std::thread([this] { run(); });
}

FakeEngine::~FakeEngine() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

Engine::State FakeEngine::state() const {
  if (call_hook_) call_hook_(EngineCall::kState);
  return state_now();
}

Engine::State FakeEngine::state_now() const {
  std::lock_guard lock(mutex_);
  return state_;
}

void FakeEngine::notify() {
  std::function<void()> listener;
  {
    std::lock_guard lock(mutex_);
    listener = listener_;
  }
  if (listener) listener();
}

int FakeEngine::in_flight() const {
  std::lock_guard lock(mutex_);
  return static_cast<int>(queue_.size());
}

void FakeEngine::set_state_listener(std::function<void()> listener) {
  std::lock_guard lock(mutex_);
  listener_ = std::move(listener);
}

void FakeEngine::set_kv_listener(KvListener listener) {
  std::lock_guard lock(mutex_);
  kv_listener_ = std::move(listener);
}

void FakeEngine::submit(uint64_t generation, Step step, StepDone done) {
  if (call_hook_) call_hook_(EngineCall::kSubmit);
  absl::Status refused;
  std::function<void()> listener;
  {
    std::lock_guard lock(mutex_);
    if (!state_.status.ok()) {
      refused = state_.status;
    } else if (generation != state_.generation) {
      refused = Unavailable("generation {} has ended, {} is up", generation, state_.generation);
      ++stale_;
    } else {
      check_submitted(step);
      queue_.push_back({std::move(step), std::move(done)});
      in_flight_max_ = std::max(in_flight_max_, static_cast<int>(queue_.size()));
      if (!options_.threaded) listener = listener_;
    }
  }
  if (!refused.ok()) return done(refused);
  wake_.notify_all();
  if (listener) listener();
}

void FakeEngine::send_masks(uint64_t generation, StepId step, std::span<const TokenMask> masks) {
  {
    std::lock_guard lock(mutex_);
    if (!state_.status.ok() || generation != state_.generation) return;
    const auto out = std::ranges::find(queue_, step, [](const Pending& pending) { return pending.step.id; });
    if (out == queue_.end()) return;
    for (const TokenMask& mask : masks) {
      const bool due = std::ranges::any_of(out->step.slices, [&](const SeqSlice& slice) {
        const int64_t row = mask.position - slice.position - 1;
        return slice.masked && slice.id == mask.id && row >= slice.sample_from &&
               row < std::ssize(slice.tokens);
      });
      if (!due || !masks_.emplace(MaskKey(step, mask.id, mask.position), mask).second) {
        violation(fmt::format("step {}: a mask of sequence {}, position {}, that is not due", step, mask.id,
                              mask.position));
      }
    }
  }
  wake_.notify_all();
}

bool FakeEngine::has_masks(const Step& step) const {
  return std::ranges::all_of(step.slices, [&](const SeqSlice& slice) {
    if (!slice.masked) return true;
    for (int64_t row = slice.sample_from; row < std::ssize(slice.tokens); ++row) {
      if (!masks_.contains(MaskKey(step.id, slice.id, slice.position + row + 1))) return false;
    }
    return true;
  });
}

void FakeEngine::give_up(uint64_t generation, const absl::Status& why) {
  if (call_hook_) call_hook_(EngineCall::kGiveUp);
  {
    std::lock_guard lock(mutex_);
    if (!state_.status.ok() || generation != state_.generation) return;
  }
  lose(why);
}

void FakeEngine::check_submitted(const Step& step) {
  if (step.id.value != next_step_) violation(fmt::format("step {} where {} was due", step.id, next_step_));
  next_step_ = step.id.value + 1;
  if (static_cast<int>(queue_.size()) >= options_.limits.steps_in_flight)
    violation("too many steps in flight");
  if (step.slices.empty() && !step.has_orders()) {
    violation(fmt::format("step {} has no rows", step.id));
  }
  rows_max_ = std::max(rows_max_, step.rows());
  check_blocks(step);
  check_slots(step);
  check_restoring(step);
}

// A block that is written belongs to one sequence over all steps in flight: a later step must not reuse what an
// earlier one still names (I12). Those that are only read may be shared.
void FakeEngine::check_blocks(const Step& step) {
  std::unordered_map<BlockId, SeqId> writer;
  const auto each = [&](const auto& look) {
    for (const Pending& pending : queue_) {
      for (const SeqSlice& slice : pending.step.slices) look(slice);
    }
    for (const SeqSlice& slice : step.slices) look(slice);
  };
  each([&](const SeqSlice& slice) {
    const int64_t end = slice.position + std::ssize(slice.tokens);
    for (int64_t block = slice.position / kBlockPositions; block < BlocksFor(end); ++block) {
      writer.try_emplace(slice.blocks[static_cast<size_t>(block)], slice.id);
    }
  });
  each([&](const SeqSlice& slice) {
    for (const BlockId block : slice.blocks) {
      if (block == kNoBlock) continue;
      const auto it = writer.find(block);
      if (it == writer.end() || it->second == slice.id) continue;
      violation(fmt::format("step {}: block {} belongs to sequences {} and {}", step.id, block, it->second,
                            slice.id));
    }
  });
}

// A slot that is written is named by no other slice, and by no step in flight (I12).
void FakeEngine::check_slots(const Step& step) {
  std::unordered_map<SlotId, int> named;
  for (const Pending& pending : queue_) {
    for (const SeqSlice& slice : pending.step.slices) {
      ++named[slice.state_from];
      for (const StateWrite& write : slice.state_to) ++named[write.slot];
    }
  }
  for (const SeqSlice& slice : step.slices) ++named[slice.state_from];
  for (const SeqSlice& slice : step.slices) {
    for (const StateWrite& write : slice.state_to) {
      if (++named[write.slot] == 1) continue;
      violation(
          fmt::format("step {}, sequence {}: slot {} is written and in use", step.id, slice.id, write.slot));
    }
  }
}

void FakeEngine::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [&] {
      if (stopping_ || queue_.empty()) return stopping_;
      return !state_.status.ok() || (!held_ && has_masks(queue_.front().step));
    });
    if (stopping_) return;
    if (state_.status.ok() && options_.step_time > Duration{}) {
      // The state may change meanwhile: then the step is lost, as on a cluster.
      wake_.wait_for(lock, options_.step_time, [&] { return stopping_ || !state_.status.ok(); });
      if (stopping_) return;
    }
    // Lost and up again meanwhile: recover() has ended the step, and another may be the oldest.
    if (queue_.empty() || (state_.status.ok() && !has_masks(queue_.front().step))) continue;
    finish_oldest(lock);
  }
}

bool FakeEngine::run_step() {
  std::unique_lock lock(mutex_);
  const bool complete = wake_.wait_for(lock, std::chrono::seconds(30), [&] {
    return queue_.empty() || !state_.status.ok() || has_masks(queue_.front().step);
  });
  if (queue_.empty()) return false;
  if (!complete) violation(fmt::format("step {}: its masks did not come", queue_.front().step.id));
  finish_oldest(lock);
  return true;
}

void FakeEngine::finish_oldest(std::unique_lock<std::mutex>& lock) {
  Pending pending = std::move(queue_.front());
  queue_.pop_front();
  absl::StatusOr<StepResult> result = absl::UnknownError("none");
  if (state_.status.ok()) {
    result = execute(pending.step);
    if (tamper_) tamper_(*result);
  } else {
    tear(pending.step);
    result = state_.status;
  }
  lock.unlock();
  pending.done(std::move(result));
  while (options_.threaded && run_disk()) {
  }
  lock.lock();
}

StepResult FakeEngine::execute(const Step& step) {
  ++steps_;
  StepResult result{.id = step.id};
  for (const SeqId id : step.ends) {
    ++ends_;
    if (known_.erase(id) == 0) violation(fmt::format("step {}: end of unknown sequence {}", step.id, id));
  }
  for (const NewSequence& begin : step.begins) {
    known_[begin.id] = {begin.sampling, begin.tokens, begin.prompt_tokens};
  }
  execute_saves(step);
  execute_copies(step);
  for (const StoredRun& run : step.restores) execute_restore(run);
  for (const SeqSlice& slice : step.slices) execute_slice(step.id, slice, result);
  masks_.erase(masks_.begin(), masks_.lower_bound(MaskKey(StepId{step.id.value + 1}, SeqId{0}, 0)));
  result.timings.push_back({.node = NodeId{0}, .busy_ns = 1000 * step.rows()});
  return result;
}

void FakeEngine::execute_slice(StepId step, const SeqSlice& slice, StepResult& result) {
  const int64_t end = slice.position + static_cast<int64_t>(slice.tokens.size());
  const auto it = known_.find(slice.id);
  if (it == known_.end() || static_cast<int64_t>(slice.blocks.size()) < BlocksFor(end)) {
    return violation(fmt::format("sequence {}: unknown, or {} blocks for {} positions", slice.id,
                                 slice.blocks.size(), end));
  }
  Known& known = it->second;
  auto cell = [&](int64_t position) {
    return std::pair(slice.blocks[static_cast<size_t>(position / kBlockPositions)].value,
                     position % kBlockPositions);
  };
  for (size_t i = 0; i < slice.tokens.size(); ++i) {
    cells_[cell(slice.position + static_cast<int64_t>(i))] = {slice.tokens[i], slice.long_rope};
  }
  if (slice.long_rope != options_.limits.long_rope(static_cast<int64_t>(known.tokens.size())) ||
      (!slice.long_rope && options_.limits.long_rope(end))) {
    violation(fmt::format("sequence {}: {} tokens, but long_rope is {}", slice.id, known.tokens.size(),
                          slice.long_rope));
  }
  std::vector<int32_t> cached;
  for (int64_t position = 0; position < end; ++position) {
    if (cell(position).first == kNoBlock.value &&
        position < FirstVisible(slice.position, options_.limits.window)) {
      cached.push_back(known.tokens[static_cast<size_t>(position)]);  // Nobody sees it.
      continue;
    }
    const auto held = cells_.find(cell(position));
    const bool usable = held != cells_.end() && held->second.long_rope == slice.long_rope;
    cached.push_back(usable ? held->second.token : -1);
  }
  // Behind the tokens that it knows come drafts.
  const auto common = static_cast<std::ptrdiff_t>(std::min(cached.size(), known.tokens.size()));
  if (!std::equal(cached.begin(), cached.begin() + common, known.tokens.begin())) {
    violation(
        fmt::format("sequence {}: the cache of positions [0, {}) does not hold its tokens", slice.id, end));
  }
  execute_state(slice, cached);
  execute_prompt(slice, known, result);
  if (slice.sample_from == kNoSample) return execute_head(slice, known, result);
  SeqResult sampled{.id = slice.id};
  bool right = true;  // All tokens of the slice so far are those that the sequence has.
  for (auto row = static_cast<int64_t>(slice.sample_from); row < std::ssize(slice.tokens); ++row) {
    const int64_t position = slice.position + row + 1;
    if (row == slice.sample_from && position != std::ssize(known.tokens)) {
      violation(
          fmt::format("sequence {}: sampled after {} of {} tokens", slice.id, position, known.tokens.size()));
    }
    const absl::StatusOr<SampledToken> token =
        sample(step, slice, known, std::span(cached).first(static_cast<size_t>(position)));
    if (!token.ok()) {
      result.sequences.push_back({.id = slice.id, .status = token.status()});
      return;
    }
    if (right) known.tokens.push_back(token->id);
    if (row + 1 < std::ssize(slice.tokens))
      right = right && slice.tokens[static_cast<size_t>(row + 1)] == token->id;
    sampled.tokens.push_back(*token);
  }
  if (result.sequences.empty() || result.sequences.back().id != slice.id) {
    result.sequences.push_back({.id = slice.id});  // Else what is said of its prompt is there.
  }
  result.sequences.back().tokens = std::move(sampled.tokens);
  execute_head(slice, known, result);
}

// The head's layer holds, for each position, the token behind it; but where blocks were shared, that of the sequence
// that wrote the block's last row.
void FakeEngine::execute_head(const SeqSlice& slice, const Known& known, StepResult& result) {
  if (!options_.limits.mtp) {
    if (slice.draft || slice.next_token != kNoToken) violation("a slice asks for drafts that nobody makes");
    return;
  }
  const bool sampled = slice.sample_from != kNoSample;
  const int64_t end = slice.position + std::ssize(slice.tokens);
  const int64_t rows_end = sampled ? std::ssize(known.tokens) - 1 : end;
  const auto cell = [&](int64_t position) -> Cell& {
    return cells_[{slice.blocks[static_cast<size_t>(position / kBlockPositions)].value,
                   position % kBlockPositions}];
  };
  const auto next_of = [&](int64_t position) {
    const auto behind = static_cast<size_t>(position + 1);
    return behind < known.tokens.size() ? known.tokens[behind] : kNoToken;
  };
  if (!sampled && slice.next_token != next_of(end - 1)) {
    violation(fmt::format("sequence {}: {} is to follow position {}, expected {}", slice.id, slice.next_token,
                          end - 1, next_of(end - 1)));
  }
  for (int64_t position = slice.position; position < rows_end; ++position)
    cell(position).next = next_of(position);
  if (!slice.draft) return;
  for (int64_t position = 0; position < rows_end && options_.disks == 0; ++position) {
    const bool shared = (position + 1) % kBlockPositions == 0;
    const BlockId block = slice.blocks[static_cast<size_t>(position / kBlockPositions)];
    if (shared || block == kNoBlock || cell(position).next == next_of(position)) continue;
    violation(
        fmt::format("sequence {}: the head's layer at position {} has taken {} for what follows, not {}",
                    slice.id, position, cell(position).next, next_of(position)));
  }
  int32_t next = model_(known.tokens, known.prompt_tokens, known.sampling);
  const auto at = static_cast<uint64_t>(known.tokens.size());
  if (RandomUniform(slice.id.value, 3, at) >= options_.mtp_right)
    next = (next + 1) % options_.limits.vocabulary;
  result.sequences.back().drafted = {next};
}

absl::StatusOr<SampledToken> FakeEngine::sample(StepId step, const SeqSlice& slice, const Known& known,
                                                std::span<const int32_t> tokens) {
  int32_t next = model_(tokens, known.prompt_tokens, known.sampling);
  if (slice.masked) {
    ++masks_used_;
    ASSIGN_OR_RETURN(next, masked(MaskKey(step, slice.id, std::ssize(tokens)), next));
  }
  if (known.sampling.top_logprobs == kNoLogprobs) return SampledToken{.id = next};
  return WithLogprobs(next, known.sampling.top_logprobs);
}

void FakeEngine::execute_prompt(const SeqSlice& slice, Known& known, StepResult& result) {
  SeqResult of_prompt{.id = slice.id};
  for (size_t i = 0; i < slice.scored.size(); ++i) {
    const size_t position = static_cast<size_t>(slice.position) + i + 1;
    if (position >= known.tokens.size() || known.tokens[position] != slice.scored[i]) {
      violation(
          fmt::format("sequence {}: scored for a token that it does not have at {}", slice.id, position));
    }
    of_prompt.scores.push_back(WithLogprobs(slice.scored[i], std::max(known.sampling.top_logprobs, 0)));
  }
  if (slice.pool == Pool::kSum || slice.pool == Pool::kMean) {
    if (std::ssize(known.pooled) != slice.position) {
      violation(fmt::format("sequence {}: {} rows pooled before position {}", slice.id, known.pooled.size(),
                            slice.position));
    }
    known.pooled.insert(known.pooled.end(), slice.tokens.begin(), slice.tokens.end());
  }
  if (slice.pool == Pool::kMean) of_prompt.embedding = FakeEmbedding(known.pooled, slice.pool);
  if (slice.pool == Pool::kLast) of_prompt.embedding = FakeEmbedding(slice.tokens, slice.pool);
  if (of_prompt.scores.empty() && of_prompt.embedding.empty()) return;
  result.sequences.push_back(std::move(of_prompt));
}

// The first token that the mask allows, from `token` on and then around.
absl::StatusOr<int32_t> FakeEngine::masked(const MaskKey& key, int32_t token) const {
  const auto found = masks_.find(key);
  if (found == masks_.end()) return Internal("sampled without its mask");
  RETURN_IF_ERROR(found->second.status);
  const int32_t vocabulary = options_.limits.vocabulary;
  for (int32_t i = 0; i < vocabulary; ++i) {
    const auto next = static_cast<size_t>((token + i) % vocabulary);
    const std::vector<uint32_t>& words = found->second.words;
    if (next / 32 < words.size() && (words[next / 32] >> (next % 32) & 1) != 0) {
      return static_cast<int32_t>(next);
    }
  }
  return InvalidArgument("the mask allows no token");
}

// A state is what it has seen: all tokens before the slice where it is read, those of the slice, too, where
// it is written.
void FakeEngine::execute_state(const SeqSlice& slice, const std::vector<int32_t>& cached) {
  if (options_.limits.state_slots == 0) {
    if (!slice.state_to.empty()) violation(fmt::format("sequence {}: a state without slots", slice.id));
    return;
  }
  const std::vector<int32_t> before(cached.begin(), cached.begin() + slice.position);
  const auto held = states_.find(slice.state_from);
  if (slice.position > 0 && (held == states_.end() || held->second != before)) {
    violation(fmt::format("sequence {}: slot {} does not hold its state at {}", slice.id, slice.state_from,
                          slice.position));
  }
  if (slice.state_to.empty() || slice.state_to.back().position != std::ssize(cached)) {
    return violation(fmt::format("sequence {}: no slot for its state", slice.id));
  }
  int32_t before_it = slice.position;
  for (const StateWrite& write : slice.state_to) {
    if (write.position <= before_it) {
      violation(fmt::format("sequence {}: a state behind {} tokens", slice.id, write.position));
    }
    before_it = write.position;
    if (write.slot.value < 0 || write.slot.value >= options_.limits.state_slots) {
      violation(fmt::format("sequence {}: there is no slot {}", slice.id, write.slot));
    }
    states_[write.slot].assign(cached.begin(), cached.begin() + write.position);
  }
}

void FakeEngine::hold(bool held) {
  {
    std::lock_guard lock(mutex_);
    held_ = held;
  }
  wake_.notify_all();
}

std::vector<std::string> FakeEngine::violations() const {
  std::lock_guard lock(mutex_);
  return violations_;
}

int64_t FakeEngine::steps() const {
  std::lock_guard lock(mutex_);
  return steps_;
}

int64_t FakeEngine::masks() const {
  std::lock_guard lock(mutex_);
  return masks_used_;
}

int64_t FakeEngine::rows_max() const {
  std::lock_guard lock(mutex_);
  return rows_max_;
}

int FakeEngine::in_flight_max() const {
  std::lock_guard lock(mutex_);
  return in_flight_max_;
}

int64_t FakeEngine::ends() const {
  std::lock_guard lock(mutex_);
  return ends_;
}

int64_t FakeEngine::stale() const {
  std::lock_guard lock(mutex_);
  return stale_;
}

int FakeEngine::known_sequences() const {
  std::lock_guard lock(mutex_);
  return static_cast<int>(known_.size());
}

}  // namespace shoal
