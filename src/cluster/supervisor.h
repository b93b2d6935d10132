// Keeps a session up, the first one as any later one: whenever the engine has none, a plan is made, gets the
// next epoch and goes to the host, until a session is open. The supervisor alone owns the plan in force; one
// process or many is the host's matter.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/ids.h"
#include "exec/pipeline_engine.h"
#include "plan/plan.h"

namespace shoal {

/// Who can build a session over all nodes of a plan. Called from one thread at a time.
class SessionHost {
 public:
  virtual ~SessionHost() = default;
  /// Has every node load its part of `plan`, where it holds another one, opens a session and calls
  /// engine.open(). The plan's epoch is new. On an error nothing is left open.
  virtual absl::Status open(const Plan& plan, PipelineEngine& engine) = 0;
  /// Has every node load what it lacks of `plan`, while the session goes on with another one: an open() of it then loads
  /// nothing. Beside the other calls, and by one thread at a time. ResourceExhausted where both do not fit. A host for
  /// which loading is no matter does nothing.
  virtual absl::Status prepare(const Plan& /*plan*/) { return absl::OkStatus(); }
  /// After prepare() of the plan: does what an open() of it would do before it can end the session that goes on, links
  /// included, so that the open() that follows at once is short. An error says why it would fail, as far as that is known
  /// before; the session may then go on. By the thread that opens and closes. A host that has nothing to do does nothing.
  virtual absl::Status open_ahead(const Plan& /*plan*/) { return absl::OkStatus(); }
  /// Ends the session, if there is one: engine.close(why) first, then the nodes. Idempotent.
  virtual void close(PipelineEngine& engine, const absl::Status& why) = 0;
  /// The session that is open goes on without this node of its plan. Whether another node keeps copies of caches in its
  /// place, which are to be made again (PipelineEngine::copy_again).
  virtual bool on_lost(NodeId /*node*/, const absl::Status& /*why*/) { return false; }
  /// Makes an open() in flight return soon: the process is ending. Safe from any thread.
  virtual void interrupt() {}
};

/// "Make me a plan now". Its epoch does not matter. Called from the supervisor's thread.
using PlanSource = std::function<absl::StatusOr<Plan>()>;

/// Another plan for the session that is up.
struct Replan {
  std::string why;
  Plan plan;  ///< Its epoch does not matter.
  enum class Turn : uint8_t { kWait, kGo, kDrop /* it is not the best any more */ };
  /// Whether the session may end now, asked again and again once all is loaded; empty: it may.
  std::function<Turn()> turn;
  std::function<void()> adopt;  ///< Called when the session ends for it. May be empty.
};
/// Nothing where the session is to go on as it is. Asked now and then, from the supervisor's thread, while a session is
/// up.
using ReplanAdvice = std::function<std::optional<Replan>()>;

/// Between attempts: the first pause, then half as much again each time. The longest is well below the ten
/// seconds that a request waits for the cluster, so that one that waits for a returning node gets it.
struct RetryPauses {
  Duration first = std::chrono::milliseconds(500);
  Duration max = std::chrono::seconds(5);
};

class Supervisor {
 public:
  /// next_change: how long until a plan may be another one, as a node is waited for no longer; a pause ends then. Nothing
  /// where that is not known. May be empty.
  Supervisor(SessionHost& host, PipelineEngine& engine, PlanSource make_plan, RetryPauses pauses = {},
             ReplanAdvice advice = {}, std::function<std::optional<Duration>()> next_change = {});
  ~Supervisor();

  /// Returns at once. Whatever an attempt fails with, it is tried again; why the last one failed is the
  /// engine's state.
  void start();
  void stop();

  /// Why the last attempt to build a session failed; OK where it did not, or none has ended yet.
  absl::Status last_attempt() const;
  /// The plan of the last attempt; nullptr where none could be made so far.
  std::shared_ptr<const Plan> plan() const;
  /// Of the move to another plan that goes on, or failed last: nothing where there is none.
  struct Move {
    std::string why;
    absl::Status failed;  ///< OK: nodes load.
  };
  std::optional<Move> move() const;

 private:
  void run();
  absl::Status attempt();
  absl::Status open(Plan plan);
  /// Asks for advice, or looks after what it led to. Whether the session is to end for next_ now.
  bool ready_to_move();
  void ask_for_advice();
  void begin_move(Replan replan);
  /// Whether the session may end now, asked now and then.
  Replan::Turn turn_of_move();
  /// The move failed: the session goes on, and advice is asked for after `pause`.
  void stay(const absl::Status& why, Duration pause);
  /// Forgets the move. told: what move() says of it from now on.
  void drop_move(std::optional<Move> told);
  enum class Ended : uint8_t { kLost, kForAnotherPlan, kStopped };
  /// Until the session ends, which it is to do.
  Ended watch();
  void note(const absl::Status& outcome);
  /// Before the next attempt: `longest`, or less.
  Duration retry_pause(Duration longest) const;
  /// False when stop() was called meanwhile.
  bool pause(Duration duration);

  SessionHost& host_;
  PipelineEngine& engine_;
  const PlanSource make_plan_;
  const RetryPauses pauses_;
  const ReplanAdvice advice_;
  const std::function<std::optional<Duration>()> next_change_;
  Epoch epoch_{0};
  std::optional<Plan> next_;      ///< For which the session ended.
  Deadline ask_{};                ///< For advice, at the earliest.
  Duration links_pause_{};        ///< After open_ahead() has failed: longer each time, until a session ends.
  std::optional<Replan> replan_;  ///< For which nodes load, or have loaded.
  uint64_t moving_from_ = 0;      ///< The generation that the move was begun in.
  std::thread mover_;             ///< Has nodes load.
  mutable std::mutex mutex_;      ///< Guards what follows, but for the thread.
  std::condition_variable changed_;
  absl::Status last_attempt_;
  std::shared_ptr<const Plan> plan_;
  std::optional<Move> move_;
  std::optional<absl::Status> prepared_;  ///< How the mover ended.
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace shoal
