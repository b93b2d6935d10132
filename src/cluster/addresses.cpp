#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <memory>

#include "base/status.h"
#include "cluster/remote_cluster.h"

namespace shoal {

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
    std::array<char, NI_MAXHOST> text{};
    if (ok && getnameinfo(reinterpret_cast<sockaddr*>(&local), length, text.data(), text.size(), nullptr, 0,
                          NI_NUMERICHOST) == 0) {
      return std::string(text.data());
    }
  }
  return Unavailable("host '{}': there is no route to it", host);
}

std::vector<std::string> ModelNames(const std::string& folder, const std::string& provider_and_name) {
  std::error_code ignored;
  const std::filesystem::path path = std::filesystem::weakly_canonical(folder, ignored);
  std::vector<std::string> names = {path.string()};
  if (!provider_and_name.empty()) names.push_back(provider_and_name);
  for (const auto& part : path) {
    const std::string text = part.string();
    if (text.starts_with("models--")) {  // A Hugging Face cache: models--provider--name/snapshots/revision.
      const size_t cut = text.find("--", 8);
      if (cut != std::string::npos) names.push_back(text.substr(8, cut - 8) + "/" + text.substr(cut + 2));
    }
  }
  names.push_back(path.filename().string());
  return names;
}

}  // namespace shoal
