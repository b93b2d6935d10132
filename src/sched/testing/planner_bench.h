// A batch planner over an engine that runs a step when it is told to, for tests of what the planner has steps do.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "sched/batch_planner.h"
#include "sched/testing/fake_engine.h"

namespace shoal {

/// Sequences end after as many tokens as they may have.
class PlannerBench {
 public:
  explicit PlannerBench(const EngineLimits& limits, const BatchPlannerOptions& options = {}, int disks = 0)
      : engine_({.limits = limits, .threaded = false, .disks = disks}), planner_(options), limits_(limits) {
    planner_.reset(limits);
  }
  PlannerBench(const PlannerBench&) = delete;
  PlannerBench& operator=(const PlannerBench&) = delete;
  virtual ~PlannerBench() {
    EXPECT_THAT(engine_.violations(), ::testing::IsEmpty());
    const absl::Status sound = planner_.verify();
    EXPECT_TRUE(sound.ok()) << ToString(sound);
  }

  SeqId add(std::vector<int32_t> prompt, int64_t max_tokens) {
    auto sequence = std::make_unique<Sequence>();
    sequence->id = SeqId{next_sequence_++};
    sequence->request.prompt = std::move(prompt);
    sequence->request.max_tokens = max_tokens;
    sequence->request.party = party;
    sequence->request.priority = priority;
    sequence->tokens = sequence->request.prompt;
    const SeqId id = sequence->id;
    planner_.enqueue(std::move(sequence));
    return id;
  }
  /// Puts a step in flight; false if there is none.
  bool submit() {
    std::optional<Step> step = planner_.compose(next_step_);
    if (!step.has_value()) return false;
    ++next_step_.value;
    rows += step->rows();
    for (const SeqSlice& slice : step->slices) {
      rows_of[slice.id] += std::ssize(slice.tokens);
      cached_tokens.emplace(slice.id, slice.position);  // Where its first slice begins.
    }
    copies.insert(copies.end(), step->copies.begin(), step->copies.end());
    engine_.submit(generation_, *std::move(step), [this](absl::StatusOr<StepResult> result) {
      if (result.ok()) results_.push_back(*std::move(result));  // Else it was lost with its generation.
    });
    return true;
  }
  /// The oldest step comes back; false if none is in flight.
  bool acknowledge() {
    if (!engine_.run_step()) return false;
    StepResult result = std::move(results_.front());
    results_.pop_front();
    if (tamper) tamper(result);
    const auto outcomes = planner_.acknowledge(result);
    EXPECT_TRUE(outcomes.ok()) << ToString(outcomes.status());
    if (!outcomes.ok()) return false;
    for (const BatchPlanner::Outcome& one : *outcomes) {
      EXPECT_TRUE(one.status.ok() || tamper) << ToString(one.status);
      const Sequence& sequence = *planner_.find(one.id);
      if (one.status.ok() && sequence.generated() < sequence.request.max_tokens) continue;
      finish(one.id);
    }
    return true;
  }
  /// It ends now; what it has generated so far is its answer.
  void finish(SeqId id) {
    const Sequence& sequence = *planner_.find(id);
    answers[id].assign(sequence.tokens.begin() + std::ssize(sequence.request.prompt), sequence.tokens.end());
    prompts[id] = sequence.request.prompt;
    planner_.end(id);
  }
  /// Until nothing is left to do.
  virtual void run() = 0;
  /// The answer to a prompt, with nothing else running.
  std::vector<int32_t> ask(std::vector<int32_t> prompt, int64_t max_tokens) {
    const SeqId id = add(std::move(prompt), max_tokens);
    run();
    return answers[id];
  }
  /// All answers are those of the pseudo-model.
  void expect_right_answers() const {
    for (const auto& [id, answer] : answers) {
      EXPECT_EQ(answer, ExpectedTokens(HashModel(limits_.vocabulary), prompts.at(id),
                                       static_cast<int>(answer.size())))
          << "sequence " << id.value;
    }
  }
  SeqId last() const { return SeqId{next_sequence_ - 1}; }
  BatchPlanner& planner() { return planner_; }
  const CacheLedger& caches() const { return planner_.caches(); }

  std::string party;  // Of what is added.
  int priority = 0;
  int64_t rows = 0;
  std::map<SeqId, int64_t> rows_of;
  std::map<SeqId, int64_t> cached_tokens;
  std::map<SeqId, std::vector<int32_t>> answers;
  std::map<SeqId, std::vector<int32_t>> prompts;
  std::vector<CachedPlace> copies;  // Ordered so far.
  std::function<void(StepResult&)> tamper;

 protected:
  /// After BatchPlanner::lose_generation(); the engine has yet to be told.
  void begin_generation(const EngineLimits& limits, KeptCaches kept = KeptCaches::kNone,
                        const std::vector<uint64_t>& missing = {}) {
    results_.clear();
    ++generation_;
    next_step_ = StepId{1};
    planner_.reset(limits, kept, missing);
  }

 private:
  std::deque<StepResult> results_;

 protected:
  FakeEngine engine_;
  BatchPlanner planner_;
  const EngineLimits limits_;
  uint64_t generation_ = 1;

 private:
  uint64_t next_sequence_ = 1;
  StepId next_step_{1};
};

}  // namespace shoal
