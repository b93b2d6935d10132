#include "cluster/registry.h"

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "base/text.h"
#include "plan/cluster_file.h"
#include "plan/node_name.h"

namespace shoal {
namespace {

constexpr std::string_view kEtcd = "etcd://";
constexpr size_t kAddressesMax = 16;

}  // namespace

std::vector<std::string> AddressesOf(std::string_view text) {
  std::vector<std::string> list;
  for (const std::string& one : Split(text, ',')) {
    const auto address = ParseHostPort(one);
    if (!address.ok() || address->port == 0 || !IsNodeName(one)) continue;
    if (list.size() < kAddressesMax && std::ranges::find(list, one) == list.end()) list.push_back(one);
  }
  return list;
}

absl::StatusOr<std::unique_ptr<Registry>> OpenRegistry(std::string_view text) {
  if (text == "dns-sd") return MakeDnsSdRegistry();
  if (SyntaxOf(text).has_value()) return MakeClusterFileRegistry(std::string(text));
  if (text.starts_with(kEtcd)) {
    const std::string_view rest = text.substr(kEtcd.size());
    const size_t slash = rest.find('/');
    const std::string address(rest.substr(0, slash));
    std::string prefix(slash == std::string_view::npos ? "" : rest.substr(slash + 1));
    while (prefix.ends_with('/')) prefix.pop_back();
    if (AddressesOf(address).empty() || (!prefix.empty() && !IsNodeName(prefix))) {
      return InvalidArgument("registry '{}': expected etcd://HOST:PORT/PREFIX", text);
    }
    return MakeEtcdRegistry(address, std::move(prefix));
  }
  std::vector<std::string> addresses = AddressesOf(text);
  if (addresses.empty() || addresses.size() != Split(text, ',').size()) {
    return InvalidArgument(
        "registry '{}': expected HOST:PORT of a coordinator, a cluster file, etcd://HOST:PORT/PREFIX or "
        "dns-sd",
        text);
  }
  return MakeStaticRegistry(std::move(addresses));
}

}  // namespace shoal
