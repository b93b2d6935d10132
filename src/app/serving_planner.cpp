#include "app/serving_planner.h"

#include <algorithm>
#include <utility>

#include "app/cluster_status.h"
#include "base/log.h"
#include "base/status.h"

namespace shoal {
namespace {

/// The nodes of a plan file, with what is declared of those of the same names. Node 0 is this process, however
/// it is called.
std::vector<NodeFacts> NodesOf(const Plan& plan, const std::vector<NodeFacts>& declared) {
  std::vector<NodeFacts> nodes;
  for (const PlanNode& node : plan.nodes) {
    const auto known =
        nodes.empty()
            ? declared.begin()
            : std::ranges::find_if(declared, [&](const NodeFacts& facts) { return facts.name == node.name; });
    NodeFacts facts = known == declared.end() ? NodeFacts{} : *known;
    facts.name = node.name;
    facts.address = nodes.empty() ? "" : node.address;
    nodes.push_back(std::move(facts));
  }
  return nodes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ServingPlanner>> ServingPlanner::Create(Options options) {
  std::unique_ptr<ServingPlanner> planner(new ServingPlanner(std::move(options)));
  Placement& placement = planner->options_.placement;
  if (!placement.plan_file.empty()) {
    ASSIGN_OR_RETURN(planner->file_plan_, ResolvePlan(placement, planner->options_.model));
    placement.nodes = NodesOf(*planner->file_plan_, placement.nodes);
    planner->nodes_ = placement.nodes;
  }
  for (size_t i = 1; i < placement.nodes.size(); ++i) {
    if (!placement.nodes[i].address.empty()) continue;
    return InvalidArgument(
        "serve: node '{}' has no address; this process is one node, the others are workers",
        placement.nodes[i].name);
  }
  // Workers that are yet to be asked may have all the memory there is.
  std::vector<NodeFacts> nodes = placement.nodes;
  for (NodeFacts& node : nodes) {
    if (node.memory_bytes == 0) node.memory_bytes = int64_t{1} << 48;
    if (node.compute == 0) node.compute = 1;
  }
  RETURN_IF_ERROR(planner->plan_for(nodes).status());
  return planner;
}

std::vector<MemberAddress> ServingPlanner::members() const {
  std::vector<MemberAddress> list;
  for (const NodeFacts& node : options_.placement.nodes) {
    list.push_back({node.name, list.empty() ? "" : node.address});
  }
  return list;
}

absl::StatusOr<Plan> ServingPlanner::plan_for(const std::vector<NodeFacts>& nodes) const {
  if (file_plan_.has_value()) return *file_plan_;
  PlanRequest request = options_.placement.request;
  request.kv_positions = options_.cache.positions;
  request.sequences = options_.cache.sequences;
  return MakePlan(options_.model, nodes, request);
}

absl::StatusOr<Plan> ServingPlanner::make_plan(Members& members, Deadline deadline) {
  RETURN_IF_ERROR(members.describe(deadline));
  std::vector<NodeFacts> nodes = options_.placement.nodes;
  ApplyFacts(members.status(), nodes);
  ASSIGN_OR_RETURN(Plan plan, plan_for(nodes));
  const std::lock_guard lock(mutex_);
  nodes_ = std::move(nodes);
  if (plan.notes != told_) {
    for (const std::string& note : plan.notes) LogInfo("plan: {}", note);
    told_ = plan.notes;
  }
  return plan;
}

StepLimits ServingPlanner::limits(const Plan& plan) const {
  const CacheSize size =
      DefaultCacheSize(plan, options_.model, nodes(), options_.spec.max_positions, options_.cache);
  return LimitsFor(options_.spec, plan, size, options_.rows_per_step);
}

std::vector<NodeFacts> ServingPlanner::nodes() const {
  const std::lock_guard lock(mutex_);
  return nodes_;
}

}  // namespace shoal
