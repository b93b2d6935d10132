// The scheduler: one thread that owns all sequences, puts them into steps, hands the steps to the engine and
// the tokens to the requests' sinks. Everybody else only leaves events in its mailbox.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "exec/engine.h"
#include "kv/block_pool.h"
#include "sched/batch_planner.h"
#include "sched/draft_runner.h"
#include "sched/mask_pool.h"
#include "sched/request.h"
#include "sched/wait_predictor.h"

namespace shoal {

/// What becomes of requests that have begun when the cluster is lost.
enum class OnLoss : uint8_t {
  kFail,    ///< They end with the error.
  kResume,  ///< They wait for the cluster, each until its own deadline, and go on with the same bytes.
};

struct SchedulerOptions {
  BatchPlannerOptions batch;
  int queue_max = 256;  ///< Sequences that may wait; with so many, a further request is refused.
  OnLoss on_loss = OnLoss::kResume;
  /// Of a small model that drafts, where batch.draft_max is not 0; nullptr: none. Outlives the scheduler, which takes
  /// its state listener.
  Engine* draft_engine = nullptr;
  /// A step of a small model that takes longer hangs, and the sequences that wait for its drafts go on.
  Duration draft_step_timeout = std::chrono::seconds(30);
  int mask_threads = 2;  ///< At most so many compute masks, beside the steps.
  /// How long a request that has not begun waits for an engine that is down before it fails with Unavailable.
  Duration engine_wait = std::chrono::seconds(10);
  /// Called from the scheduler's thread; must not block. May be empty.
  std::function<void(const StepObservation&)> on_step;
  bool tell_steps = false;  ///< Sinks are told of the steps that they have a part in.
};

struct SchedulerStats {
  absl::Status engine;  ///< OK while steps can be submitted.
  EngineLimits limits;  ///< Of the last engine that was up; zeros before.
  int waiting = 0;      ///< Requests without blocks: new, preempted, or kept while the engine is down.
  int running = 0;
  int steps_in_flight = 0;
  int blocks_total = 0;
  int blocks_free = 0;
  int blocks_used = 0;    ///< By sequences.
  int blocks_cached = 0;  ///< Kept for sequences to come. Free + used + cached = total.
  int positions_per_block = kBlockPositions;
  int64_t steps = 0;
  int64_t rows = 0;  ///< Token rows computed, re-prefills included.
  int64_t tokens_generated = 0;
  int64_t preemptions = 0;
  int64_t engine_losses = 0;
  int64_t restarts = 0;  ///< Begun requests that were kept over an engine loss.
  PrefixCacheStats prefix_cache;
  DraftTotals drafts;        ///< From all sources.
  DraftTotals model_drafts;  ///< Those of the draft model.
  DraftTotals mtp_drafts;    ///< Those of the model's head for multi-token prediction.
  DraftModelStats draft_model;
  double place_wait_s = 0;  ///< Predicted, until a full queue has a place again.
  double queue_wait_s = 0;  ///< Predicted, until a request that comes now begins.
  DiskTierStats kv_disk;
};

class Scheduler {
 public:
  /// `engine` must outlive the scheduler. Takes the engine's state listener.
  Scheduler(Engine& engine, SchedulerOptions options);
  /// Stops first.
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  /// Queues a request, whose choices are `choices`, at least one; from then on `sink` is told of it, from the
  /// scheduler's thread, until the last on_finish, or on_error. On an error `sink` is never called:
  /// QueueFull if the queue is full, InvalidArgument if a choice can never fit the context or the
  /// cache or has a token that the model does not know (where no engine has been up yet that verdict comes
  /// through the sink), Cancelled after stop().
  absl::StatusOr<RequestId> submit(std::vector<GenerationRequest> choices, std::shared_ptr<EventSink> sink);
  /// A request of one choice.
  absl::StatusOr<RequestId> submit(GenerationRequest request, std::shared_ptr<EventSink> sink);

  /// Ends a request with all its choices (on_error with Cancelled) and frees its blocks as soon as no step in
  /// flight names them. A request that has ended already, or never was, is left alone.
  void cancel(RequestId id);

  /// cancel(id), for callers that may outlive the scheduler.
  std::function<void()> canceller(RequestId id) const;

  /// When a sink is told the end of its request, its blocks and counters are in here already.
  SchedulerStats stats() const;

  /// Ends every request with Cancelled and joins the thread. Idempotent.
  void stop();

 private:
  struct Mailbox;
  struct Event;
  struct Submitted {
    int64_t rows = 0;
    int64_t at_ns = 0;
    std::vector<SeqId> sequences = {};  // Only where sinks are told of steps.
  };

  void run();
  void handle(Event& event);
  void handle_submit(Event& event);
  void handle_step_end(Event& event);
  void handle_kv_report(const Event& event);
  void refresh_engine();
  void engine_started(const Engine::State& state);
  void refuse_misfits();
  void want_caches();
  /// trust_caches: as LossPolicy.
  void lose_engine(const absl::Status& status, bool trust_caches = true);
  void expire();
  void expire_one(const Sequence& sequence, Clock::time_point now);
  Clock::time_point gives_up_at(const Sequence& sequence) const;
  void submit_steps();
  void announce(const Step& step);
  void submit(Step step);
  static void release_ends(Sequence& sequence);
  void tell_step(const Submitted& submitted, const StepObservation& step) const;
  void deliver(const BatchPlanner::Outcome& outcome);
  void finish(SeqId id, FinishReason reason);
  void fail(RequestId id, const absl::Status& status);
  void fail_all(const std::vector<RequestId>& ids, const absl::Status& status);
  void tick();
  void check_integrity() const;
  void publish();
  void predict_waits(SchedulerStats& stats) const;
  Clock::time_point next_wake() const;

  Engine& engine_;
  const SchedulerOptions options_;
  std::shared_ptr<Mailbox> mailbox_;
  MaskPool mask_pool_;

  // All below belongs to the thread.
  BatchPlanner batch_planner_;
  DraftRunner draft_runner_;
  bool engine_up_ = false;
  absl::Status engine_status_;
  std::optional<uint64_t> generation_;  // Of the steps submitted.
  uint64_t wanted_of_ = 0;        // The generation of which the engine was told what is wanted of its caches.
  uint64_t copy_rounds_ = 0;      // Engine::State's, as last seen of the generation.
  bool generation_lost_ = false;  // A step of it failed, or was given up.
  Clock::time_point down_since_;
  bool limits_known_ = false;  // totals_.limits are those of an engine.
  StepId next_step_{1};
  struct Live {
    std::shared_ptr<EventSink> sink;
    std::vector<SeqId> open;  // Choices that have not ended, by index.
  };
  std::unordered_map<RequestId, Live> live_;  // The requests that have not ended.
  int arriving_ = 0;                          // Sequences taken from the mailbox and not yet handled.
  Clock::time_point ticked_at_;
  std::vector<Submitted> submitted_;  // Of the steps in flight, oldest first.
  int64_t step_ended_ns_ = 0;         // When the last step came back.
  WaitPredictor waits_;
  SchedulerStats totals_;  // Its counters.
  std::thread thread_;
};

}  // namespace shoal
