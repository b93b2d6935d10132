// Combinations of factors that cover every pair.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <tuple>
#include <vector>

#include "base/random.h"

namespace shoal {

/// The rows of a covering array: every pair of levels of any two factors appears in some row. Greedy, with a
/// fixed seed.
inline std::vector<std::vector<int>> Pairwise(const std::vector<int>& levels) {
  const size_t factors = levels.size();
  std::set<std::tuple<size_t, int, size_t, int>> open;
  for (size_t a = 0; a < factors; ++a) {
    for (size_t b = a + 1; b < factors; ++b) {
      for (int i = 0; i < levels[a]; ++i) {
        for (int j = 0; j < levels[b]; ++j) open.emplace(a, i, b, j);
      }
    }
  }
  RandomStream random(5);
  std::vector<std::vector<int>> rows;
  while (!open.empty()) {
    std::vector<int> best;
    size_t best_count = 0;
    for (int attempt = 0; attempt < 40; ++attempt) {
      std::vector<int> row(factors);
      for (size_t f = 0; f < factors; ++f)
        row[f] = static_cast<int>(random.below(static_cast<uint64_t>(levels[f])));
      const auto& [a, i, b, j] = *open.begin();  // Every row covers at least this one.
      row[a] = i;
      row[b] = j;
      size_t count = 0;
      for (const auto& [fa, la, fb, lb] : open) count += row[fa] == la && row[fb] == lb;
      if (count > best_count) {
        best_count = count;
        best = row;
      }
    }
    std::erase_if(open, [&](const auto& pair) {
      const auto& [a, i, b, j] = pair;
      return best[a] == i && best[b] == j;
    });
    rows.push_back(best);
  }
  return rows;
}

}  // namespace shoal
