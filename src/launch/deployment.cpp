#include "launch/deployment.h"

#include <ifaddrs.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <set>
#include <utility>

#include "base/exposure.h"
#include "base/status.h"
#include "base/text.h"
#include "tls/digest.h"

namespace shoal {
namespace {

constexpr char kKeyName[] = "cluster.key";

bool IsFileCharacter(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' || c == '_' ||
         c == '-';
}

/// Of the file "my cluster.yaml": "my_cluster".
std::string NameOfFile(const std::string& path) {
  std::string name = std::filesystem::path(path).stem();
  for (char& c : name) {
    if (!IsFileCharacter(c)) c = '_';
  }
  if (name.empty() || name.front() == '.' || name.front() == '-') name = "cluster" + name;
  return name;
}

std::string LocalPath(const std::string& path, const LaunchContext& context) {
  if (path.starts_with("~/")) return context.home + path.substr(1);
  if (path.starts_with("/")) return path;
  return std::filesystem::absolute(std::filesystem::path(context.path).parent_path() / path);
}

bool HasFlag(const std::vector<std::string>& flags, std::string_view name) {
  return std::ranges::any_of(flags, [name](const std::string& flag) {
    return flag == name || flag.starts_with(std::string(name) + "=");
  });
}

bool IsWildcard(const std::string& host) { return host == "0.0.0.0" || host == "::"; }

/// Whether `host` is an address rather than a name.
bool IsNumeric(const std::string& host) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), nullptr, &hints, &found) != 0) return false;
  freeaddrinfo(found);
  return true;
}

class Planner {
 public:
  Planner(const ClusterFile& file, const LaunchContext& context) : file_(file), context_(context) {}

  absl::StatusOr<Deployment> plan() {
    const LaunchKeys& keys = file_.launch;
    deployment_.name = keys.name.empty() ? NameOfFile(context_.path) : keys.name;
    const bool exposed = std::ranges::any_of(file_.nodes, [](const NodeFacts& node) {
      return !node.address.empty() && !IsLoopback(host_of(node));
    });
    if (!keys.key_file.empty()) deployment_.key_file = LocalPath(keys.key_file, context_);
    if (!keys.tls_dir.empty()) deployment_.tls_dir = LocalPath(keys.tls_dir, context_);
    if (keys.key_file.empty() && keys.tls_dir.empty() && exposed) {
      deployment_.key_file = fmt::format("{}/.shoal/{}/{}", context_.home, deployment_.name, kKeyName);
    }
    deployment_.config = {.name = context_.path.ends_with(".json") ? "cluster.json" : "cluster.yaml",
                          .content = context_.text};
    for (size_t rank = 0; rank < file_.nodes.size(); ++rank) {
      RETURN_IF_ERROR(
          Annotate(add(static_cast<int>(rank)), fmt::format("device '{}'", file_.nodes[rank].name)));
    }
    return std::move(deployment_);
  }

 private:
  static std::string host_of(const NodeFacts& node) {
    const auto parsed = ParseHostPort(node.address);
    return parsed.ok() ? parsed->host : std::string();
  }

  absl::Status add(int rank) {
    const NodeFacts& node = file_.nodes[static_cast<size_t>(rank)];
    const DeviceLaunch& launch = file_.launch.devices[static_cast<size_t>(rank)];
    const bool plain = std::ranges::all_of(node.name, IsFileCharacter) && node.name.front() != '.' &&
                       node.name.front() != '-' && node.name.size() <= 100;
    if (!plain) {
      return InvalidArgument("device_id: expected letters, digits and ._- (up to 100), as it names files");
    }
    ASSIGN_OR_RETURN(HostProcess process, rank == 0 ? coordinator(node, launch) : worker(node, rank));
    process.id = node.name;
    process.rank = rank;
    process.env = launch.env;
    process.model_roots = launch.model_roots;
    if (process.model_roots.empty() && !HasFlag(launch.flags, "--model-root")) {
      return InvalidArgument(
          "the key model_root is missing, here or in the section \"launch\": the folder there "
          "below which models lie");
    }
    process.args.insert(process.args.end(), launch.flags.begin(), launch.flags.end());
    ASSIGN_OR_RETURN(HostPlan * host, host_for(node, launch));
    host->processes.push_back(std::move(process));
    return absl::OkStatus();
  }

  absl::StatusOr<HostProcess> coordinator(const NodeFacts& node, const DeviceLaunch& launch) {
    const LaunchKeys& keys = file_.launch;
    if (file_.model_name.empty() && !HasFlag(launch.flags, "--model") && !HasFlag(launch.flags, "--models")) {
      return InvalidArgument("the cluster file names no model: add {{\"model\": {{\"name\": ...}}}}");
    }
    HostProcess process;
    process.args = {"serve", "--cluster", deployment_.config.name, "--port", std::to_string(keys.api_port)};
    add_key(process);
    const std::string host = keys.api_host.empty() ? "localhost" : keys.api_host;
    if (!keys.api_host.empty()) process.args.insert(process.args.end(), {"--host", keys.api_host});
    const bool wildcard = IsWildcard(host);
    process.probe = HostPort{wildcard || host == "localhost" ? "127.0.0.1" : host, keys.api_port}.to_string();
    deployment_.api = process.probe;
    const std::string seen_as = wildcard && !host_of(node).empty() ? host_of(node)
                                : wildcard                         ? "localhost"
                                                                   : host;
    deployment_.url = "http://" + HostPort{seen_as, keys.api_port}.to_string();
    return process;
  }

