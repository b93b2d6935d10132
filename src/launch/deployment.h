// From a cluster file to what each host is to run: a value, made without asking anybody.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "launch/host_message.h"
#include "plan/cluster_file.h"

namespace shoal {

/// A host, or rather a folder of ours on it.
struct HostPlan {
  std::string name;            ///< For people.
  std::optional<SshKeys> ssh;  ///< None: this machine.
  std::string workdir;
  std::string binary;                  ///< A path on this machine.
  std::vector<HostProcess> processes;  ///< In the order of ranks.
};

struct Deployment {
  std::string name;
  std::vector<HostPlan> hosts;  ///< The coordinator's is the first.
  std::string api;              ///< HOST:PORT of the API as seen on the coordinator's host.
  std::string url;              ///< Of the API, for people.
  std::string key_file;         ///< On this machine; empty: the cluster needs none.
  std::string tls_dir;          ///< On this machine, with a folder for each device; empty: no TLS.
  HostFile config;              ///< The cluster file, for the coordinator.
};

struct LaunchContext {
  std::string path;    ///< Of the cluster file.
  std::string text;    ///< Its content.
  std::string home;    ///< For paths of this machine that begin with "~/".
  std::string binary;  ///< The shoal that runs.
  std::function<bool(const std::string& host)> is_this_machine;
};

/// Relative paths of this machine begin at the cluster file's folder. InvalidArgument names the device and the key that
/// lacks or does not fit.
absl::StatusOr<Deployment> PlanDeployment(const ClusterFile& file, const LaunchContext& context);

/// Sets the fingerprints of all processes: by what they are started with, this key, their certificates and the cluster file
/// included. certificates: by the ids of processes.
void SetFingerprints(Deployment& deployment, std::string_view key,
                     const std::map<std::string, std::string>& certificates = {});

/// Whether `host` is a loopback address, this machine's name, or an address of it.
bool IsThisMachine(const std::string& host);

}  // namespace shoal
