// Addresses of nodes: how others reach this machine.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace shoal {

/// This machine's address as seen from `host`, without sending anything: where peers over there can reach it.
/// NotFound where the name does not resolve, Unavailable where there is no route.
absl::StatusOr<std::string> LocalAddressTowards(const std::string& host, int port);

}  // namespace shoal
