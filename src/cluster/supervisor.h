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
  /// Ends the session, if there is one: engine.close(why) first, then the nodes. Idempotent.
  virtual void close(PipelineEngine& engine, const absl::Status& why) = 0;
  /// The session that is open goes on without this node of its plan.
  virtual void on_lost(NodeId /*node*/, const absl::Status& /*why*/) {}
  /// Makes an open() in flight return soon: the process is ending. Safe from any thread.
  virtual void interrupt() {}
};

/// "Make me a plan now". Its epoch does not matter. Called from the supervisor's thread.
using PlanSource = std::function<absl::StatusOr<Plan>()>;

/// Why the session that is up is to end now for another plan; nothing where it is to go on. Asked now and then, from the
/// supervisor's thread, while a session is up.
using ReplanAdvice = std::function<std::optional<std::string>()>;

/// Between attempts: the first pause, then half as much again each time. The longest is well below the ten
/// seconds that a request waits for the cluster, so that one that waits for a returning node gets it.
struct RetryPauses {
  Duration first = std::chrono::milliseconds(500);
  Duration max = std::chrono::seconds(5);
};

class Supervisor {
 public:
  Supervisor(SessionHost& host, PipelineEngine& engine, PlanSource make_plan, RetryPauses pauses = {},
             ReplanAdvice advice = {});
  ~Supervisor();

  /// Returns at once. Whatever an attempt fails with, it is tried again; why the last one failed is the
  /// engine's state.
  void start();
  void stop();

  /// Why the last attempt to build a session failed; OK where it did not, or none has ended yet.
  absl::Status last_attempt() const;
  /// The plan of the last attempt; nullptr where none could be made so far.
  std::shared_ptr<const Plan> plan() const;

 private:
  void run();
  absl::Status attempt();
  enum class Ended : uint8_t { kLost, kForAnotherPlan, kStopped };
  /// Until the session ends, which it is to do.
  Ended watch();
  void note(const absl::Status& outcome);
  /// False when stop() was called meanwhile.
  bool pause(Duration duration);

  SessionHost& host_;
  PipelineEngine& engine_;
  const PlanSource make_plan_;
  const RetryPauses pauses_;
  const ReplanAdvice advice_;
  Epoch epoch_{0};
  mutable std::mutex mutex_;  ///< Guards what follows, but for the thread.
  std::condition_variable changed_;
  absl::Status last_attempt_;
  std::shared_ptr<const Plan> plan_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace shoal
