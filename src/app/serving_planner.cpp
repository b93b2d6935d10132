#include "app/serving_planner.h"

#include <algorithm>
#include <limits>
#include <set>
#include <string>
#include <utility>

#include "app/cluster_status.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "kv/block_image.h"
#include "plan/predict.h"

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

/// How long one that was lost is asked at most, whatever is left of its grace.
constexpr Duration kAskLostMax = std::chrono::minutes(1);

constexpr Duration kLinksMax = std::chrono::seconds(3);  ///< To measure links before a plan.

/// Lists of the request with an entry for each of so many nodes: who joined beside those that a list is of gets nothing by
/// it. FailedPrecondition where fewer nodes are there than a list is of: more may join.
absl::Status SizeFor(size_t nodes, PlanRequest& request) {
  const auto size = [nodes](auto& list, std::string_view what) -> absl::Status {
    if (list.size() > nodes) {
      return FailedPrecondition("{} is for {} nodes, {} are here: it waits for others to join", what,
                                list.size(), nodes);
    }
    list.resize(nodes);
    return absl::OkStatus();
  };
  if (request.strategy == LayerStrategy::kSplit) return size(request.split, "the split");
  if (request.strategy == LayerStrategy::kCustom) return size(request.proportions, "the list of proportions");
  return absl::OkStatus();
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

absl::StatusOr<int64_t> ParseKvBuddy(const std::string& text) {
  if (text == "off" || text == "0") return 0;
  if (text == "auto") return std::numeric_limits<int64_t>::max();
  const absl::StatusOr<int64_t> bytes = ParseBytes(text);
  if (bytes.ok()) return bytes;
  return InvalidArgument("--kv-buddy: expected off, auto or a size such as 8GiB: {}",
                         Message(bytes.status()));
}

ServingPlanner::~ServingPlanner() {
  if (options_.ledger != nullptr) options_.ledger->erase(options_.identity);
}

std::vector<NodeFacts> ServingPlanner::left_by_others(std::vector<NodeFacts> nodes) const {
  for (NodeFacts& node : nodes) {
    if (node.memory_bytes == 0) continue;  // Unknown.
    int64_t taken = &node == &nodes.front() ? options_.beside_bytes : 0;
    if (options_.ledger != nullptr) taken += options_.ledger->others(options_.identity, node.name);
    node.memory_bytes = std::max<int64_t>(node.memory_bytes - taken, 1);
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
  RETURN_IF_ERROR(planner->check_request());
  planner->replanner_.emplace(planner->options_.attendance);
  return planner;
}

absl::Status ServingPlanner::check_request() const {
  // Workers that are yet to be asked may have all the memory there is.
  std::vector<NodeFacts> nodes = options_.placement.nodes;
  const PlanRequest& request = options_.placement.request;
  if (options_.desk != nullptr && !file_plan_.has_value()) {
    const size_t wanted = std::max({nodes.size() + 1, request.split.size(), request.proportions.size(),
                                    static_cast<size_t>(request.experts.over_nodes),
                                    request.experts.lists.size(), request.segments.shares.size()});
    while (nodes.size() < wanted) nodes.push_back({.name = fmt::format("joins-{}", nodes.size())});
  }
  for (NodeFacts& node : nodes) {
    if (node.memory_bytes == 0) node.memory_bytes = int64_t{1} << 48;
    if (node.compute == 0) node.compute = 1;
  }
  NameAsShares(request.segments, nodes);
  const std::vector<bool> nobody(nodes.size());
  const absl::Status planned = plan_for(left_by_others(std::move(nodes)), {}, nobody).status();
  // More may join than were thought of here.
  return options_.desk != nullptr && absl::IsResourceExhausted(planned) ? absl::OkStatus() : planned;
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
  request.segments = {};
  if (!file_plan_->segments.empty()) request.segments.kind = SegmentRequest::Kind::kAll;
  request.wire_dtype = file_plan_->wire_dtype;
  for (int32_t layer = 0; layer < file_plan_->layers(); ++layer) {
    if (file_plan_->remote_owners(LayerId{layer}).empty()) continue;
    request.experts.strategy = ExpertStrategy::kRoundRobin;
  }
  return request;
}

std::vector<LinkFacts> ServingPlanner::measured_links(Members& members, const std::vector<NodeFacts>& nodes,
                                                      Deadline deadline) {
  const bool predicts =
      !file_plan_.has_value() && options_.placement.request.strategy == LayerStrategy::kFastest;
  if (!predicts || nodes.size() < 2 || !std::ranges::all_of(nodes, HasRates)) return {};
  links_.measure(members, Deadline::min(deadline, Deadline::after(kLinksMax)));
  return links_.links(members);
}

absl::StatusOr<Plan> ServingPlanner::plan_for(const std::vector<NodeFacts>& nodes,
                                              const std::vector<LinkFacts>& links,
                                              const std::vector<bool>& out) const {
  LayerCounts ordered;
  {
    const std::lock_guard lock(mutex_);
    ordered = ordered_;
  }
  if (auto request = request_for(ordered, nodes, out)) {
    absl::StatusOr<Plan> plan = plan_by(*std::move(request), nodes, links, out);
    if (plan.ok()) return plan;  // Else facts have changed since it was ordered.
  }
  return usual_plan_for(nodes, links, out);
}

absl::StatusOr<Plan> ServingPlanner::usual_plan_for(const std::vector<NodeFacts>& nodes,
                                                    const std::vector<LinkFacts>& links,
                                                    const std::vector<bool>& out) const {
  const auto first_out = std::ranges::find(out, true);
  const bool whole = first_out == out.end();
  if (file_plan_.has_value() && whole) return *file_plan_;
  if (file_plan_.has_value() && options_.replan_as == ReplanAs::kAsked) {
    return FailedPrecondition(
        "node '{}' is in the plan file {}: it is waited for; with --replan-as balanced it would not",
        nodes[static_cast<size_t>(first_out - out.begin())].name, options_.placement.plan_file);
  }
  return plan_by(usual_request(), nodes, links, out);
}

absl::StatusOr<Plan> ServingPlanner::plan_by(PlanRequest request, const std::vector<NodeFacts>& nodes,
                                             const std::vector<LinkFacts>& links,
                                             const std::vector<bool>& out) const {
  const bool whole = std::ranges::find(out, true) == out.end();
  request.kv_positions = options_.cache.positions;
  if (request.kv_positions == 0 && (options_.ledger != nullptr || !whole)) {
    request.kv_positions = std::min<int64_t>(kPositionsMin, options_.spec.max_positions);
  }
  request.sequences = options_.cache.sequences;
  request.links = links;
  if (options_.desk != nullptr) RETURN_IF_ERROR(SizeFor(nodes.size(), request));
  ASSIGN_OR_RETURN(const RemainingNodes left, WithoutNodes(nodes, request, out, options_.replan_as));
  return MakePlan(options_.model, left.nodes, left.request);
}

PlanRequest ServingPlanner::usual_request() const {
  return file_plan_.has_value() ? request_like_file() : options_.placement.request;
}

std::optional<PlanRequest> ServingPlanner::request_for(const LayerCounts& layers,
                                                       const std::vector<NodeFacts>& nodes,
                                                       const std::vector<bool>& out) const {
  if (layers.empty()) return std::nullopt;
  PlanRequest request = usual_request();
  request.strategy = LayerStrategy::kSplit;
  request.split.assign(nodes.size(), 0);
  for (const auto& [name, count] : layers) {
    const auto index = static_cast<size_t>(std::ranges::find(nodes, name, &NodeFacts::name) - nodes.begin());
    if (count > 0 && (index == nodes.size() || out[index])) return std::nullopt;
    if (index < nodes.size()) request.split[index] = count;
  }
  return request;
}

absl::Status ServingPlanner::order_layers(Members& members, const LayerCounts& layers) {
  const Present now = present(members);
  std::vector<bool> out;
  for (const MemberReport& report : now.reports) out.push_back(!replanner_->counts_on(report.id));
  for (const auto& [name, count] : layers) {
    const auto found = std::ranges::find(now.reports, name, &MemberReport::name);
    if (found == now.reports.end()) return NotFound("layers: no node is called '{}'", name);
    if (count > 0 && out[static_cast<size_t>(found - now.reports.begin())])
      return FailedPrecondition("layers: node '{}' is to get {}, but plans do without it now", name, count);
  }
  if (auto request = request_for(layers, now.nodes, out)) {
    // Whether there is a plan does not depend on the links: only what it comes to.
    RETURN_IF_ERROR(plan_by(*std::move(request), left_by_others(now.nodes), {}, out).status());
  }
  {
    const std::lock_guard lock(mutex_);
    ordered_ = layers;
  }
  LogInfo("plan: {}",
          layers.empty() ? "layers are divided as the server was asked" : "other layers were asked for");
  replanner_->reorder();
  return absl::OkStatus();
}

void ServingPlanner::follow(Members& members) const {
  if (options_.desk == nullptr) return;
  Roster& roster = options_.desk->roster();
  std::map<std::string, std::string> declared;
  for (const auto& member : members.all()) {
    if (!member->status().joined) declared[member->name()] = member->address();
  }
  roster.reserve(std::move(declared));
  members.follow(roster.members());
}

ServingPlanner::Present ServingPlanner::present(Members& members) const {
  const std::vector<NodeFacts>& declared = options_.placement.nodes;
  Present now{.members = members.all()};
  std::vector<MemberStatus> status;
  for (const auto& member : now.members) {
    status.push_back(member->status());
    const MemberStatus& is = status.back();
    now.nodes.push_back(is.joined ? NodeFacts{.name = is.name, .address = is.address}
                                  : declared[static_cast<size_t>(member->id())]);
    now.reports.push_back({.id = member->id(),
                           .name = is.name,
                           .losses = is.losses,
                           .failures = is.failures,
                           .heard = is.heard});
  }
  ApplyFacts(status, now.nodes);
  return now;
}

std::optional<Replanner::Better> ServingPlanner::better_plan(Members& members, Deadline deadline) {
  replanner_->opened();
  follow(members);
  MemberList asked;
  for (const auto& member : members.all()) {
    if (!replanner_->counts_on(member->id())) {
      asked.push_back(member);
    } else if (options_.desk != nullptr) {
      options_.desk->roster().answered(member->name(), Clock::now());
    }
  }
  std::map<MemberId, absl::Status> answers;
  const std::vector<absl::Status> results = members.describe(asked, deadline);
  for (size_t i = 0; i < asked.size(); ++i) answers[asked[i]->id()] = results[i];
  Present now = present(members);
  for (MemberReport& report : now.reports) {
    if (const auto answer = answers.find(report.id); answer != answers.end()) report.answer = answer->second;
  }
  const std::vector<NodeFacts> nodes = left_by_others(now.nodes);
  const std::vector<LinkFacts> links = measured_links(members, nodes, deadline);
  std::optional<Replanner::Better> better = replanner_->better(
      now.reports, [&](const std::vector<bool>& out) { return plan_for(nodes, links, out); }, Clock::now());
  if (better.has_value()) {
    const std::lock_guard lock(mutex_);
    nodes_ = std::move(now.nodes);
  }
  return better;
}

absl::Status ServingPlanner::drain(Members& members, const std::string& node, bool drained) {
  const Present now = present(members);
  const auto found = std::ranges::find(now.reports, node, &MemberReport::name);
  if (found == now.reports.end()) {
    std::vector<std::string> names;
    for (const MemberReport& report : now.reports) names.push_back(report.name);
    return NotFound("no node is called '{}'; there are {}", node, Join(names, ", "));
  }
  if (found == now.reports.begin()) {
    return InvalidArgument("node '{}' is the coordinator, which no plan can do without", node);
  }
  if (drained) {
    std::vector<bool> out;
    for (const MemberReport& report : now.reports) {
      out.push_back(report.id == found->id || !replanner_->counts_on(report.id));
    }
    // Whether there is a plan does not depend on the links: only which one is the best.
    const absl::Status plan = plan_for(left_by_others(now.nodes), {}, out).status();
    if (!plan.ok())
      return FailedPrecondition("the others can't do without node '{}': {}", node, Message(plan));
  }
  replanner_->drain(found->id, drained);
  return absl::OkStatus();
}

absl::Status ServingPlanner::await_ranks() {
  if (gathered_ || options_.await_ranks == 0) return absl::OkStatus();
  std::set<int> lacking;
  for (int rank = 1; rank <= options_.await_ranks; ++rank) lacking.insert(rank);
  for (const JoinedMember& member : options_.desk->roster().members()) lacking.erase(member.rank.value_or(0));
  gathered_ = lacking.empty();
  if (gathered_) return absl::OkStatus();
  constexpr size_t kNamed = 8;
  std::vector<std::string> names;
  for (const int rank : lacking) {
    if (names.size() < kNamed) names.push_back(std::to_string(rank));
  }
  const std::string more =
      lacking.size() > kNamed ? fmt::format(" and {} more", lacking.size() - kNamed) : "";
  return Unavailable("waiting for rank {}{} of 1 to {} to join", Join(names, ", "), more,
                     options_.await_ranks);
}

absl::StatusOr<Plan> ServingPlanner::make_plan(Members& members, Deadline deadline) {
  RETURN_IF_ERROR(await_ranks());
  follow(members);
  const MemberList asked = members.all();
  const Clock::time_point begin = Clock::now();
  const std::vector<Deadline> until = replanner_->ask_until(
      present(members).reports, begin, Deadline::min(deadline, Deadline{begin + kAskLostMax}));
  const std::vector<absl::Status> answers = members.describe(asked, until);
  if (options_.desk != nullptr) {
    Roster& roster = options_.desk->roster();
    for (size_t i = 0; i < asked.size(); ++i) {
      if (answers[i].ok()) roster.answered(asked[i]->name(), Clock::now());
    }
    for (const std::string& name : roster.forget(Clock::now()))
      LogInfo("worker '{}' is forgotten: it was away for long", name);
  }
  // Nobody follows the roster but this thread: these are the members that were asked.
  Present now = present(members);
  for (size_t i = 0; i < now.reports.size(); ++i) now.reports[i].answer = answers[i];
  const std::vector<NodeFacts> left = left_by_others(now.nodes);
  const std::vector<LinkFacts> links = measured_links(members, left, deadline);
  absl::StatusOr<Plan> plan = replanner_->plan(
      now.reports, [&](const std::vector<bool>& out) { return plan_for(left, links, out); }, Clock::now());
  if (!plan.ok()) {
    const bool may_grow = options_.desk != nullptr && options_.desk->port() != 0;
    return may_grow && absl::IsResourceExhausted(plan.status())
               ? Annotate(plan.status(), "waits for workers to join")
               : plan.status();
  }
  const std::lock_guard lock(mutex_);
  nodes_ = std::move(now.nodes);
  if (plan->notes != told_) {
    for (const std::string& note : plan->notes) LogInfo("plan: {}", note);
    told_ = plan->notes;
  }
  return plan;
}

CacheSize ServingPlanner::cache_of(const Plan& plan) const {
  return DefaultCacheSize(plan, options_.model, left_by_others(nodes()), options_.spec.max_positions,
                          options_.cache);
}

StepLimits ServingPlanner::limits(const Plan& plan) const {
  return LimitsFor(options_.spec, plan, cache_of(plan), options_.rows_per_step);
}

std::vector<KvBuddy> ServingPlanner::buddies(const Plan& plan, const std::vector<bool>& lost) const {
  if (options_.kv_buddy_max == 0) return {};
  const CacheSize size = cache_of(plan);
  const std::vector<NodeFacts> left = left_by_others(nodes());
  const std::vector<NodeCost> costs = NodeCosts(plan, options_.model, {size.positions, size.sequences}, left);
  std::vector<BuddyFacts> facts;
  for (size_t i = 0; i < costs.size(); ++i) {
    // Each image says what it is.
    const int64_t images =
        (size.positions / kBlockPositions + size.sequences * StateSlotsPerSequence(std::ssize(plan.stages))) *
        plan.layers_of(NodeId{static_cast<int32_t>(i)}).size();
    facts.push_back(
        {costs[i].cache_bytes() + images * kImageHeaderBytes, std::numeric_limits<int64_t>::max()});
  }
  for (const NodeFacts& node : left) {
    const std::optional<NodeId> id = plan.find_node(node.name);
    if (!id.has_value() || node.memory_bytes == 0) continue;
    const auto index = static_cast<size_t>(id->value);
    facts[index].spare_bytes = std::max<int64_t>(node.memory_bytes - costs[index].total_bytes(), 0);
  }
  for (size_t i = 0; i < lost.size(); ++i) {
    if (lost[i]) facts[i].spare_bytes = 0;
  }
  return ChooseBuddies(plan, facts, options_.kv_buddy_max);
}

void ServingPlanner::opens(const Plan& plan) const {
  if (options_.ledger == nullptr) return;
  const CacheSize size = cache_of(plan);
  std::map<std::string, int64_t> taken;
  const std::vector<NodeCost> costs =
      NodeCosts(plan, options_.model, {size.positions, size.sequences}, nodes());
  for (size_t i = 0; i < costs.size(); ++i) taken[plan.nodes[i].name] = costs[i].total_bytes();
  taken[options_.placement.nodes.front().name] += options_.beside_bytes;
  for (const KvBuddy& buddy : buddies(plan)) taken[plan.node(buddy.keeper).name] += buddy.bytes_max;
  options_.ledger->set(options_.identity, std::move(taken));
}

absl::StatusOr<Predicted> ServingPlanner::predicted(const Members& members, const Plan* plan) const {
  if (plan == nullptr) return NotFound("no plan was made so far");
  return PredictPlan(*plan, options_.model, nodes(), links_.links(members));
}

PlanGround ServingPlanner::ground(Members& members, Deadline deadline) {
  PlanGround ground{.nodes = left_by_others(present(members).nodes), .request = usual_request()};
  for (const LeftOutMember& out : replanner_->left_out()) {
    std::erase_if(ground.nodes, [&](const NodeFacts& node) { return node.name == out.name; });
  }
  ground.request.kv_positions = options_.cache.positions;
  ground.request.sequences = options_.cache.sequences;
  if (ground.nodes.size() > 1) {
    measure_links(members, deadline);
    ground.request.links = links_.links(members);
  }
  return ground;
}

void ServingPlanner::measure_links(Members& members, Deadline deadline) {
  links_.measure(members, Deadline::min(deadline, Deadline::after(kLinksMax)));
}

absl::StatusOr<Plan> ServingPlanner::usual_plan(Members& members) const {
  const Present now = present(members);
  std::vector<bool> out;
  for (const MemberReport& report : now.reports) out.push_back(!replanner_->counts_on(report.id));
  return usual_plan_for(left_by_others(now.nodes), links_.links(members), out);
}

std::vector<NodeFacts> ServingPlanner::nodes() const {
  const std::lock_guard lock(mutex_);
  return nodes_;
}

}  // namespace shoal
