// Divides layers among nodes: the arithmetic of counts per node. Private to plan/.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "base/range.h"

namespace shoal {

/// Divides `total` in proportion to `weights` (>= 0, some > 0) by the method of largest remainders
/// (Hamilton); ties go to the lower index.
std::vector<int64_t> Apportion(int64_t total, const std::vector<double>& weights);

/// The costs of stages. Held bytes decide whether a range of layers fits, bytes read per token how long it
/// takes.
struct SplitProblem {
  static constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();
  struct Layer {
    int64_t held_bytes = 0;    ///< Weights and cache, without the routed experts that follow.
    int64_t expert_bytes = 0;  ///< Of which a node holds Node::expert_bytes_max at most.
    int64_t read_bytes = 0;    ///< Weights read per token.
  };
  struct Node {
    int64_t room_bytes = kUnlimited;
    int64_t expert_bytes_max = kUnlimited;  ///< Of its layers' routed experts; the rest stays on its disk.
    double compute = 1;                     ///< > 0.
    double busy_bytes = 0;  ///< Read per token for experts of any layers, whatever its own layers.
    bool may_hold_layers = true;
  };
  std::vector<Layer> layers;
  std::vector<Node> nodes;
  int64_t embed_bytes = 0;
  int64_t head_bytes = 0;
  bool tied_head = false;
  int64_t apart_bytes = 0;  ///< Of the last stage where it is not the first, too.

  /// Bytes that a stage of these layers holds, including the embedding if it is the first stage and the head
  /// if it is the last. expert_bytes_max: as Node's.
  int64_t held_bytes(Range range, int64_t expert_bytes_max = kUnlimited) const;
};

/// Layers per node, in order, of the best contiguous split that fits: the one whose slowest node takes the
/// least time, and of several the most even one (least sum of squared times). Nullopt if no split fits.
/// Exact, O(nodes x layers^2).
std::optional<std::vector<int64_t>> BalancedSplit(const SplitProblem& problem);

/// Layers per node if each node in order takes as many as fit. If no split fits, the layers that remain show
/// how much memory is missing.
std::vector<int64_t> GreedySplit(const SplitProblem& problem);

}  // namespace shoal
