// Which node keeps copies of what another caches, so that its loss costs no prefill.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "plan/plan.h"

namespace shoal {

struct KvBuddy {
  NodeId of;              ///< A node with layers that is not the coordinator: with that one all is lost.
  NodeId keeper;          ///< Its buddy.
  int64_t bytes_max = 0;  ///< That the buddy keeps of it.
  bool operator==(const KvBuddy&) const = default;
};

/// What is known of a node, by NodeId.
struct BuddyFacts {
  int64_t cache_bytes = 0;  ///< That it caches at most.
  int64_t spare_bytes =
      0;  ///< Of its memory, beside weights and cache; INT64_MAX: unknown, as much as you like.
};

/// A buddy for each node with layers but the coordinator, where another node has memory to spare: at best on another
/// machine, as far as addresses tell; then the one that can keep most; then one without layers, which no loss takes with
/// it; then the first. Nobody is given more than it spares, over all. each_max: bytes that are kept of one node at most.
/// facts: of all nodes of the plan.
std::vector<KvBuddy> ChooseBuddies(const Plan& plan, std::span<const BuddyFacts> facts, int64_t each_max);

}  // namespace shoal
