// The arithmetic of sharing layers out: counts per node, nothing else. Private to plan/.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "base/range.h"

namespace shoal {

/// Shares `total` out in proportion to `weights` (>= 0, some > 0) by largest remainders (Hamilton's method);
/// ties go to the lower index.
std::vector<int64_t> ShareOut(int64_t total, const std::vector<double>& weights);

/// What stages cost. Bytes held decide whether a range fits, bytes read per token how long it takes.
struct SplitProblem {
  static constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();
  struct Layer {
    int64_t held_bytes = 0;  ///< Weights and cache.
    int64_t read_bytes = 0;  ///< Of the weights, per token.
  };
  struct Node {
    int64_t room_bytes = kUnlimited;
    double compute = 1;     ///< > 0.
    double busy_bytes = 0;  ///< Read per token whatever its layers (experts of others).
    bool may_hold_layers = true;
  };
  std::vector<Layer> layers;
  std::vector<Node> nodes;
  int64_t embed_bytes = 0;
  int64_t head_bytes = 0;
  bool tied_head = false;

  /// Bytes that a stage of these layers holds, with the embedding and the head where it has an end of the
  /// model.
  int64_t held_bytes(Range range) const;
};

/// Layers per node, in order: of all contiguous splits that fit, those with the least slowest node, of those
/// the most even one (least sum of squared times). Nullopt where none fits. Exact, O(nodes x layers^2).
std::optional<std::vector<int64_t>> BalancedSplit(const SplitProblem& problem);

/// Layers per node when each in order takes as many as fit; what is left of a problem that no split solves
/// shows what lacks.
std::vector<int64_t> GreedySplit(const SplitProblem& problem);

}  // namespace shoal
