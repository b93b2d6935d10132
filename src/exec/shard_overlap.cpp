#include "exec/shard_overlap.h"

#include <algorithm>
#include <iterator>

namespace shoal {

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
  return common;
}

}  // namespace shoal
