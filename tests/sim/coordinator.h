// A coordinator process: the scheduler over an engine over a cluster, put together as `shoal serve` does it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "cluster/remote_cluster.h"
#include "cluster/replanner.h"
#include "cluster/supervisor.h"
#include "exec/model_facts.h"
#include "plan/planner.h"
#include "sched/scheduler.h"
#include "slow_backend.h"

namespace shoal::sim {

struct CoordinatorOptions {
  OpenedModel model;
  std::vector<MemberAddress> members;  ///< This process first.
  PlanRequest request;
  int experts_only = 0;  ///< So many of the last workers hold no layers.
  AttendanceRules attendance;
  Duration rejoin_wait{};  ///< A node that is back waits so long for the requests that run.
  int32_t blocks = 0;
  bool buddies = false;  ///< Workers with layers have one.
  SchedulerOptions scheduling;
  std::shared_ptr<const MachinePace> pace;
};

class Coordinator {
 public:
  explicit Coordinator(CoordinatorOptions options);
  ~Coordinator();

  Scheduler& scheduler() { return *scheduler_; }
  const PipelineEngine& engine() const { return engine_; }
  int64_t restored() const { return cluster_->restored(); }
  /// From now on plans do without the worker, or no longer so.
  void drain(int worker, bool drained);

 private:
  absl::StatusOr<Plan> plan_without(const std::vector<bool>& out) const;
  std::vector<MemberReport> reports(const MemberList& members) const;
  absl::StatusOr<Plan> make_plan();
  std::optional<Replanner::Better> better_plan();
  std::optional<Replan> wants_replan();
  bool may_disturb(const Replanner::Better& better) const;

  const CoordinatorOptions options_;
  PipelineEngine engine_;
  Replanner replanner_;
  std::unique_ptr<RemoteCluster> cluster_;
  std::unique_ptr<Supervisor> supervisor_;
  std::unique_ptr<Scheduler> scheduler_;
};

}  // namespace shoal::sim
