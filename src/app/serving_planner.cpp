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

/// With fewer positions a model is of no use: better that another makes room.
constexpr int64_t kPositionsMin = 4096;

}  // namespace

absl::Status MemoryLedger::claim(const std::string& model, const std::string& name) {
  const std::lock_guard lock(mutex_);
  const auto [other, fresh] = names_.emplace(model, name);
  if (fresh) return absl::OkStatus();
  return InvalidArgument("'{}' and '{}' are the same model; give one of them two names with aliases", name,
                         other->second);
}

void MemoryLedger::set(const std::string& model, std::map<std::string, int64_t> bytes) {
  const std::lock_guard lock(mutex_);
  bytes_[model] = std::move(bytes);
}

void MemoryLedger::erase(const std::string& model) {
  const std::lock_guard lock(mutex_);
  bytes_.erase(model);
  names_.erase(model);
}

int64_t MemoryLedger::others(const std::string& model, const std::string& node) const {
  const std::lock_guard lock(mutex_);
  int64_t sum = 0;
  for (const auto& [name, bytes] : bytes_) {
    if (name == model) continue;
    if (const auto found = bytes.find(node); found != bytes.end()) sum += found->second;
  }
  return sum;
}

ServingPlanner::~ServingPlanner() {
  if (options_.ledger != nullptr) options_.ledger->erase(options_.model.hash);
}

std::vector<NodeFacts> ServingPlanner::left_by_others(std::vector<NodeFacts> nodes) const {
  if (options_.ledger == nullptr) return nodes;
  for (NodeFacts& node : nodes) {
    if (node.memory_bytes == 0) continue;  // Unknown.
    node.memory_bytes =
        std::max<int64_t>(node.memory_bytes - options_.ledger->others(options_.model.hash, node.name), 1);
  }
  return nodes;
}

absl::StatusOr<std::unique_ptr<ServingPlanner>> ServingPlanner::Create(Options options) {
  if (options.ledger != nullptr) {
    RETURN_IF_ERROR(options.ledger->claim(options.model.hash, options.model.name));
  }
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
  RETURN_IF_ERROR(planner->plan_for(planner->left_by_others(std::move(nodes))).status());
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
  if (request.kv_positions == 0 && options_.ledger != nullptr) {
    request.kv_positions = std::min<int64_t>(kPositionsMin, options_.spec.max_positions);
  }
  request.sequences = options_.cache.sequences;
  return MakePlan(options_.model, nodes, request);
}

absl::StatusOr<Plan> ServingPlanner::make_plan(Members& members, Deadline deadline) {
  RETURN_IF_ERROR(members.describe(deadline));
  std::vector<NodeFacts> nodes = options_.placement.nodes;
  ApplyFacts(members.status(), nodes);
  ASSIGN_OR_RETURN(Plan plan, plan_for(left_by_others(nodes)));
  const std::lock_guard lock(mutex_);
  nodes_ = std::move(nodes);
  if (plan.notes != told_) {
    for (const std::string& note : plan.notes) LogInfo("plan: {}", note);
    told_ = plan.notes;
  }
  return plan;
}

StepLimits ServingPlanner::limits(const Plan& plan) const {
  const CacheSize size = DefaultCacheSize(plan, options_.model, left_by_others(nodes()),
                                          options_.spec.max_positions, options_.cache);
  if (options_.ledger != nullptr) {
    std::map<std::string, int64_t> taken;
    const std::vector<NodeCost> costs = NodeCosts(plan, options_.model, {size.positions, size.sequences});
    for (size_t i = 0; i < costs.size(); ++i) taken[plan.nodes[i].name] = costs[i].total_bytes();
    options_.ledger->set(options_.model.hash, std::move(taken));
  }
  return LimitsFor(options_.spec, plan, size, options_.rows_per_step);
}

std::vector<NodeFacts> ServingPlanner::nodes() const {
  const std::lock_guard lock(mutex_);
  return nodes_;
}

}  // namespace shoal
