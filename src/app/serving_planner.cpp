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

/// With fewer positions a model is of no use: better that another makes room, or that a node is waited for.
constexpr int64_t kPositionsMin = 4096;

std::vector<MemberReport> Reports(const std::vector<MemberStatus>& members) {
  std::vector<MemberReport> reports;
  for (const MemberStatus& member : members) {
    reports.push_back({.name = member.name, .losses = member.losses, .failures = member.failures});
  }
  return reports;
}

}  // namespace

absl::Status MemoryLedger::claim(const std::string& model, const std::string& name) {
  const std::lock_guard lock(mutex_);
  const auto [other, fresh] = names_.emplace(model, name);
  if (fresh) return absl::OkStatus();
  return ResourceExhausted(
      "it is the same model as '{}', or over workers a fine-tune of the same, as far as its config and "
      "tensors tell: "
      "they can be loaded by turns only. Two names of one folder are aliases",
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
  if (options_.ledger != nullptr) options_.ledger->erase(options_.identity);
}

std::vector<NodeFacts> ServingPlanner::left_by_others(std::vector<NodeFacts> nodes) const {
  if (options_.ledger == nullptr) return nodes;
  for (NodeFacts& node : nodes) {
    if (node.memory_bytes == 0) continue;  // Unknown.
    node.memory_bytes =
        std::max<int64_t>(node.memory_bytes - options_.ledger->others(options_.identity, node.name), 1);
  }
  return nodes;
}

absl::StatusOr<std::unique_ptr<ServingPlanner>> ServingPlanner::Create(Options options) {
  if (options.ledger != nullptr) {
    RETURN_IF_ERROR(options.ledger->claim(options.identity, options.model.name));
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
  const std::vector<bool> nobody(nodes.size());
  RETURN_IF_ERROR(planner->plan_for(planner->left_by_others(std::move(nodes)), nobody).status());
  planner->replanner_.emplace(placement.nodes.size(), planner->options_.attendance);
  return planner;
}

std::vector<MemberAddress> ServingPlanner::members() const {
  std::vector<MemberAddress> list;
  for (const NodeFacts& node : options_.placement.nodes) {
    list.push_back({node.name, list.empty() ? "" : node.address});
  }
  return list;
}

PlanRequest ServingPlanner::request_like_file() const {
  PlanRequest request = options_.placement.request;
  request.strategy = LayerStrategy::kBalanced;
  request.experts = {};
  for (int32_t layer = 0; layer < file_plan_->layers(); ++layer) {
    if (file_plan_->remote_owners(LayerId{layer}).empty()) continue;
    request.experts.strategy = ExpertStrategy::kRoundRobin;
  }
  return request;
}

absl::StatusOr<Plan> ServingPlanner::plan_for(const std::vector<NodeFacts>& nodes,
                                              const std::vector<bool>& out) const {
  const auto first_out = std::ranges::find(out, true);
  const bool whole = first_out == out.end();
  if (file_plan_.has_value() && whole) return *file_plan_;
  if (file_plan_.has_value() && options_.replan_as == ReplanAs::kAsked) {
    return FailedPrecondition(
        "node '{}' is in the plan file {}: it is waited for; with --replan-as balanced it would not",
        nodes[static_cast<size_t>(first_out - out.begin())].name, options_.placement.plan_file);
  }
  PlanRequest request = file_plan_.has_value() ? request_like_file() : options_.placement.request;
  request.kv_positions = options_.cache.positions;
  if (request.kv_positions == 0 && (options_.ledger != nullptr || !whole)) {
    request.kv_positions = std::min<int64_t>(kPositionsMin, options_.spec.max_positions);
  }
  request.sequences = options_.cache.sequences;
  ASSIGN_OR_RETURN(const RemainingNodes left, WithoutNodes(nodes, request, out, options_.replan_as));
  return MakePlan(options_.model, left.nodes, left.request);
}

std::optional<Replanner::Better> ServingPlanner::better_plan(Members& members, Deadline deadline) {
  replanner_->opened();
  const std::vector<bool> out = replanner_->out();
  const std::vector<Member*> all = members.all();
  std::vector<Member*> asked;
  for (size_t i = 0; i < out.size(); ++i) {
    if (out[i]) asked.push_back(all[i]);
  }
  if (asked.empty()) return std::nullopt;
  const std::vector<absl::Status> answers = members.describe(asked, deadline);
  std::vector<MemberReport> reports = Reports(members.status());
  for (size_t i = 0, next = 0; i < out.size(); ++i) {
    if (out[i]) reports[i].answer = answers[next++];
  }
  std::vector<NodeFacts> nodes = options_.placement.nodes;
  ApplyFacts(members.status(), nodes);
  nodes = left_by_others(std::move(nodes));
  return replanner_->better(
      reports, [&](const std::vector<bool>& still_out) { return plan_for(nodes, still_out); }, Clock::now());
}

absl::StatusOr<Plan> ServingPlanner::make_plan(Members& members, Deadline deadline) {
  const std::vector<absl::Status> answers = members.describe(members.all(), deadline);
  std::vector<MemberReport> reports = Reports(members.status());
  for (size_t i = 0; i < reports.size(); ++i) reports[i].answer = answers[i];
  std::vector<NodeFacts> nodes = options_.placement.nodes;
  ApplyFacts(members.status(), nodes);
  const std::vector<NodeFacts> left = left_by_others(nodes);
  ASSIGN_OR_RETURN(Plan plan, replanner_->plan(
                                  reports, [&](const std::vector<bool>& out) { return plan_for(left, out); },
                                  Clock::now()));
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
    options_.ledger->set(options_.identity, std::move(taken));
  }
  return LimitsFor(options_.spec, plan, size, options_.rows_per_step);
}

std::vector<NodeFacts> ServingPlanner::nodes() const {
  const std::lock_guard lock(mutex_);
  return nodes_;
}

}  // namespace shoal
