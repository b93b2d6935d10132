// What a session left in the cache of one node, on its way to the node that has its layers next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/range.h"
#include "exec/node_session.h"
#include "kv/block_image.h"
#include "numeric/cache_shape.h"
#include "plan/plan.h"

namespace shoal {

/// Places of layers, as a session left them.
struct CacheRequest {
  uint64_t session = 0;
  BlockKey identity;  ///< CachesKeyOf its plan and weights.
  Range layers;
  std::vector<CachedPlace> places;
  /// Of copies that the one asked keeps of this node's cache, as its buddy: `session` is then the id of the coordinator
  /// (OrderGiver::id), which numbered the places. Empty: of the own cache.
  std::string copies_of = {};
};

/// How long the scheduler may take to say what of the caches is worth moving.
inline constexpr Duration kWantedMax = std::chrono::seconds(2);

/// A message of images ends behind the first that makes it so large.
inline constexpr size_t kImagesAtOnceBytes = size_t{1} << 20;
/// Takes images of places, one behind the other, in any order. An error ends the giving, and is its result.
using TakeImages = absl::FunctionRef<absl::Status(std::span<const std::byte> images)>;

/// Who has layers that a node lacks.
struct CacheSource {
  Range layers;
  std::string copies_of;  ///< As CacheRequest's.
  /// Empty: the copies are the node's own (CopyShelf), as it is the buddy itself.
  std::function<absl::Status(const CacheRequest& request, Deadline deadline, TakeImages take)> give;
};

/// How a node of the next plan gets what was cached of layers that it runs then.
struct LayerSupply {
  NodeId to;    ///< Of the next plan.
  NodeId from;  ///< Of the last one, which ran the layers.
  Range layers;
  /// Of the last plan, whose copies of what `from` cached are to be had; -1: `from` gives them itself.
  NodeId buddy{-1};
  bool operator==(const LayerSupply&) const = default;
};
/// Of layers that move, or whose node has lost what it cached, in the order of layers. Nothing where that is no longer to
/// be had of some layer. there: by the node of the last plan, whether it is the same process still; buddies: by it, its
/// buddy, or -1; of those that are there not read. Nodes are the same by their names. The plans are valid, and of one
/// model.
std::optional<std::vector<LayerSupply>> LayerSupplies(const Plan& last, const Plan& next,
                                                      const std::vector<bool>& there,
                                                      const std::vector<NodeId>& buddies);

/// Puts images into the cache of a session that has not started. Belongs to one thread.
class CacheIntake {
 public:
  /// Of places in a cache of this identity, of these layers; shape_of: what a layer caches. The session outlives the
  /// intake.
  CacheIntake(NodeSession& session, const CacheRequest& request, std::span<const Range> layers,
              absl::FunctionRef<KvLayerShape(LayerId)> shape_of);

  /// FailedPrecondition or DataLoss: they are not those that were asked for.
  absl::Status take(std::span<const std::byte> images);
  /// Indices in the request's places of those of which an image of a layer did not come, ascending.
  std::vector<int32_t> missing() const;
  int64_t bytes() const { return bytes_; }

 private:
  struct Wanted {
    size_t index = 0;
    CachedPlace place;
    std::vector<bool> came;  ///< By the layer's place in Kind::layers.
    size_t lacks = 0;
  };
  /// Blocks, or states.
  struct Kind {
    std::map<LayerId, size_t> layers;
    std::map<BlockKey, Wanted> places;
  };
  NodeSession& session_;
  const BlockKey identity_;
  Kind blocks_;
  Kind states_;
  int64_t bytes_ = 0;
};

}  // namespace shoal
