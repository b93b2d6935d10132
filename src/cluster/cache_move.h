// What a session left in the cache of one node, on its way to the node that has its layers next.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/range.h"
#include "exec/node_session.h"
#include "kv/block_image.h"
#include "plan/plan.h"

namespace shoal {

/// Places of layers, as a session left them.
struct CacheRequest {
  uint64_t session = 0;
  BlockKey identity;  ///< CachesKeyOf its plan and weights.
  Range layers;
  std::vector<CachedPlace> places;
};

/// How long the scheduler may take to say what of the caches is worth moving.
inline constexpr Duration kWantedMax = std::chrono::seconds(2);

/// Takes images of places, one behind the other, in any order. An error ends the giving, and is its result.
using TakeImages = absl::FunctionRef<absl::Status(std::span<const std::byte> images)>;

/// Who has layers that a node lacks.
struct CacheSource {
  Range layers;
  std::function<absl::Status(const CacheRequest& request, Deadline deadline, TakeImages take)> give;
};

/// Layers that a node of the next plan runs, and another ran under the last one.
struct LayerMove {
  NodeId from;  ///< Of the last plan.
  NodeId to;    ///< Of the next.
  Range layers;
  bool operator==(const LayerMove&) const = default;
};
/// All of them, in the order of layers. Nodes are the same by their names. The plans are valid, and of one model.
std::vector<LayerMove> LayerMoves(const Plan& last, const Plan& next);

/// Puts images into the cache of a session that has not started. Belongs to one thread.
class CacheIntake {
 public:
  /// Of places in a cache of this identity. The session outlives the intake.
  CacheIntake(NodeSession& session, const BlockKey& identity, std::span<const CachedPlace> places);

  /// FailedPrecondition or DataLoss: they are not those that were asked for.
  absl::Status take(std::span<const std::byte> images);
  /// Whether all places of these layers came.
  bool has_all(Range layers) const;
  int64_t bytes() const { return bytes_; }

 private:
  NodeSession& session_;
  const BlockKey identity_;
  std::map<BlockKey, CachePlace> blocks_;
  std::map<BlockKey, CachePlace> states_;
  struct Came {
    int64_t blocks = 0;
    int64_t states = 0;
  };
  std::map<LayerId, Came> came_;
  int64_t bytes_ = 0;
};

}  // namespace shoal
