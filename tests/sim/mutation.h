// Faults planted on purpose, to see that a seed finds them (mutations.txt).
#pragma once

#include <string_view>

namespace shoal::sim {

/// Whether this fault is planted in this run.
bool Mutated(std::string_view name);
/// Once, before the first seed. Empty: none is.
void Mutate(std::string_view name);

}  // namespace shoal::sim
