// Prompts for tests of the planner.
#pragma once

#include <cstdint>
#include <vector>

#include "base/random.h"

namespace shoal {

/// `tokens` ids below `vocabulary`, the same for each seed.
inline std::vector<int32_t> RandomText(uint64_t seed, size_t tokens, int32_t vocabulary) {
  RandomStream random(seed);
  std::vector<int32_t> text(tokens);
  for (int32_t& token : text) token = static_cast<int32_t>(random.below(static_cast<uint64_t>(vocabulary)));
  return text;
}

inline std::vector<int32_t> Joined(std::vector<int32_t> head, const std::vector<int32_t>& tail) {
  head.insert(head.end(), tail.begin(), tail.end());
  return head;
}

}  // namespace shoal
