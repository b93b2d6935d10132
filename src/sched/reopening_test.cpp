// The cluster is lost or rebuilt between any two calls that the scheduler makes to the engine. Whatever the
// moment: every request ends with the bytes of an undisturbed run or with an error that says why, nothing
// leaks, and no step of an old generation is taken for one of a new.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "base/random.h"
#include "base/status.h"
#include "sched/scheduler.h"
#include "sched/testing/fake_engine.h"
#include "sched/testing/recording_sink.h"

namespace shoal {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Setting {
  const char* name;
  EngineLimits limits;
  BatchPlannerOptions batch;
};

void PrintTo(const Setting& setting, std::ostream* out) { *out << setting.name; }

struct Asked {
  GenerationRequest request;
  int wanted = -1;  ///< Tokens after which the sink has enough; negative: never.
};

/// Requests of every kind: long and short prompts, seeds, end-of-text ids, sinks that have enough.
std::vector<Asked> MixedRequests() {
  RandomStream random(11);
  std::vector<Asked> all;
  for (int i = 0; i < 7; ++i) {
    Asked one;
    one.request.prompt.resize(i % 3 == 0 ? 1 + random.below(60) : 1 + random.below(8));
    for (int32_t& token : one.request.prompt) token = static_cast<int32_t>(random.below(101));
    one.request.max_tokens = static_cast<int64_t>(1 + random.below(9));
    one.request.sampling.seed = random.bits();
    one.request.deadline = Deadline::after_ms(60'000);
    if (i == 4) one.request.eos_ids = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20};
    if (i == 5) one.wanted = 3;
    all.push_back(one);
  }
  all[5].request.max_tokens = 9;
  all[6].request.max_tokens = 60;  // Needs three blocks at least.
  return all;
}

std::vector<int32_t> UndisturbedTokens(const Asked& asked) {
  const GenerationRequest& request = asked.request;
  std::vector<int32_t> tokens =
      ExpectedTokens(HashModel(101), request.prompt, static_cast<int>(request.max_tokens), request.sampling);
  tokens.erase(std::ranges::find_first_of(tokens, request.eos_ids), tokens.end());
  if (asked.wanted >= 0) tokens.resize(std::min(tokens.size(), static_cast<size_t>(asked.wanted)));
  return tokens;
}

/// What happens to the engine just before the scheduler's call number `call` (from 1) takes effect.
using Disturbance = std::function<void(FakeEngine& engine, EngineCall kind, int64_t call)>;

/// One run of all requests on an engine without a thread: as each step runs when the scheduler next looks at
/// the state, its calls come in the same order every time.
class Rehearsal {
 public:
  Rehearsal(const Setting& setting, OnLoss on_loss, Disturbance disturb)
      : setting_(setting),
        disturb_(std::move(disturb)),
        engine_({.limits = setting.limits, .up = false, .threaded = false}) {
    engine_.set_call_hook([this](EngineCall kind) { on_call(kind); });
    Scheduler scheduler(engine_, {.batch = setting.batch, .on_loss = on_loss});
    for (const Asked& asked : MixedRequests()) {
      sinks.push_back(std::make_shared<RecordingSink>(asked.wanted));
      EXPECT_TRUE(scheduler.submit(asked.request, sinks.back()).ok());
    }
    // A look at the state that began after the last request had come has it in the queue.
    for (const int64_t seen = looks_; looks_ < seen + 2; std::this_thread::sleep_for(Duration(100'000)))
      scheduler.cancel(RequestId{0});
    armed_ = true;
    scheduler.cancel(RequestId{0});
    for (size_t i = 0; i < sinks.size(); ++i) EXPECT_TRUE(sinks[i]->wait_end()) << "request " << i;
    idle_ = wait_idle(scheduler);
    stats = scheduler.stats();
  }

  /// What holds for every run, disturbed or not.
  void expect_sound() const {
    EXPECT_THAT(engine_.violations(), IsEmpty());
    EXPECT_TRUE(idle_);
    for (const auto& sink : sinks) EXPECT_FALSE(sink->late());
  }

  /// Request i ended as in an undisturbed run.
  bool whole(size_t i) const {
    return sinks[i]->error().ok() && sinks[i]->tokens() == UndisturbedTokens(MixedRequests()[i]);
  }

  int64_t calls() const { return calls_; }
  int64_t stale() const { return engine_.stale(); }
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  SchedulerStats stats;

 private:
  void on_call(EngineCall kind) {
    ++looks_;
    if (!armed_) return;
    if (calls_ == 0) engine_.recover(setting_.limits);
    ++calls_;
    if (disturb_) disturb_(engine_, kind, calls_);
    if (kind == EngineCall::kState) engine_.run_step();
    if (!engine_.state_now().status.ok()) engine_.notify();  // The scheduler need not sleep while it is down.
  }

  bool wait_idle(const Scheduler& scheduler) const {
    const Deadline deadline = Deadline::after_ms(30'000);
    while (!deadline.expired()) {
      const SchedulerStats now = scheduler.stats();
      if (now.running + now.waiting + now.steps_in_flight + now.blocks_used == 0) return true;
      std::this_thread::sleep_for(Duration(100'000));
    }
    return false;
  }

  const Setting setting_;
  const Disturbance disturb_;
  FakeEngine engine_;
  std::atomic<int64_t> looks_{0};
  std::atomic<bool> armed_{false};
  std::atomic<int64_t> calls_{0};
  bool idle_ = false;
};

class Reopening : public ::testing::TestWithParam<Setting> {
 protected:
  /// Runs with a disturbance at each call of an undisturbed run in turn.
  void at_every_call(OnLoss on_loss, const std::function<Disturbance(int64_t at)>& disturbance,
                     const std::function<void(const Rehearsal& run)>& expect) {
    const int64_t calls = Rehearsal(GetParam(), on_loss, {}).calls();
    ASSERT_GT(calls, 20);
    for (int64_t at = 1; at <= calls; ++at) {
      SCOPED_TRACE(testing::Message() << "disturbed at call " << at << " of " << calls);
      const Rehearsal run(GetParam(), on_loss, disturbance(at));
      run.expect_sound();
      expect(run);
      if (HasFailure()) return;
    }
  }

  static void expect_all_whole(const Rehearsal& run) {
    for (size_t i = 0; i < run.sinks.size(); ++i) {
      EXPECT_TRUE(run.whole(i)) << "request " << i << ": " << ToString(run.sinks[i]->error());
    }
  }
};

TEST_P(Reopening, AnUndisturbedRunGivesEachRequestItsTokens) {
  const Rehearsal run(GetParam(), OnLoss::kResume, {});
  run.expect_sound();
  expect_all_whole(run);
  EXPECT_EQ(run.stats.engine_losses, 0);
}

TEST_P(Reopening, AClusterThatIsRebuiltBetweenTwoCallsChangesNoText) {
  const EngineLimits limits = GetParam().limits;
  std::atomic<int64_t> hit_submits{0};
  const auto rebuild = [&](int64_t at) -> Disturbance {
    return [at, limits, &hit_submits](FakeEngine& engine, EngineCall kind, int64_t call) {
      if (call != at) return;
      hit_submits += kind == EngineCall::kSubmit ? 1 : 0;
      engine.recover(limits);
    };
  };
  int64_t stale = 0;
  at_every_call(OnLoss::kResume, rebuild, [&](const Rehearsal& run) {
    expect_all_whole(run);
    stale += run.stale() > 0 ? 1 : 0;
  });
  EXPECT_EQ(stale, hit_submits);  // A step of the old generation is never accepted by the new one.
  EXPECT_GT(stale, 0);
}

TEST_P(Reopening, AClusterThatComesBackWithOtherLimitsChangesNoTextThatStillFits) {
  EngineLimits other = GetParam().limits;
  other.blocks += 3;
  other.steps_in_flight = other.steps_in_flight == 1 ? 4 : 1;
  if (other.state_slots > 0) other.state_slots = 11;
  const auto rebuild = [other](int64_t at) -> Disturbance {
    return [at, other](FakeEngine& engine, EngineCall, int64_t call) {
      if (call == at) engine.recover(other);
    };
  };
  at_every_call(OnLoss::kResume, rebuild, expect_all_whole);
}

TEST_P(Reopening, WhatNoLongerFitsTheRebuiltClusterIsToldWhy) {
  EngineLimits small = GetParam().limits;
  small.blocks = 2;  // Too few for the last request.
  const auto rebuild = [small](int64_t at) -> Disturbance {
    return [at, small](FakeEngine& engine, EngineCall, int64_t call) {
      if (call == at) engine.recover(small);
    };
  };
  const auto needs = [](const Asked& asked) {
    return BlocksFor(std::ssize(asked.request.prompt) + asked.request.max_tokens - 1);
  };
  at_every_call(OnLoss::kResume, rebuild, [&](const Rehearsal& run) {
    const std::vector<Asked> requests = MixedRequests();
    for (size_t i = 0; i < run.sinks.size(); ++i) {
      const absl::Status error = run.sinks[i]->error();
      if (needs(requests[i]) <= small.blocks) {
        EXPECT_TRUE(run.whole(i)) << i << ": " << ToString(error);
      } else if (error.ok()) {
        // It had not begun, and asks for as much as there is room for; or its end was near enough.
        const std::vector<int32_t> got = run.sinks[i]->tokens();
        const std::vector<int32_t> expected = UndisturbedTokens(requests[i]);
        EXPECT_TRUE(
            std::ranges::equal(got, std::span(expected).first(std::min(got.size(), expected.size()))));
      } else {
        EXPECT_EQ(error.code(), absl::StatusCode::kUnavailable);
        EXPECT_THAT(Message(error), HasSubstr("the whole KV cache has 2"));
      }
    }
  });
}

TEST_P(Reopening, CachesThatAreKeptOverALossAtAnyCallChangeNoText) {
  const EngineLimits limits = GetParam().limits;
  const auto lose = [limits](int64_t at) -> Disturbance {
    return [at, limits](FakeEngine& engine, EngineCall, int64_t call) {
      if (call == at) engine.lose(Unavailable("node 'b' is lost"));
      if (call == at + 2) engine.recover_with_caches(limits);
    };
  };
  int64_t kept = 0;
  at_every_call(OnLoss::kResume, lose, [&](const Rehearsal& run) {
    expect_all_whole(run);
    kept += run.stats.prefix_cache.kept;
  });
  EXPECT_GT(kept, 0);
}

TEST_P(Reopening, WhatIsWantedOfTheCachesIsEnoughToGoOnFrom) {
  const EngineLimits limits = GetParam().limits;
  const auto lose = [limits](int64_t at) -> Disturbance {
    return [at, limits](FakeEngine& engine, EngineCall, int64_t call) {
      if (call == at) engine.lose(Unavailable("node 'b' is lost"));
      if (call == at + 4) engine.recover_with_wanted(limits);
    };
  };
  int64_t kept = 0;
  at_every_call(OnLoss::kResume, lose, [&](const Rehearsal& run) {
    expect_all_whole(run);
    kept += run.stats.prefix_cache.kept;
  });
  EXPECT_GT(kept, 0);
}

TEST_P(Reopening, ABuddyThatIsBehindChangesNoText) {
  EngineLimits limits = GetParam().limits;
  limits.copies = true;
  for (const int64_t again : {1'000'000, 13}) {  // Once, and again before all is copied anew.
    const auto lose = [limits, again](int64_t at) -> Disturbance {
      return [at, limits, again](FakeEngine& engine, EngineCall, int64_t call) {
        if (call == 1) engine.recover(limits);
        if (call == at || call == at + again) engine.lose(Unavailable("node 'b' is lost"));
        if (call == at + 4 || call == at + again + 4) engine.recover_with_copies(limits);
      };
    };
    int64_t kept = 0;
    at_every_call(OnLoss::kResume, lose, [&](const Rehearsal& run) {
      expect_all_whole(run);
      kept += run.stats.prefix_cache.kept;
    });
    EXPECT_GT(kept, 0);
  }
}

TEST_P(Reopening, CachesThatAreKeptWithOtherLimitsBetweenTwoCallsChangeNoText) {
  for (const int change : {-1, 2}) {
    EngineLimits other = GetParam().limits;
    other.blocks += change;
    other.steps_in_flight = other.steps_in_flight == 1 ? 4 : 1;
    if (other.state_slots > 0) other.state_slots += change;
    const auto rebuild = [other](int64_t at) -> Disturbance {
      return [at, other](FakeEngine& engine, EngineCall, int64_t call) {
        if (call == at || call == at + 7) engine.recover_with_caches(other);
      };
    };
    at_every_call(OnLoss::kResume, rebuild, expect_all_whole);
  }
}

TEST_P(Reopening, ALossAtAnyCallAndAReturnLaterChangesNoText) {
  const EngineLimits limits = GetParam().limits;
  const auto lose = [limits](int64_t at) -> Disturbance {
    return [at, limits](FakeEngine& engine, EngineCall, int64_t call) {
      if (call == at) engine.lose(Unavailable("node 'b' is lost"));
      if (call == at + 2) engine.recover(limits);
    };
  };
  at_every_call(OnLoss::kResume, lose, expect_all_whole);
}

TEST_P(Reopening, WhereALossFailsWhatRunsEachRequestHasItsTextOrTheReason) {
  const EngineLimits limits = GetParam().limits;
  const auto lose = [limits](int64_t at) -> Disturbance {
    return [at, limits](FakeEngine& engine, EngineCall, int64_t call) {
      if (call == at) engine.lose(Unavailable("node 'b' is lost"));
      if (call == at + 2) engine.recover(limits);
    };
  };
  at_every_call(OnLoss::kFail, lose, [](const Rehearsal& run) {
    const std::vector<Asked> requests = MixedRequests();
    for (size_t i = 0; i < run.sinks.size(); ++i) {
      if (run.sinks[i]->error().ok()) {
        EXPECT_TRUE(run.whole(i)) << i;
        continue;
      }
      EXPECT_EQ(run.sinks[i]->error(), Unavailable("node 'b' is lost"));
      const std::vector<int32_t> got = run.sinks[i]->tokens();
      const std::vector<int32_t> expected = UndisturbedTokens(requests[i]);
      EXPECT_TRUE(std::ranges::equal(got, std::span(expected).first(std::min(got.size(), expected.size()))));
    }
  });
}

TEST_P(Reopening, LossesAgainAndAgainChangeNoTextWhileTokensComeBetween) {
  const EngineLimits limits = GetParam().limits;
  for (const int64_t every : {43, 59, 71}) {
    const Rehearsal run(GetParam(), OnLoss::kResume, [&](FakeEngine& engine, EngineCall, int64_t call) {
      if (call % every == 0) engine.lose(Unavailable("node 'b' is lost"));
      if (call % every == 1) engine.recover(limits);
    });
    run.expect_sound();
    expect_all_whole(run);
    EXPECT_GT(run.stats.engine_losses, 1);
    EXPECT_GT(run.stats.restarts, 1);
  }
}

TEST_P(Reopening, AClusterThatEveryStepBringsDownEndsTheRequestsThatAreInIt) {
  const EngineLimits limits = GetParam().limits;
  const Rehearsal run(GetParam(), OnLoss::kResume, [&](FakeEngine& engine, EngineCall kind, int64_t) {
    if (kind != EngineCall::kState) return;
    if (!engine.state_now().status.ok()) {
      engine.recover(limits);
    } else if (engine.in_flight() > 0) {
      engine.lose(Internal("node 'b' always fails"));
    }
  });
  run.expect_sound();
  for (const auto& sink : run.sinks) {
    EXPECT_EQ(sink->error().code(), absl::StatusCode::kInternal);
    EXPECT_THAT(Message(sink->error()), HasSubstr("5 times in a row"));
    EXPECT_THAT(Message(sink->error()), HasSubstr("node 'b' always fails"));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Settings, Reopening,
    ::testing::Values(
        Setting{"one_stage", {.blocks = 64, .context = 256, .vocabulary = 101}, {.rows_per_step = 32}},
        Setting{"tight_pipeline",
                {.blocks = 5, .context = 256, .steps_in_flight = 3, .vocabulary = 101},
                {.rows_per_step = 24, .sequences_max = 6}},
        Setting{"long_rope",
                {.blocks = 16,
                 .context = 256,
                 .steps_in_flight = 2,
                 .vocabulary = 101,
                 .short_rope_positions = 30},
                {.rows_per_step = 32}},
        Setting{"states",
                {.blocks = 16, .context = 256, .steps_in_flight = 2, .vocabulary = 101, .state_slots = 10},
                {.rows_per_step = 32}}),
    [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace shoal
