#include "cluster/addresses.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string_view>
#include <utility>

#include "base/status.h"

namespace shoal {
namespace {

std::string NumericHost(const sockaddr* address, socklen_t length) {
  std::array<char, NI_MAXHOST> text{};
  const bool ok = getnameinfo(address, length, text.data(), text.size(), nullptr, 0, NI_NUMERICHOST) == 0;
  return ok ? std::string(text.data()) : std::string();
}

/// A network within this machine: what is told there as an address reaches nobody else.
bool IsBridge(std::string_view interface) {
  constexpr std::string_view kPrefixes[] = {"docker", "br-",     "veth", "virbr",
                                            "cni",    "flannel", "lxc",  "podman"};
  return std::ranges::any_of(kPrefixes,
                             [&](std::string_view prefix) { return interface.starts_with(prefix); });
}

}  // namespace

absl::StatusOr<std::string> LocalAddressTowards(const std::string& host, int port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), fmt::format("{}", port).c_str(), &hints, &found);
  if (error != 0) return NotFound("host '{}': {}", host, gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    const int fd = socket(at->ai_family, SOCK_DGRAM, 0);
    if (fd < 0) continue;
    // Connecting a datagram socket sends nothing: it only asks the routing table.
    sockaddr_storage local{};
    socklen_t length = sizeof local;
    const bool ok = connect(fd, at->ai_addr, at->ai_addrlen) == 0 &&
                    getsockname(fd, reinterpret_cast<sockaddr*>(&local), &length) == 0;
    ::close(fd);
    if (!ok) continue;
    std::string text = NumericHost(reinterpret_cast<sockaddr*>(&local), length);
    if (!text.empty()) return text;
  }
  return Unavailable("host '{}': there is no route to it", host);
}

std::string HostName() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? std::string(name.data()) : "worker";
}

std::vector<std::string> OwnAddresses() {
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) return {};
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owner(first, &freeifaddrs);
  std::vector<std::string> shared;
  std::vector<std::string> bridges;
  for (const ifaddrs* at = first; at != nullptr; at = at->ifa_next) {
    if (at->ifa_addr == nullptr || (at->ifa_flags & IFF_UP) == 0 || (at->ifa_flags & IFF_LOOPBACK) != 0)
      continue;
    const bool v6 = at->ifa_addr->sa_family == AF_INET6;
    if (!v6 && at->ifa_addr->sa_family != AF_INET) continue;
    if (v6 && IN6_IS_ADDR_LINKLOCAL(&reinterpret_cast<const sockaddr_in6*>(at->ifa_addr)->sin6_addr))
      continue;
    std::string text = NumericHost(at->ifa_addr, v6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in));
    if (!text.empty()) (IsBridge(at->ifa_name) ? bridges : shared).push_back(std::move(text));
  }
  shared.insert(shared.end(), bridges.begin(), bridges.end());
  return shared;
}

}  // namespace shoal
