#include "exec/shard_overlap.h"

#include <algorithm>
#include <iterator>

namespace shoal {

namespace {

/// A layer that is cut in other ways has no segment, and no whole feed-forward, in common.
HeldSegments CommonSegments(const HeldSegments& a, const HeldSegments& b) {
  HeldSegments common;
  const size_t layers = std::max(a.counts.size(), b.counts.size());
  for (int64_t layer = 0; layer < static_cast<int64_t>(layers); ++layer) {
    common.counts.push_back(std::max(a.count(layer), b.count(layer)));
    std::vector<int32_t>& held = common.held.emplace_back();
    if (a.count(layer) != b.count(layer)) continue;
    std::ranges::set_intersection(a.of(layer), b.of(layer), std::back_inserter(held));
  }
  return common;
}

}  // namespace

NodeShard Common(const NodeShard& a, const NodeShard& b) {
  NodeShard common;
  common.layers = {std::max(a.layers.begin, b.layers.begin), std::min(a.layers.end, b.layers.end)};
  if (common.layers.end <= common.layers.begin) common.layers = {};
  common.embed = a.embed && b.embed;
  common.head = a.head && b.head;
  common.mtp = a.mtp && b.mtp;
  common.experts.resize(std::min(a.experts.size(), b.experts.size()));
  for (size_t layer = 0; layer < common.experts.size(); ++layer) {
    std::ranges::set_intersection(a.experts[layer], b.experts[layer],
                                  std::back_inserter(common.experts[layer]));
  }
  common.segments = CommonSegments(a.segments, b.segments);
  return common;
}

}  // namespace shoal
