// Addresses of nodes: how others reach this machine.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace shoal {

/// This machine's address as seen from `host`, without sending anything: where peers over there can reach it.
/// NotFound where the name does not resolve, Unavailable where there is no route.
absl::StatusOr<std::string> LocalAddressTowards(const std::string& host, int port);

/// This machine's name; "worker" where it has none.
std::string HostName();

/// This machine's addresses at which others may reach it, the most likely first: those of the networks that machines
/// share, then those of bridges of containers and virtual machines. No loopback, and no link-local ones, which mean
/// something on one link only.
std::vector<std::string> OwnAddresses();

}  // namespace shoal
