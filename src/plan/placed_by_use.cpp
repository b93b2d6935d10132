#include "plan/placed_by_use.h"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "plan/cost.h"
#include "plan/expert_assignment.h"
#include "plan/holder_choice.h"

namespace shoal {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();
constexpr int64_t kPositionsMin = 4096;  // Of a cache: replicas take nothing from that.

bool HasUse(const PlanRequest& request) {
  return request.experts.stats != nullptr && !request.experts.stats->empty();
}

/// Whether the strategy gives experts other owners by their use.
bool MovesOwners(const ExpertRequest& request) {
  return request.strategy == ExpertStrategy::kByLoad || request.strategy == ExpertStrategy::kByLocality;
}

/// The facts of the plan's nodes, by NodeId.
std::vector<NodeFacts> FactsOf(const Plan& plan, const std::vector<NodeFacts>& nodes) {
  std::vector<NodeFacts> facts;
  for (const PlanNode& node : plan.nodes) {
    const auto found = std::ranges::find(nodes, node.name, &NodeFacts::name);
    facts.push_back(found == nodes.end() ? NodeFacts{.name = node.name} : *found);
  }
  return facts;
}

/// How fast nodes compute experts: what they were measured to read, else their compute, where all say so; else all the
/// same.
std::vector<double> RatesOf(const std::vector<NodeFacts>& facts) {
  const bool measured = std::ranges::all_of(
      facts, [](const NodeFacts& node) { return node.rates.has_value() && node.rates->read_gbs > 0; });
  const bool stated = std::ranges::all_of(facts, [](const NodeFacts& node) { return node.compute > 0; });
  std::vector<double> rates;
  for (const NodeFacts& node : facts)
    rates.push_back(measured ? node.rates->read_gbs : stated ? node.compute : 1.0);
  return rates;
}

/// The nodes that may hold experts under the request, by NodeId: of the first `over_nodes` of all that may.
std::vector<bool> MayHold(const Plan& plan, const std::vector<NodeFacts>& nodes,
                          const ExpertRequest& request) {
  std::vector<bool> may(plan.nodes.size());
  int32_t counted = 0;
  for (const NodeFacts& node : nodes) {
    if (!node.may_hold_experts || (request.over_nodes > 0 && counted == request.over_nodes)) continue;
    ++counted;
    if (const std::optional<NodeId> id = plan.find_node(node.name))
      may[static_cast<size_t>(id->value)] = true;
  }
  return may;
}

/// Bytes that each node has left, beside what the plan gives it and a cache of this size.
std::vector<int64_t> SpareBytes(const Plan& plan, const ModelFacts& model,
                                const std::vector<NodeFacts>& facts, int64_t reserve_bytes,
                                const CacheSize& cache) {
  const std::vector<NodeCost> costs = NodeCosts(plan, model, cache);
  std::vector<int64_t> spare;
  for (size_t i = 0; i < facts.size(); ++i) {
    spare.push_back(facts[i].memory_bytes == 0 ? kUnlimited
                                               : std::max<int64_t>(0, facts[i].memory_bytes - reserve_bytes -
                                                                          costs[i].total_bytes()));
  }
  return spare;
}

/// Gives the experts of a plan other owners, layer by layer.
class OwnersByUse {
 public:
  OwnersByUse(const ModelFacts& model, const std::vector<NodeFacts>& nodes, const PlanRequest& request,
              Plan& plan)
      : model_(model),
        request_(request),
        plan_(plan),
        facts_(FactsOf(plan, nodes)),
        rates_(RatesOf(facts_)),
        may_hold_(MayHold(plan, nodes, request.experts)),
        spare_(SpareBytes(plan, model, facts_, request.reserve_bytes,
                          {request.kv_positions, request.sequences})),
        taken_(plan.nodes.size()) {}

  void place() {
    for (const LayerFacts& layer : model_.layers) total_ += layer.experts * layer.expert_bytes;
    for (size_t l = 0; l < model_.layers.size(); ++l) {
      passed_ += model_.layers[l].experts * model_.layers[l].expert_bytes;
      if (model_.layers[l].experts > 0 && request_.experts.stats->layers[l].calls() > 0) place(l);
    }
  }

