// The contiguous split of layers over nodes with the best predicted objective. Private to plan/.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "base/range.h"

namespace shoal {

/// What a split costs for one load. All times are of one step. Layers of a node add up.
struct SplitTimes {
  struct Node {
    bool may_hold_layers = true;
    int64_t room_bytes = std::numeric_limits<int64_t>::max();
    int64_t expert_bytes_max =
        std::numeric_limits<int64_t>::max();  ///< Of its layers' routed experts in memory.
    std::vector<double> layer_s;              ///< [L] where this node runs the layer: work and waiting.
    /// [L] what it computes for a layer that another node runs: experts that it owns.
    std::vector<double> serve_s;
    double stage_s = 0;  ///< Of a stage, whatever its layers.
    double head_s = 0;   ///< Of the last stage.
  };
  std::vector<Node> nodes;
  std::vector<int64_t> held_bytes;    ///< [L] weights and cache, without routed experts.
  std::vector<int64_t> expert_bytes;  ///< [L] these; empty where there are none, or they are apart.
  int64_t embed_bytes = 0;            ///< Of the first stage.
  int64_t head_bytes = 0;  ///< Of the last; a node that is both has embed_bytes alone if the head is tied.
  bool tied_head = false;
  int64_t apart_bytes = 0;                 ///< Of the last stage where it is not the first, too.
  std::vector<std::vector<double>> hop_s;  ///< [from][to] of rows.
  std::vector<double> begin_s;             ///< [node] coordinator to the first stage.
  std::vector<double> end_s;               ///< [node] last stage to the coordinator.
};

/// What is minimized, from the sum of all stages and hops, and the busiest node (its stage, and what it serves).
struct SplitCost {
  enum class Kind : uint8_t {
    kLonger,  ///< max(sum, times x busiest): so many steps in flight.
    kSum,     ///< sum + times x busiest: so many more chunks follow the first.
  };
  Kind kind = Kind::kLonger;
  double times = 1;
  double of(double sum_s, double busiest_s) const {
    return kind == Kind::kLonger ? std::max(sum_s, times * busiest_s) : sum_s + times * busiest_s;
  }
};

/// Which splits count.
struct SplitRule {
  bool all = false;    ///< Every node that may hold layers gets one at least.
  int stages_min = 1;  ///< The search takes as many times as long.
};

struct FoundSplit {
  std::vector<int64_t> counts;  ///< Layers per node.
  double cost = 0;
};

/// The split with the least cost that fits. Nullopt if none does.
/// For a limit on the busiest node, dynamic programming over (node, layers placed) finds the least sum, exactly: the
/// previous stage's node is part of the state, so links may differ. The limit is then searched for. kLonger: by halving, to
/// nine digits, since lower limits make the sum larger. kSum: all limits that give another split, where the problem is small
/// (8 nodes, 100 layers), else 32 of them.
std::optional<FoundSplit> CheapestSplit(const SplitTimes& times, const SplitRule& rule,
                                        const SplitCost& cost);

}  // namespace shoal
