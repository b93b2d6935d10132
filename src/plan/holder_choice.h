// Which of several holders of an expert computes it for the rows of a step. The rule is the same wherever it is asked:
// the exchange follows it, and the planner expects it. No bit depends on it (docs/numerics.md).
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "plan/plan.h"

namespace shoal {

/// An expert that rows of one layer need in a step, all from the same holder.
struct AskedExpert {
  ExpertId expert;
  int32_t rows = 0;
  NodeId holder{-1};  ///< -1: no holder is there.
};

/// As ChooseHolders, without replicas: the node that asks, where is_local(expert); else the owner, if it is up.
template <typename IsLocal, typename IsUp>
void ChooseOwners(const std::vector<ExpertHolders>& holders, NodeId self, std::span<AskedExpert> experts,
                  IsLocal is_local, IsUp is_up) {
  for (AskedExpert& asked : experts) {
    const NodeId owner = holders[static_cast<size_t>(asked.expert.value)].owner;
    asked.holder = is_local(asked.expert) ? self : is_up(owner) ? owner : NodeId{-1};
  }
}

/// Chooses a holder for each of `experts`, distinct and ascending: the node that asks, where is_local(expert); else the
/// owner, and a replica where the owner is away, or would otherwise compute more rows than the replica with these rows on
/// top. load: [nodes] rows by holder; written, the asking node's stays 0. No allocation.
template <typename IsLocal, typename IsUp>
void ChooseHolders(const std::vector<ExpertHolders>& holders, NodeId self, std::span<AskedExpert> experts,
                   std::span<int64_t> load, IsLocal is_local, IsUp is_up) {
  const auto of = [&load](NodeId node) -> int64_t& { return load[static_cast<size_t>(node.value)]; };
  const auto least = [&](const ExpertHolders& all) {
    NodeId best{-1};
    for (const NodeId replica : all.replicas) {
      if (is_up(replica) && (best.value < 0 || of(replica) < of(best))) best = replica;
    }
    return best;
  };
  ChooseOwners(holders, self, experts, is_local, is_up);
  std::ranges::fill(load, 0);
  for (const AskedExpert& asked : experts) {
    if (asked.holder.value >= 0 && asked.holder != self) of(asked.holder) += asked.rows;
  }
  for (AskedExpert& asked : experts) {
    if (asked.holder == self) continue;
    const NodeId replica = least(holders[static_cast<size_t>(asked.expert.value)]);
    if (replica.value < 0) continue;
    if (asked.holder.value >= 0) {
      if (of(replica) + asked.rows >= of(asked.holder)) continue;
      of(asked.holder) -= asked.rows;
    }
    of(replica) += asked.rows;
    asked.holder = replica;
  }
}

}  // namespace shoal
