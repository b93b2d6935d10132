// Which positions an indexer picks.
#pragma once

#include <cstdint>
#include <span>

namespace shoal {

/// The indices of the picked.size() largest scores, ties to the lowest, in ascending order. 1 <= picked.size() <=
/// scores.size() < 2^31. -0 and 0 are equal. Returns false where a score is NaN.
/// Cost: four passes over the scores, none of which depends on how they are ordered.
bool PickTop(std::span<const float> scores, std::span<int32_t> picked);

}  // namespace shoal