 private:
  void place(size_t l) {
    AssignmentProblem problem{.use = &request_.experts.stats->layers[l], .nodes = {}};
    std::vector<size_t> ids;  // Of the problem's nodes, in the plan.
    const auto home = static_cast<size_t>(plan_.node_of(LayerId{static_cast<int32_t>(l)}).value);
    std::vector<ExpertHolders>& row = plan_.experts[l];
    std::vector<int32_t> held(plan_.nodes.size());
    for (const ExpertHolders& holders : row) ++held[static_cast<size_t>(holders.owner.value)];
    for (size_t i = 0; i < plan_.nodes.size(); ++i) {
      if (!may_hold_[i] && held[i] == 0) continue;
      ids.push_back(i);
      problem.nodes.push_back(
          {.rate = rates_[i], .room = held[i] + more_room(l, i), .runs_layer = i == home});
    }
    Assignment owners;
    for (const ExpertHolders& holders : row) {
      const auto at = std::ranges::find(ids, static_cast<size_t>(holders.owner.value));
      owners.push_back(static_cast<int32_t>(at - ids.begin()));
    }
    const Assignment balanced = BalanceLoads(problem, owners);
    owners = request_.experts.strategy == ExpertStrategy::kByLoad ? balanced
                                                                  : GroupByUse(problem, owners, balanced);
    for (size_t e = 0; e < row.size(); ++e) {
      const size_t owner = ids[static_cast<size_t>(owners[e])];
      taken_[static_cast<size_t>(row[e].owner.value)] -= model_.layers[l].expert_bytes;
      taken_[owner] += model_.layers[l].expert_bytes;
      row[e].owner = NodeId{static_cast<int32_t>(owner)};
    }
  }

  /// Experts of layer l that the node has memory for beyond those of the beginning. Spare memory is for all layers: up to
  /// here no more than the share of those passed.
  int32_t more_room(size_t l, size_t node) const {
    const LayerFacts& layer = model_.layers[l];
    if (spare_[node] == kUnlimited || layer.expert_bytes == 0) return layer.experts;
    const double share = static_cast<double>(passed_) / static_cast<double>(total_);
    const double bytes = static_cast<double>(spare_[node]) * share - static_cast<double>(taken_[node]);
    return static_cast<int32_t>(
        std::clamp(bytes / static_cast<double>(layer.expert_bytes), 0.0, static_cast<double>(layer.experts)));
  }

  const ModelFacts& model_;
  const PlanRequest& request_;
  Plan& plan_;
  const std::vector<NodeFacts> facts_;
  const std::vector<double> rates_;
  const std::vector<bool> may_hold_;
  const std::vector<int64_t> spare_;
  std::vector<int64_t> taken_;  ///< Of the spare bytes, by node.
  int64_t total_ = 0;           ///< Bytes of all experts, and of those of the layers passed.
  int64_t passed_ = 0;
};

/// Gives experts copies on further nodes, as far as there is memory.
class Copies {
 public:
  /// spare: by NodeId.
  Copies(const ModelFacts& model, Plan& plan, std::vector<bool> may_hold, std::vector<int64_t> spare)
      : model_(model), plan_(plan), may_hold_(std::move(may_hold)), spare_(std::move(spare)) {}

  bool fits(size_t layer, NodeId node) const {
    const auto n = static_cast<size_t>(node.value);
    return may_hold_[n] && spare_[n] >= model_.layers[layer].expert_bytes;
  }
  void add(size_t layer, ExpertHolders& holders, NodeId node) {
    const auto n = static_cast<size_t>(node.value);
    if (spare_[n] != kUnlimited) spare_[n] -= model_.layers[layer].expert_bytes;
    holders.replicas.insert(std::ranges::upper_bound(holders.replicas, node), node);
  }
  int64_t spare(NodeId node) const { return spare_[static_cast<size_t>(node.value)]; }
  Plan& plan() { return plan_; }
  int32_t nodes() const { return static_cast<int32_t>(plan_.nodes.size()); }

