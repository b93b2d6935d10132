#include "plan/left_out.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <string>
#include <string_view>

#include "base/check.h"

namespace shoal {
namespace {

constexpr std::string_view kRemedy = "it waits for the node; with --replan-as balanced it would not";

/// The entries of the nodes that are not out. Lists that do not suit the nodes are left to MakePlan's verdict.
template <typename T>
void Erase(std::vector<T>& list, const std::vector<bool>& out) {
  if (list.size() != out.size()) return;
  size_t kept = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    if (out[i]) continue;
    if (kept != i) list[kept] = std::move(list[i]);
    ++kept;
  }
  list.resize(kept);
}

/// Why the layers can't be divided as asked; OK where they can.
absl::Status CheckLayers(const std::vector<NodeFacts>& nodes, const PlanRequest& request,
                         const std::vector<bool>& out) {
  if (request.strategy == LayerStrategy::kSplit) {
    for (size_t i = 0; i < std::min(out.size(), request.split.size()); ++i) {
      if (!out[i] || request.split[i] == 0) continue;
      return FailedPrecondition("the split {} gives node '{}' {} layers: {}", fmt::join(request.split, ","),
                                nodes[i].name, request.split[i], kRemedy);
    }
  }
  if (request.strategy == LayerStrategy::kCustom && request.proportions.size() == out.size()) {
    double left = 0;
    for (size_t i = 0; i < out.size(); ++i) left += out[i] ? 0 : request.proportions[i];
    if (!(left > 0)) {
      return FailedPrecondition("the proportions {} give all layers to nodes that are away: {}",
                                fmt::join(request.proportions, ","), kRemedy);
    }
  }
  return absl::OkStatus();
}

/// Why an expert has no owner any more; OK where all have.
absl::Status CheckExperts(const std::vector<NodeFacts>& nodes, const ExpertRequest& request,
                          const std::vector<bool>& out) {
  if (request.strategy != ExpertStrategy::kExplicit || request.lists.size() != out.size())
    return absl::OkStatus();
  std::set<int32_t> held;
  for (size_t i = 0; i < out.size(); ++i) {
    if (!out[i]) held.insert(request.lists[i].begin(), request.lists[i].end());
  }
  for (size_t i = 0; i < out.size(); ++i) {
    for (const int32_t expert : request.lists[i]) {
      if (held.contains(expert)) continue;
      return FailedPrecondition("only node '{}' is to hold expert {}: {}", nodes[i].name, expert, kRemedy);
    }
  }
  return absl::OkStatus();
}

/// Why the feed-forwards can't be shared as asked; OK where they can.
absl::Status CheckSegments(const std::vector<NodeFacts>& nodes, const SegmentRequest& request,
                           const std::vector<bool>& out) {
  for (const SegmentRequest::Share& share : request.shares) {
    for (size_t i = 0; i < nodes.size(); ++i) {
      if (!out[i] || !share.is_of(nodes[i])) continue;
      return FailedPrecondition("node '{}' is to hold {} segments of each feed-forward: {}", share.node,
                                share.segments, kRemedy);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<RemainingNodes> WithoutNodes(const std::vector<NodeFacts>& nodes, const PlanRequest& request,
                                            const std::vector<bool>& out, ReplanAs as) {
  SHOAL_CHECK_EQ(nodes.size(), out.size());
  RemainingNodes left{nodes, request};
  Erase(left.nodes, out);
  if (left.nodes.size() == nodes.size()) return left;
  if (const absl::Status fits = CheckLayers(nodes, request, out); !fits.ok()) {
    if (as == ReplanAs::kAsked) return fits;
    left.request.strategy = LayerStrategy::kBalanced;
  }
  ExpertRequest& experts = left.request.experts;
  if (const absl::Status fits = CheckExperts(nodes, request.experts, out); !fits.ok()) {
    if (as == ReplanAs::kAsked) return fits;
    experts.strategy = ExpertStrategy::kRoundRobin;
  }
  if (const absl::Status fits = CheckSegments(nodes, request.segments, out); !fits.ok()) {
    if (as == ReplanAs::kAsked) return fits;
    left.request.segments = {};
  }
  Erase(left.request.split, out);
  Erase(left.request.proportions, out);
  Erase(experts.lists, out);
  if (left.request.strategy == LayerStrategy::kCustom) {
    const double sum = std::accumulate(left.request.proportions.begin(), left.request.proportions.end(), 0.0);
    for (double& share : left.request.proportions) share /= sum;
  }
  const auto candidates =
      static_cast<int32_t>(std::ranges::count_if(left.nodes, &NodeFacts::may_hold_experts));
  if (candidates > 0) {
    experts.over_nodes = std::min(experts.over_nodes, candidates);
    experts.replicas = std::min(experts.replicas, candidates - 1);
  }
  return left;
}

}  // namespace shoal