  absl::StatusOr<HostProcess> worker(const NodeFacts& node, int rank) {
    ASSIGN_OR_RETURN(const HostPort address, ParseHostPort(node.address));
    // A machine's own name tends to be 127.0.1.1 on itself: where others know it by name, it listens everywhere.
    const bool by_address = IsNumeric(address.host) || IsLoopback(address.host);
    HostProcess process;
    process.args = {"worker",
                    "--listen",
                    HostPort{by_address ? address.host : "::", address.port}.to_string(),
                    "--name",
                    node.name,
                    "--rank",
                    std::to_string(rank)};
    add_key(process);
    process.probe =
        HostPort{by_address && !IsWildcard(address.host) ? address.host : "127.0.0.1", address.port}
            .to_string();
    return process;
  }

  void add_key(HostProcess& process) const {
    if (!deployment_.key_file.empty()) process.args.insert(process.args.end(), {"--key-file", kKeyName});
    if (!deployment_.tls_dir.empty()) process.args.insert(process.args.end(), {"--tls-dir", "."});
  }

  absl::StatusOr<HostPlan*> host_for(const NodeFacts& node, const DeviceLaunch& launch) {
    HostPlan host;
    const std::string address = host_of(node);
    const bool asked_for = launch.ssh.has_value() && !launch.ssh->host.empty();
    if (asked_for || (!address.empty() && !context_.is_this_machine(address))) {
      host.ssh = launch.ssh.value_or(SshKeys());
      if (host.ssh->host.empty()) host.ssh->host = address;
      for (std::string* path : {&host.ssh->identity, &host.ssh->known_hosts}) {
        if (!path->empty()) *path = LocalPath(*path, context_);
      }
    }
    host.name = host.ssh.has_value() ? host.ssh->host : "this machine";
    host.workdir = launch.workdir.empty() ? "~/.shoal/" + deployment_.name : launch.workdir;
    host.binary = launch.binary.empty() ? context_.binary : LocalPath(launch.binary, context_);
    for (HostPlan& known : deployment_.hosts) {
      if (known.ssh != host.ssh || known.workdir != host.workdir) continue;
      if (known.binary == host.binary) return &known;
      return InvalidArgument(
          "binary: '{}' shares the folder {} on {}, and has another binary; give one a workdir",
          known.processes.front().id, host.workdir, host.name);
    }
    deployment_.hosts.push_back(std::move(host));
    return &deployment_.hosts.back();
  }

  const ClusterFile& file_;
  const LaunchContext& context_;
  Deployment deployment_;
};

/// The addresses of a host, as texts.
std::set<std::string> AddressesOf(const sockaddr* address, socklen_t size) {
  std::array<char, NI_MAXHOST> text{};
  if (getnameinfo(address, size, text.data(), text.size(), nullptr, 0, NI_NUMERICHOST) != 0) return {};
  return {text.data()};
}

}  // namespace

absl::StatusOr<Deployment> PlanDeployment(const ClusterFile& file, const LaunchContext& context) {
  return Planner(file, context).plan();
}

void SetFingerprints(Deployment& deployment, std::string_view key,
                     const std::map<std::string, std::string>& certificates) {
  for (HostPlan& host : deployment.hosts) {
    for (HostProcess& process : host.processes) {
      std::string all;
      const auto add = [&all](std::string_view text) { all += fmt::format("{}:{},", text.size(), text); };
      for (const std::string& argument : process.args) add(argument);
      add("roots");
      for (const std::string& root : process.model_roots) add(root);
      add("env");
      for (const auto& [name, value] : process.env) add(name + "=" + value);
      add(key);
      if (const auto own = certificates.find(process.id); own != certificates.end()) add(own->second);
      if (process.is_coordinator()) add(deployment.config.content);
      process.fingerprint = Sha256Hex(all);
    }
  }
}

bool IsThisMachine(const std::string& host) {
  if (IsLoopback(host)) return true;
  std::array<char, 256> own{};
  if (gethostname(own.data(), own.size() - 1) == 0 && host == own.data()) return true;
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), nullptr, &hints, &found) != 0) return false;
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  std::set<std::string> theirs;
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    theirs.merge(AddressesOf(at->ai_addr, at->ai_addrlen));
  }
  ifaddrs* interfaces = nullptr;
  if (getifaddrs(&interfaces) != 0) return false;
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> list(interfaces, &freeifaddrs);
  for (const ifaddrs* at = interfaces; at != nullptr; at = at->ifa_next) {
    if (at->ifa_addr == nullptr) continue;
    const int family = at->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    const socklen_t size = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    for (const std::string& mine : AddressesOf(at->ifa_addr, size)) {
      if (theirs.contains(mine)) return true;
    }
  }
  return false;
}

}  // namespace shoal
