// Counts how the experts of a node's layers are used, while steps run. One thread counts, without locks and without
// allocations; any other takes what was counted.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/ids.h"
#include "base/range.h"
#include "compute/expert_exchange.h"
#include "plan/expert_stats.h"

namespace shoal {

/// What rows of one layer sent to other nodes.
struct ExpertRowCounts {
  uint64_t rows = 0;        ///< Token rows that came through the layer.
  uint64_t rows_local = 0;  ///< Those whose experts were all on the node that runs the layer.
  uint64_t rows_sent = 0;   ///< (row, other node) pairs.
  uint64_t messages = 0;    ///< Requests to other nodes: one for all rows of a step that it is asked for.

  ExpertRowCounts& operator+=(const ExpertRowCounts& other);
  bool operator==(const ExpertRowCounts&) const = default;
};

/// What was counted of one layer since it was last taken.
struct LayerUseCount {
  LayerId layer;
  LayerUse use;
  ExpertRowCounts rows;
  bool operator==(const LayerUseCount&) const = default;
};

class ExpertUse {
 public:
  /// Layers of a node: E and K by layer of the model, E = 0 for a dense one. Only `layers` are counted.
  struct Shape {
    int32_t experts = 0;
    int32_t top_k = 0;
    bool operator==(const Shape&) const = default;
  };
  ExpertUse(Range layers, const std::vector<Shape>& shapes);
  ~ExpertUse();

  /// Whether it is of these layers.
  bool counts(Range layers, const std::vector<Shape>& shapes) const;

  /// One thread at a time. What is not of the shape is not counted. Cost: K additions per row; of one row in `stride` also
  /// a sort of its K ids.
  void note(LayerId layer, const Routing& routing, const ExpertRowCounts& sent);

  /// What was counted since the last call, of layers with any rows. Safe from any thread.
  std::vector<LayerUseCount> take();

  /// Rows of a layer that are sampled between two calls of take(), at most.
  static constexpr uint64_t kSamples = 512;

 private:
  struct Layer;
  void sample(Layer& layer, const MatView<const int32_t>& ids);
  static LayerUseCount take(LayerId id, Layer& layer);

  const Range range_;
  const std::vector<Shape> shapes_;
  std::vector<std::unique_ptr<Layer>> layers_;  ///< By layer - range_.begin; nullptr: dense.
  std::mutex taking_;
};

/// The counters of a node's sessions, one after the other, which may be of different layers. One thread at a time.
class ExpertUses {
 public:
  /// Who counts in the next session: whoever counted for such layers before, if its counts are still here. Where nobody
  /// takes what was counted, that of the kKeptMax last shapes of a node is kept.
  std::shared_ptr<ExpertUse> next(Range layers, const std::vector<ExpertUse::Shape>& shapes);
  /// Those that may have counted since this was last called; all but the last are forgotten.
  std::vector<std::shared_ptr<ExpertUse>> counted();

  static constexpr size_t kKeptMax = 8;

 private:
  std::vector<std::shared_ptr<ExpertUse>> uses_;  ///< The last is of the last session.
};

}  // namespace shoal
