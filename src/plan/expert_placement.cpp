#include "plan/expert_placement.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/check.h"
#include "base/random.h"
#include "base/text.h"

namespace shoal {
namespace {

/// The nodes that experts are placed on, ascending: the first `over_nodes` of those that may hold experts.
absl::StatusOr<std::vector<NodeId>> Candidates(const std::vector<NodeFacts>& nodes,
                                               const ExpertRequest& request) {
  std::vector<NodeId> candidates;
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i].may_hold_experts) candidates.push_back(NodeId{static_cast<int32_t>(i)});
  }
  if (request.over_nodes < 0 || request.over_nodes > std::ssize(candidates)) {
    return InvalidArgument(
        "planner: experts over {} nodes: expected 0 (all) to {}, the nodes that may hold experts",
        request.over_nodes, candidates.size());
  }
  if (request.over_nodes > 0) candidates.resize(static_cast<size_t>(request.over_nodes));
  if (candidates.empty()) return InvalidArgument("planner: no node may hold experts");
  if (request.replicas < 0 || request.replicas >= std::ssize(candidates)) {
    return InvalidArgument(
        "planner: {} replicas of each expert: expected 0 to {}, one less than the nodes that may hold "
        "experts",
        request.replicas, candidates.size() - 1);
  }
  return candidates;
}

/// The owner, with the `replicas` candidates that follow it, cyclically, as replicas.
ExpertHolders WithFollowers(const std::vector<NodeId>& candidates, size_t owner, int32_t replicas) {
  ExpertHolders holders{candidates[owner], {}};
  for (int32_t i = 1; i <= replicas; ++i) {
    holders.replicas.push_back(candidates[(owner + static_cast<size_t>(i)) % candidates.size()]);
  }
  std::sort(holders.replicas.begin(), holders.replicas.end());
  return holders;
}

/// A random owner and random replicas: the first draws of a shuffle.
ExpertHolders AtRandom(std::vector<NodeId> candidates, RandomStream& random, int32_t replicas) {
  for (size_t i = 0; i <= static_cast<size_t>(replicas); ++i) {
    std::swap(candidates[i], candidates[i + random.below(candidates.size() - i)]);
  }
  ExpertHolders holders{candidates[0], {candidates.begin() + 1, candidates.begin() + 1 + replicas}};
  std::sort(holders.replicas.begin(), holders.replicas.end());
  return holders;
}

/// The index of the owner of `expert` when [0, experts) is cut into `owners` ranges of nearly equal size.
size_t ContiguousOwner(int64_t expert, int64_t experts, int64_t owners) {
  int64_t owner = 0;
  while (!StaticRange(experts, 1, static_cast<int>(owner), static_cast<int>(owners)).contains(expert))
    ++owner;
  return static_cast<size_t>(owner);
}

absl::StatusOr<ExpertHolders> WithLayer(const std::vector<NodeFacts>& nodes,
                                        const std::vector<NodeId>& candidates, NodeId home, int32_t layer,
                                        int32_t replicas) {
  const auto at = std::find(candidates.begin(), candidates.end(), home);
  if (at == candidates.end()) {
    return InvalidArgument(
        "planner: node '{}' runs layer {} but may hold no experts; spread the experts (contiguous), or let "
        "it "
        "hold experts",
        nodes[static_cast<size_t>(home.value)].name, layer);
  }
  return WithFollowers(candidates, static_cast<size_t>(at - candidates.begin()), replicas);
}

absl::Status CheckLists(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                        const ExpertRequest& request) {
  int32_t experts_max = 0;
  for (const LayerFacts& layer : model.layers) experts_max = std::max(experts_max, layer.experts);
  if (request.lists.size() != nodes.size()) {
    return InvalidArgument(
        "planner: {} expert lists for {} nodes; expected one per node, the coordinator's first",
        request.lists.size(), nodes.size());
  }
  if (request.replicas != 0)
    return InvalidArgument(
        "planner: explicit experts take no number of replicas; list an expert on several nodes instead");
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (!request.lists[i].empty() && !nodes[i].may_hold_experts) {
      return InvalidArgument("planner: node '{}' has a list of experts but may hold none", nodes[i].name);
    }
    for (const int32_t expert : request.lists[i]) {
      if (expert < 0 || expert >= experts_max) {
        return InvalidArgument("planner: expert {} of node '{}': the model '{}' has experts [0, {})", expert,
                               nodes[i].name, model.name, experts_max);
      }
    }
  }
  return absl::OkStatus();
}

/// Owners and replicas of the experts of one layer with `experts` experts. Listed ids beyond them are
/// ignored.
absl::StatusOr<std::vector<ExpertHolders>> ExplicitRow(const std::vector<NodeFacts>& nodes,
                                                       const ExpertRequest& request, int32_t experts) {
  std::vector<ExpertHolders> row(static_cast<size_t>(experts), ExpertHolders{NodeId{-1}, {}});
  for (size_t i = 0; i < nodes.size(); ++i) {
    const NodeId node{static_cast<int32_t>(i)};
    for (const int32_t expert : request.lists[i]) {
      if (expert >= experts) continue;
      ExpertHolders& holders = row[static_cast<size_t>(expert)];
      const bool again =
          holders.owner == node || (!holders.replicas.empty() && holders.replicas.back() == node);
      if (again) return InvalidArgument("planner: node '{}' lists expert {} twice", nodes[i].name, expert);
      if (holders.owner.value < 0)
        holders.owner = node;
      else
        holders.replicas.push_back(node);
    }
  }
  for (size_t e = 0; e < row.size(); ++e) {
    if (row[e].owner.value < 0)
      return InvalidArgument("planner: no node lists expert {}; every expert needs an owner", e);
  }
  return row;
}

