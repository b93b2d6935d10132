// A model on the nodes of a plan in this process.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/status.h"
#include "cluster/local_cluster.h"
#include "exec/model_facts.h"
#include "plan/planner.h"

namespace shoal {

/// A placement of a model.
struct Placed {
  std::string name;
  std::vector<int64_t> split;  ///< Proportions of the layers per node.
  ExpertStrategy experts = ExpertStrategy::kWithLayer;
  bool mtp = false;  ///< As PlanRequest::mtp.
};

inline std::vector<Placed> Placements() {
  return {{"one node", {1}},
          {"two stages", {1, 1}},
          {"experts on another node", {1, 0}, ExpertStrategy::kContiguous},
          {"owning each other's", {1, 1}, ExpertStrategy::kRoundRobin}};
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
                std::shared_ptr<DiskStore> kv_disk = nullptr) {
    LocalCluster::Options options;
    options.weights = model.weights;
    options.plan = PlanFor(placed, model.facts);
    options.limits = {model.spec.max_positions, model.spec.vocabulary, blocks, 512,
                      KeepsState(model.spec) ? 32 : 0};
    options.threads_per_node = threads;
    options.kv_disk = std::move(kv_disk);
    options.isa = SupportedIsas().back();
    auto cluster = LocalCluster::Load(std::move(options));
    SHOAL_CHECK(cluster.ok());
    cluster_ = std::move(*cluster);
    const absl::Status opened = cluster_->open(cluster_->plan(), engine_);
    if (!opened.ok()) ADD_FAILURE() << ToString(opened);
  }
  ~PlacedCluster() { cluster_->close(engine_, Cancelled("done")); }

  /// Gives the step its id.
  std::future<absl::StatusOr<StepResult>> submit(Step step) {
    step.id = next_;
    ++next_.value;
    auto done = std::make_shared<std::promise<absl::StatusOr<StepResult>>>();
    engine_.submit(engine_.state().generation, std::move(step),
                   [done](absl::StatusOr<StepResult> value) { done->set_value(std::move(value)); });
    return done->get_future();
  }
  /// Of the step submitted last.
  void send_masks(std::span<const TokenMask> masks) {
    engine_.send_masks(engine_.state().generation, StepId{next_.value - 1}, masks);
  }
  /// As after a loss: the session ends with its steps, and another one begins, of this plan.
  void reopen(Plan plan) {
    cluster_->close(engine_, Unavailable("the cluster is rebuilt"));
    plan.epoch = Epoch{cluster_->plan().epoch.value + 1};
    const absl::Status opened = cluster_->open(plan, engine_);
    if (!opened.ok()) ADD_FAILURE() << ToString(opened);
    next_ = StepId{1};
  }
  EngineLimits limits() const { return engine_.state().limits; }
  /// For a scheduler, which then gives the steps their ids.
  Engine& engine() { return engine_; }

 private:
  PipelineEngine engine_{kLocalLiveness};
  std::unique_ptr<LocalCluster> cluster_;
  StepId next_{1};
};

}  // namespace shoal