 private:
  const ModelFacts& model_;
  Plan& plan_;
  const std::vector<bool> may_hold_;
  std::vector<int64_t> spare_;
};

NodeId HomeOf(const Plan& plan, size_t layer) { return plan.node_of(LayerId{static_cast<int32_t>(layer)}); }

/// `count` replicas of every expert: on the node that runs the layer, then where most memory is left.
absl::Status AddToAll(Copies& copies, int32_t count) {
  Plan& plan = copies.plan();
  for (size_t l = 0; l < plan.experts.size(); ++l) {
    const NodeId home = HomeOf(plan, l);
    for (ExpertHolders& holders : plan.experts[l]) {
      for (int32_t i = 0; i < count; ++i) {
        NodeId best{-1};
        for (NodeId node{0}; node.value < copies.nodes(); ++node.value) {
          if (holders.held_by(node) || !copies.fits(l, node)) continue;
          if (best.value < 0 || (best != home && (node == home || copies.spare(node) > copies.spare(best))))
            best = node;
        }
        if (best.value < 0) {
          return ResourceExhausted(
              "planner: there is no room for {} replicas of each expert, at layer {}; ask for fewer, for "
              "replicas of hot experts only (hot:SIZE), or for the experts round_robin",
              count, l);
        }
        copies.add(l, holders, best);
      }
    }
  }
  return absl::OkStatus();
}

struct HotExpert {
  size_t layer = 0;
  size_t expert = 0;
  uint64_t rows = 0;
};

/// All experts that rows were routed to, the one with most rows per byte first.
std::vector<HotExpert> HottestFirst(const ModelFacts& model, const ExpertStats& stats) {
  std::vector<HotExpert> list;
  for (size_t l = 0; l < stats.layers.size(); ++l) {
    for (size_t e = 0; e < stats.layers[l].rows.size(); ++e) {
      if (stats.layers[l].rows[e] > 0) list.push_back({l, e, stats.layers[l].rows[e]});
    }
  }
  const auto heat = [&](const HotExpert& hot) {
    return static_cast<double>(hot.rows) /
           static_cast<double>(std::max<int64_t>(1, model.layers[hot.layer].expert_bytes));
  };
  std::ranges::stable_sort(list, [&](const HotExpert& a, const HotExpert& b) { return heat(a) > heat(b); });
  return list;
}

/// Copies of the hottest experts: on the nodes that run their layers; then of those that rows still leave their node for,
/// on nodes that are less busy than their holders. Returns how many of each.
std::array<int64_t, 2> AddHot(Copies& copies, const std::vector<HotExpert>& hottest,
                              const std::vector<double>& rates) {
  Plan& plan = copies.plan();
  std::array<int64_t, 2> added = {};
  const auto holders_of = [&](const HotExpert& hot) -> ExpertHolders& {
    return plan.experts[hot.layer][hot.expert];
  };
  for (const HotExpert& hot : hottest) {
    const NodeId home = HomeOf(plan, hot.layer);
    if (holders_of(hot).held_by(home) || !copies.fits(hot.layer, home)) continue;
    copies.add(hot.layer, holders_of(hot), home);
    ++added[0];
  }
  // By layer, as layers run one after the other.
  std::vector<std::vector<double>> load(plan.experts.size(), std::vector<double>(rates.size()));
  for (const HotExpert& hot : hottest) {
    const NodeId home = HomeOf(plan, hot.layer);
    const NodeId at = holders_of(hot).held_by(home) ? home : holders_of(hot).owner;
    load[hot.layer][static_cast<size_t>(at.value)] += static_cast<double>(hot.rows);
  }
  for (const HotExpert& hot : hottest) {
    ExpertHolders& holders = holders_of(hot);
    if (holders.held_by(HomeOf(plan, hot.layer))) continue;
    std::vector<double>& busy = load[hot.layer];
    const auto time = [&](NodeId node, double more) {
      return (busy[static_cast<size_t>(node.value)] + more) / rates[static_cast<size_t>(node.value)];
    };
    const double half = static_cast<double>(hot.rows) / 2;
    NodeId best{-1};
    for (NodeId node{0}; node.value < copies.nodes(); ++node.value) {
      if (holders.held_by(node) || !copies.fits(hot.layer, node)) continue;
      if (best.value < 0 || time(node, half) < time(best, half)) best = node;
    }
    if (best.value < 0 || time(best, half) >= time(holders.owner, 0)) continue;
    copies.add(hot.layer, holders, best);
    busy[static_cast<size_t>(holders.owner.value)] -= half;
    busy[static_cast<size_t>(best.value)] += half;
    ++added[1];
  }
  return added;
}

void ReplaceExpertsNote(Plan& plan, std::string text) {
  const auto note =
      std::ranges::find_if(plan.notes, [](const std::string& n) { return n.starts_with("experts ("); });
  if (note == plan.notes.end()) {
    plan.notes.push_back(std::move(text));
  } else {
    *note = std::move(text);
  }
}

uint64_t RowsSeen(const ExpertStats& stats) {
  uint64_t most = 0;
  for (const LayerUse& use : stats.layers) {
    if (use.top_k > 0) most = std::max(most, use.calls() / static_cast<uint64_t>(use.top_k));
  }
  return most;
}

void AddHotReplicas(const ModelFacts& model, const std::vector<NodeFacts>& nodes, const PlanRequest& request,
                    Plan& plan) {
  const std::vector<NodeFacts> facts = FactsOf(plan, nodes);
  const CacheSize cache{std::max(request.kv_positions, kPositionsMin),
                        std::max<int64_t>(request.sequences, 1)};
  std::vector<int64_t> spare = SpareBytes(plan, model, facts, request.reserve_bytes + kProcessBytes, cache);
  for (int64_t& bytes : spare) bytes = std::min(bytes, request.experts.hot_bytes);
  Copies copies(model, plan, MayHold(plan, nodes, request.experts), spare);
  const auto [at_home, elsewhere] =
      AddHot(copies, HottestFirst(model, *request.experts.stats), RatesOf(facts));
  int64_t used = 0;
  for (NodeId node{0}; node.value < copies.nodes(); ++node.value)
    used += spare[static_cast<size_t>(node.value)] - copies.spare(node);
  plan.notes.push_back(fmt::format(
      "hot experts: {} have a copy on the node that runs their layer, {} on another one, {} in all, {} per "
      "node at most",
      at_home, elsewhere, FormatBytes(used), FormatBytes(request.experts.hot_bytes)));
}

}  // namespace

