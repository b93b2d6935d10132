// What a plan can lose and still compute.
#pragma once

#include <vector>

#include "plan/plan.h"

namespace shoal {

/// Whether steps of `plan` go on without the nodes that are `lost`, an entry for each: none of them is the coordinator
/// or runs layers, and another node holds each of their experts.
/// Where rows are rounded on their way (RoundingsOf), nobody stands in for an owner: bits would depend on when it fell.
bool ServesWithout(const Plan& plan, const std::vector<bool>& lost);

}  // namespace shoal
