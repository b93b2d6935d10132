// Which nodes share the feed-forwards that every row passes (dense ones, and shared experts) of a model: the value of --split-ffn, and what a plan makes of it. Private to
// plan/, but for the parser.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "plan/facts.h"
#include "plan/plan.h"

namespace shoal {

struct SegmentRequest {
  enum class Kind : uint8_t {
    kWherePays,  ///< Nobody said: `fastest` and `balanced` may, where nothing else fits or is as fast.
    kOff,        ///< Feed-forwards stay whole.
    kAll,    ///< All nodes that may hold layers, in proportion to their memory where all said it, else alike.
    kRates,  ///< The same in proportion to the rate at which they read weights.
    kShares,  ///< As `shares` says.
  };
  struct Share {
    std::string node;  ///< Its name, or its address.
    int32_t segments = 1;
    bool is_of(const NodeFacts& facts) const { return node == facts.name || node == facts.address; }
    bool operator==(const Share&) const = default;
  };
  Kind kind = Kind::kWherePays;
  std::vector<Share> shares = {};

  /// Whether a plan is to have segments.
  bool asked() const { return kind == Kind::kAll || kind == Kind::kRates || kind == Kind::kShares; }
};

/// "all", "off", "node-1,node-2" (alike) or "node-1=3,node-2=1" (segments of each).
absl::StatusOr<SegmentRequest> ParseSegmentRequest(std::string_view text);

/// Plan::segments, of all dense feed-forwards and shared experts alike; a shared expert that can't be cut into so many
/// stays whole. may_hold: by node, who is meant by `all`. InvalidArgument: a node that there is not, a model that has neither, or more
/// segments than a layer can have.
absl::StatusOr<std::vector<std::vector<NodeId>>> PlaceSegments(const ModelFacts& model,
                                                               const std::vector<NodeFacts>& nodes,
                                                               const SegmentRequest& request,
                                                               const std::vector<bool>& may_hold);

/// For a check of the request before workers have said their names: those without a known one (named as their address, or
/// without an address) are called as a share calls a node that there is not. A node whose name is declared keeps it: a share
/// with a mistyped name then stays one that no node has. The first node is the coordinator, and has its name.
void NameAsShares(const SegmentRequest& request, std::vector<NodeFacts>& nodes);

/// Whether every dense layer can be shared by so many nodes, or every shared expert of a model without dense layers.
bool CanHaveSegments(const ModelFacts& model, size_t nodes);

/// What a plan's segments are of, for people: "dense feed-forwards", "shared experts", or both.
std::string SharedParts(const Plan& plan, const ModelFacts& model);

/// What a layer is without its feed-forward, or its shared expert.
LayerFacts WithoutFeedForward(const LayerFacts& layer);

/// Bytes of weights of all segments that each node of the plan holds.
std::vector<int64_t> SegmentBytesOf(const Plan& plan, const ModelFacts& model);

/// Bytes of one value on its way into segments and of hidden values on their way back: as codes with their scales, or f32.
double SegmentValueBytes(const LayerFacts& layer, bool int8);

}  // namespace shoal