bool PlacesByUse(const ExpertRequest& request) { return MovesOwners(request) || request.hot_bytes > 0; }

std::vector<PlanRequest> BeginningsByUse(const PlanRequest& request) {
  PlanRequest begin = request;
  begin.experts.hot_bytes = 0;
  if (!MovesOwners(request.experts)) return {begin};
  begin.experts.asked = true;
  begin.experts.replicas = 0;
  PlanRequest other = begin;
  begin.experts.strategy = ExpertStrategy::kRoundRobin;
  other.experts.strategy = ExpertStrategy::kWithLayer;
  if (request.experts.strategy == ExpertStrategy::kByLocality && !HasUse(request)) std::swap(begin, other);
  return {begin, other};
}

absl::StatusOr<Plan> PlaceByUse(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                                const PlanRequest& request, Plan plan) {
  if (!model.has_experts()) return plan;
  const ExpertRequest& experts = request.experts;
  const bool moves = MovesOwners(experts);
  const bool used = HasUse(request);
  if (used) SHOAL_CHECK_EQ(experts.stats->layers.size(), model.layers.size());
  if (const auto holders = std::ranges::count(MayHold(plan, nodes, experts), true);
      experts.replicas < 0 || experts.replicas >= std::max<int64_t>(holders, 1)) {
    return InvalidArgument(
        "planner: {} replicas of each expert: expected 0 to {}, one less than the nodes that hold "
        "experts",
        experts.replicas, holders - 1);
  }
  if (moves && used) {
    OwnersByUse(model, nodes, request, plan).place();
    const char* const how =
        experts.strategy == ExpertStrategy::kByLoad
            ? "each node's expected rows x bytes in proportion to its rate"
            : "those that were used together on one node, the layer's first, with a tenth more work "
              "on a node than by_load at most";
    ReplaceExpertsNote(plan, fmt::format("experts ({}): {}, from the use of {} rows", Name(experts.strategy),
                                         how, RowsSeen(*experts.stats)));
  } else if (moves) {
    bool remote = false;
    for (int32_t layer = 0; layer < plan.layers(); ++layer)
      remote |= !plan.remote_owners(LayerId{layer}).empty();
    ReplaceExpertsNote(
        plan, fmt::format("experts ({}): nothing is known of their use, so they are {}; --expert-stats "
                          "FILE keeps it from one start to the next",
                          Name(experts.strategy), remote ? "round_robin" : "with_layer"));
  }
  if (moves && experts.replicas > 0) {
    const std::vector<int64_t> spare = SpareBytes(plan, model, FactsOf(plan, nodes), request.reserve_bytes,
                                                  {request.kv_positions, request.sequences});
    Copies copies(model, plan, MayHold(plan, nodes, experts), spare);
    RETURN_IF_ERROR(AddToAll(copies, experts.replicas));
  }
  if (experts.hot_bytes > 0 && used) AddHotReplicas(model, nodes, request, plan);
  if (experts.hot_bytes > 0 && !used)
    plan.notes.push_back(
        "hot experts: nothing is known of their use, so none has a replica; --expert-stats FILE keeps it");
  RETURN_IF_ERROR(Validate(plan, model));
  return plan;
}

