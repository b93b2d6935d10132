// The engine of a draft model without a model: what it drafts is a function of the tokens that it reads back from fake
// blocks. A step is computed within submit().
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "exec/engine.h"
#include "kv/block_pool.h"
#include "sched/testing/fake_engine.h"

namespace shoal {

class FakeDraftEngine : public Engine {
 public:
  FakeDraftEngine(EngineLimits limits, NextTokenFn model) : model_(std::move(model)) {
    state_ = {.status = absl::OkStatus(), .generation = 1, .limits = limits};
  }

  State state() const override {
    std::lock_guard lock(mutex_);
    return state_;
  }
  void submit(uint64_t generation, Step step, StepDone done) override {
    std::unique_lock lock(mutex_);
    if (generation != state_.generation || !state_.status.ok()) {
      lock.unlock();
      return done(absl::UnavailableError("not up"));
    }
    if (hangs) {
      unanswered_.push_back(std::move(done));
      return;
    }
    StepResult result = execute(step);
    lock.unlock();
    done(std::move(result));
  }
  void send_masks(uint64_t, StepId, std::span<const TokenMask>) override {}
  void give_up(uint64_t generation, const absl::Status& why) override {
    std::lock_guard lock(mutex_);
    if (generation == state_.generation) state_.status = why;
  }
  void set_state_listener(std::function<void()> listener) override { listener_ = std::move(listener); }

  /// What a step gives.
  StepResult execute(const Step& step) {
    StepResult result{.id = step.id};
    if (step.id.value != ++steps_) violation(fmt::format("step {} where {} was due", step.id, steps_));
    for (const SeqId id : step.ends) {
      if (known_.erase(id) == 0) violation(fmt::format("end of unknown sequence {}", id));
    }
    for (const NewSequence& one : step.begins) known_[one.id] = one;
    if (step.rows() == 0 || step.rows() > kDraftStepRows) violation(fmt::format("{} rows", step.rows()));
    for (const SeqSlice& slice : step.slices) execute_slice(slice, result);
    if (tamper) tamper(result);
    return result;
  }

  /// Up again with empty caches, as a new generation.
  void recover() {
    {
      std::lock_guard lock(mutex_);
      state_.status = absl::OkStatus();
      ++state_.generation;
      steps_ = 0;
      known_.clear();
      cells_.clear();
    }
    listener_();
  }
  void lose() {
    {
      std::lock_guard lock(mutex_);
      state_.status = absl::UnavailableError("lost");
    }
    listener_();
  }

  std::vector<std::string> violations() const {
    std::lock_guard lock(mutex_);
    return violations_;
  }
  size_t known_sequences() const { return known_.size(); }
  uint64_t steps() const { return steps_; }
  std::function<void(StepResult&)> tamper;  ///< Changes results before they are told.
  std::atomic<bool> hangs{false};           ///< No step ends.

 private:
  void execute_slice(const SeqSlice& slice, StepResult& result) {
    const auto end = slice.position + std::ssize(slice.tokens);
    const auto found = known_.find(slice.id);
    if (found == known_.end() || std::ssize(slice.blocks) < BlocksFor(end)) {
      return violation(fmt::format("sequence {}: unknown, or without blocks for {}", slice.id, end));
    }
    std::vector<int32_t> cached;
    for (int64_t position = 0; position < end; ++position) {
      const std::pair cell(slice.blocks[static_cast<size_t>(position / kBlockPositions)],
                           position % kBlockPositions);
      if (position >= slice.position) {
        cells_[cell] = {slice.tokens[static_cast<size_t>(position - slice.position)], slice.long_rope};
      }
      const auto held = cells_.find(cell);
      const bool usable = held != cells_.end() && held->second.second == slice.long_rope;
      cached.push_back(usable ? held->second.first : -1);
    }
    if (!slice.long_rope && state_.limits.long_rope(end)) violation("long, with short rope");
    if (slice.sample_from == kNoSample) return;
    // As TokenHistory::place: what is drawn must be drawn with all tokens known.
    std::vector<int32_t>& history = found->second.tokens;
    if (std::ssize(history) < slice.position)
      violation(fmt::format("sequence {}: a gap in its history", slice.id));
    history.resize(static_cast<size_t>(slice.position));
    history.insert(history.end(), slice.tokens.begin(), slice.tokens.end());
    if (history != cached)
      violation(fmt::format("sequence {}: the cache does not hold its tokens", slice.id));
    const int32_t token =
        model_(cached, found->second.prompt_tokens, found->second.sampling) % state_.limits.vocabulary;
    result.sequences.push_back({.id = slice.id, .tokens = {{.id = token}}});
  }
  void violation(std::string text) { violations_.push_back(std::move(text)); }

  const NextTokenFn model_;
  mutable std::mutex mutex_;
  State state_;
  std::function<void()> listener_ = [] {};
  std::vector<StepDone> unanswered_;
  uint64_t steps_ = 0;
  std::unordered_map<SeqId, NewSequence> known_;
  std::map<std::pair<BlockId, int64_t>, std::pair<int32_t, bool>> cells_;
  std::vector<std::string> violations_;
};

}  // namespace shoal
