#include "base/exposure.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <memory>

#include "base/status.h"

namespace shoal {
namespace {

struct FreeAddresses {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};

bool IsLoopback(const sockaddr& address) {
  constexpr uint32_t kNetwork = 127;
  if (address.sa_family == AF_INET) {
    return ntohl(reinterpret_cast<const sockaddr_in&>(address).sin_addr.s_addr) >> 24 == kNetwork;
  }
  if (address.sa_family != AF_INET6) return false;
  const in6_addr& v6 = reinterpret_cast<const sockaddr_in6&>(address).sin6_addr;
  return IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == kNetwork);
}

}  // namespace

bool IsLoopback(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (host.empty() || getaddrinfo(host.c_str(), nullptr, &hints, &found) != 0) return false;
  const std::unique_ptr<addrinfo, FreeAddresses> list(found);
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    if (!IsLoopback(*one->ai_addr)) return false;
  }
  return found != nullptr;
}

absl::Status CheckExposure(const Exposure& exposure) {
  if (exposure.has_key || exposure.insecure || IsLoopback(exposure.host)) return absl::OkStatus();
  return FailedPrecondition(
      "{}: '{}' can be reached from other machines, and without a key anybody there can use it; give "
      "--tls-dir DIR (make it: shoal cert init) or --key-file FILE (make one: umask 077; openssl rand -hex "
      "32 > "
      "FILE), listen on 127.0.0.1, or give --insecure",
      exposure.what, exposure.host);
}

}  // namespace shoal