std::optional<ExpertTraffic> ExpectedTraffic(const Plan& plan, const std::vector<NodeFacts>& nodes,
                                             const ExpertStats& stats) {
  SHOAL_CHECK_EQ(plan.experts.size(), stats.layers.size());
  const std::vector<double> rates = RatesOf(FactsOf(plan, nodes));
  const double all_rates = std::accumulate(rates.begin(), rates.end(), 0.0);
  ExpertTraffic traffic;
  int64_t rows = 0;
  int64_t local = 0;
  int64_t layers = 0;
  std::vector<AskedExpert> asked;
  std::vector<int64_t> load(plan.nodes.size());
  for (size_t l = 0; l < plan.experts.size(); ++l) {
    const LayerUse& use = stats.layers[l];
    const std::vector<ExpertHolders>& holders = plan.experts[l];
    for (const ExpertHolders& one : holders) traffic.copies += std::ssize(one.replicas);
    SHOAL_CHECK_EQ(holders.size(), use.rows.size());
    if (use.sampled() == 0) continue;
    const NodeId home = HomeOf(plan, l);
    std::vector<double> work(plan.nodes.size());
    int64_t messages = 0;
    int64_t calls = 0;
    for (int64_t r = 0; r < use.sampled(); ++r) {
      asked.clear();
      for (const uint16_t expert : use.experts(r)) asked.push_back({ExpertId{expert}, 1});
      ChooseHolders(
          holders, home, asked, load,
          [&](ExpertId expert) { return holders[static_cast<size_t>(expert.value)].held_by(home); },
          [](NodeId) { return true; });
      const int64_t remote = std::ranges::count_if(load, [](int64_t n) { return n > 0; });
      messages += remote;
      local += remote == 0 ? 1 : 0;
      for (const AskedExpert& one : asked) work[static_cast<size_t>(one.holder.value)] += 1;
      calls += std::ssize(asked);
    }
    rows += use.sampled();
    ++layers;
    traffic.messages_per_token += static_cast<double>(messages) / static_cast<double>(use.sampled());
    double longest = 0;
    for (size_t i = 0; i < work.size(); ++i) longest = std::max(longest, work[i] / rates[i]);
    traffic.imbalance += calls == 0 ? 1 : longest / (static_cast<double>(calls) / all_rates);
  }
  if (layers == 0) return std::nullopt;
  traffic.local_share = static_cast<double>(local) / static_cast<double>(rows);
  traffic.imbalance /= static_cast<double>(layers);
  return traffic;
}

}  // namespace shoal
