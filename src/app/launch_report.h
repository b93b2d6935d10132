// What `shoal status` and `shoal test` print.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "launch/launcher.h"

namespace shoal {

/// What /cluster/status says of the cluster.
struct ClusterView {
  struct Node {
    std::string state;  // text: the coordinator words it, which may be of another version
    std::string error;
    std::string layers;  ///< "0-3"; "-" where it has none.
    int64_t experts = 0;
  };
  std::string status;  // text: "up" or "down", as the coordinator words it; empty: unknown
  std::map<std::string, Node> nodes;
};

/// Of the body of an answer; unknown where it is none.
ClusterView ViewOf(const std::string& body);

/// why: why the view is unknown, where it is.
std::string StatusTable(const Deployment& deployment, const std::vector<DeviceReport>& reports,
                        const ClusterView& view, const std::string& why);
std::string StatusJson(const Deployment& deployment, const std::vector<DeviceReport>& reports,
                       const ClusterView& view, const std::string& why);

std::string LatencyTable(const std::vector<Measurement>& measured);

}  // namespace shoal
