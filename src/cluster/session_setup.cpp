// Apart from the service: a simulated control plane stands in for that one, and uses this.
#include <utility>

#include "cluster/control_cache.h"

namespace shoal {

NodeHost::SessionSetup SetupOf(const OpenOrder& order, const std::string& model_hash, const ClusterKey& key) {
  NodeHost::SessionSetup setup{.session = order.session,
                               .plan = order.plan,
                               .node = order.node,
                               .limits = order.limits,
                               .expert_timeout = order.expert_timeout,
                               .keep_from = order.keep_from,
                               .places = order.places,
                               .gives = order.gives,
                               .move_max = order.move_max,
                               .copied = order.copied,
                               .giver = order.giver.id};
  for (const OpenOrder::Follow& follow : order.follows) {
    setup.follows.push_back(
        {follow.name, follow.bytes_max,
         FollowCopies(RemoteCache{follow.name, follow.address, key, model_hash}, order.session)});
  }
  const std::string& self = order.plan.node(order.node).name;
  for (const OpenOrder::Source& source : order.sources) {
    if (source.name == self && !source.copies_of.empty()) {
      setup.sources.push_back({source.layers, source.copies_of, {}});
      continue;
    }
    setup.sources.push_back({source.layers, source.copies_of,
                             [from = RemoteCache{source.name, source.address, key, model_hash}](
                                 const CacheRequest& request, Deadline deadline, TakeImages take) {
                               return FetchCached(from, request, deadline, take);
                             }});
  }
  return setup;
}

}  // namespace shoal