std::string PlacementNote(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                          const ExpertRequest& request, const std::vector<NodeId>& candidates) {
  if (!model.has_experts()) return "experts: the model has none";
  std::vector<std::string> names;
  for (const NodeId id : candidates) names.push_back(nodes[static_cast<size_t>(id.value)].name);
  std::string text;
  switch (request.strategy) {
    case ExpertStrategy::kWithLayer:
      text = "experts (with_layer): on the node that runs their layer, so that no row leaves it";
      break;
    case ExpertStrategy::kExplicit:
      return "experts (explicit): as listed per node";
    case ExpertStrategy::kContiguous:
    case ExpertStrategy::kRoundRobin:
      text = fmt::format("experts ({}): spread evenly over {}", Name(request.strategy), Join(names, ", "));
      break;
    case ExpertStrategy::kByLoad:  // placed_by_use.h says what they come to.
    case ExpertStrategy::kByLocality:
      text = fmt::format("experts ({})", Name(request.strategy));
      break;
    case ExpertStrategy::kRandom:
      text = fmt::format("experts (random): by seed {} over {}", request.seed, Join(names, ", "));
      break;
  }
  if (request.replicas > 0) text += fmt::format(", with {} replicas of each", request.replicas);
  return text;
}

NodeId StageNode(const std::vector<PlanStage>& stages, int32_t layer) {
  const auto stage = std::find_if(stages.begin(), stages.end(),
                                  [&](const PlanStage& s) { return s.layers.contains(layer); });
  SHOAL_CHECK(stage != stages.end());
  return stage->node;
}

}  // namespace

absl::StatusOr<ExpertPlacement> PlaceExperts(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                                             const ExpertRequest& request,
                                             const std::vector<PlanStage>& stages) {
  ExpertPlacement placement;
  placement.experts.resize(model.layers.size());
  if (request.strategy == ExpertStrategy::kExplicit) RETURN_IF_ERROR(CheckLists(model, nodes, request));
  std::vector<NodeId> candidates;
  if (model.has_experts()) {
    ASSIGN_OR_RETURN(candidates, Candidates(nodes, request));
  }
  RandomStream random(request.seed);
  for (size_t l = 0; l < model.layers.size(); ++l) {
    const int32_t experts = model.layers[l].experts;
    const int32_t layer = static_cast<int32_t>(l);
    if (request.strategy == ExpertStrategy::kExplicit) {
      ASSIGN_OR_RETURN(placement.experts[l], ExplicitRow(nodes, request, experts));
      continue;
    }
    for (int32_t e = 0; e < experts; ++e) {
      ExpertHolders holders;
      if (request.strategy == ExpertStrategy::kWithLayer) {
        ASSIGN_OR_RETURN(holders,
                         WithLayer(nodes, candidates, StageNode(stages, layer), layer, request.replicas));
      } else if (request.strategy == ExpertStrategy::kRandom) {
        holders = AtRandom(candidates, random, request.replicas);
      } else {
        const size_t owner = request.strategy == ExpertStrategy::kRoundRobin
                                 ? static_cast<size_t>(e) % candidates.size()
                                 : ContiguousOwner(e, experts, std::ssize(candidates));
        holders = WithFollowers(candidates, owner, request.replicas);
      }
      placement.experts[l].push_back(std::move(holders));
    }
  }
  placement.note = PlacementNote(model, nodes, request, candidates);
  return placement;
}

void DropIdleNodes(Plan& plan) {
  std::set<NodeId> used = {Plan::kCoordinator};
  for (const PlanStage& stage : plan.stages) used.insert(stage.node);
  for (const auto& row : plan.experts) {
    for (const ExpertHolders& holders : row) {
      used.insert(holders.owner);
      used.insert(holders.replicas.begin(), holders.replicas.end());
    }
  }
  for (const auto& row : plan.segments) used.insert(row.begin(), row.end());
  std::vector<NodeId> new_id(plan.nodes.size());
  std::vector<PlanNode> kept;
  for (size_t i = 0; i < plan.nodes.size(); ++i) {
    new_id[i] = NodeId{static_cast<int32_t>(kept.size())};
    if (used.contains(NodeId{static_cast<int32_t>(i)})) {
      kept.push_back(plan.nodes[i]);
    } else {
      plan.notes.push_back(
          fmt::format("node '{}' is dropped: it has no layer and no expert", plan.nodes[i].name));
    }
  }
  const auto renumber = [&](NodeId& id) { id = new_id[static_cast<size_t>(id.value)]; };
  for (PlanStage& stage : plan.stages) renumber(stage.node);
  for (auto& row : plan.experts) {
    for (ExpertHolders& holders : row) {
      renumber(holders.owner);
      for (NodeId& replica : holders.replicas) renumber(replica);
    }
  }
  for (auto& row : plan.segments) std::ranges::for_each(row, renumber);
  plan.nodes = std::move(kept);
}

}  // namespace shoal
