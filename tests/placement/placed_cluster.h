// A model on the nodes of a plan in this process.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <future>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/status.h"
#include "cluster/local_cluster.h"
#include "convert/testing/checkpoints.h"
#include "exec/model_facts.h"
#include "placement/running_plan.h"
#include "plan/planner.h"

namespace shoal {

/// A placement of a model.
struct Placed {
  std::string name;
  std::vector<int64_t> split;  ///< Proportions of the layers per node.
  ExpertStrategy experts = ExpertStrategy::kWithLayer;
  bool mtp = false;                        ///< As PlanRequest::mtp.
  Plan::KvDtype kv = Plan::KvDtype::kF16;  ///< As PlanRequest::kv_dtype.
};

inline std::vector<Placed> Placements(Plan::KvDtype kv = Plan::KvDtype::kF16) {
  std::vector<Placed> all = {{"one node", {1}},
                             {"two stages", {1, 1}},
                             {"experts on another node", {1, 0}, ExpertStrategy::kContiguous},
                             {"owning each other's", {1, 1}, ExpertStrategy::kRoundRobin}};
  for (Placed& placed : all) placed.kv = kv;
  return all;
}

/// A family's tiny model with a cache, for tests of what caches do.
struct CachedFamily {
  std::string family;
  Plan::KvDtype kv = Plan::KvDtype::kF16;
  std::string name() const {
    return kv == Plan::KvDtype::kF16 ? family : family + "_" + std::string(Name(kv));
  }
};
inline std::ostream& operator<<(std::ostream& out, const CachedFamily& cached) {
  return out << cached.name();
}

/// Each kind of cache with f16, and one of each kind of attention with int8.
inline std::vector<CachedFamily> CachedFamilies() {
  std::vector<CachedFamily> all;
  for (const std::string& family : FamiliesPerCache()) all.push_back({family});
  for (const std::string& family : FamiliesPerAttention()) all.push_back({family, Plan::KvDtype::kQ8});
  return all;
}

inline Plan PlanFor(const Placed& placed, const ModelFacts& model) {
  PlanRequest request;
  request.strategy = LayerStrategy::kSplit;
  const auto layers = static_cast<int64_t>(model.layers.size());
  const int64_t first = placed.split.size() == 2 && placed.split[1] > 0 ? 2 : layers;
  request.split =
      placed.split.size() == 1 ? std::vector<int64_t>{layers} : std::vector{first, layers - first};
  if (placed.split.size() == 3) request.split = {2, 3, layers - 5};
  request.mtp = placed.mtp;
  request.kv_dtype = placed.kv;
  if (model.top_k > 0) request.experts.strategy = placed.experts;
  std::vector<NodeFacts> nodes;
  for (size_t i = 0; i < placed.split.size(); ++i) nodes.push_back({.name = fmt::format("node-{}", i)});
  const absl::StatusOr<Plan> plan = MakePlan(model, nodes, request);
  if (!plan.ok()) ADD_FAILURE() << ToString(plan.status());
  return *plan;
}

/// A model on its nodes, ready for steps.
class PlacedCluster {
 public:
  PlacedCluster(const OpenedModel& model, const Placed& placed, int32_t blocks = 64, int threads = 2,
                std::shared_ptr<DiskStore> kv_disk = nullptr)
      : running_([&] {
          LocalCluster::Options options = OptionsFor(model, PlanFor(placed, model.facts));
          options.limits.blocks = blocks;
          options.threads_per_node = threads;
          options.kv_disk = std::move(kv_disk);
          return options;
        }()) {}

  /// Gives the step its id.
  std::future<absl::StatusOr<StepResult>> submit(Step step) {
    step.id = next_;
    ++next_.value;
    auto done = std::make_shared<std::promise<absl::StatusOr<StepResult>>>();
    engine().submit(engine().state().generation, std::move(step),
                    [done](absl::StatusOr<StepResult> value) { done->set_value(std::move(value)); });
    return done->get_future();
  }
  /// Of the step submitted last.
  void send_masks(std::span<const TokenMask> masks) {
    engine().send_masks(engine().state().generation, StepId{next_.value - 1}, masks);
  }
  /// As after a loss: the session ends with its steps, and another one begins, of this plan.
  void reopen(Plan plan) {
    LocalCluster& cluster = running_.cluster();
    cluster.close(running_.engine(), Unavailable("the cluster is rebuilt"));
    plan.epoch = Epoch{cluster.plan().epoch.value + 1};
    const absl::Status opened = cluster.open(plan, running_.engine());
    if (!opened.ok()) ADD_FAILURE() << ToString(opened);
    next_ = StepId{1};
  }
  EngineLimits limits() const { return running_.engine().state().limits; }
  /// For a scheduler, which then gives the steps their ids.
  Engine& engine() { return running_.engine(); }

 private:
  RunningPlan running_;
  StepId next_{1};
};

}  // namespace shoal
