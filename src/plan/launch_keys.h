// The keys of a cluster file that say how `shoal up` reaches and starts its devices. Nothing else reads them.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace shoal {

class ConfigCursor;

/// How to log in to a host.
struct SshKeys {
  std::string host;         ///< Empty: the device's hostname.
  std::string user;         ///< Empty: as ssh decides.
  int port = 0;             ///< 0: as ssh decides.
  std::string identity;     ///< File with the private key; empty: as ssh decides.
  std::string known_hosts;  ///< File with the keys of hosts; empty: as ssh decides.
  bool operator==(const SshKeys&) const = default;
};

/// Of a device, or of all that don't say otherwise.
struct DeviceLaunch {
  std::optional<SshKeys> ssh;
  std::string workdir;  ///< On the host: absolute, or below "~/"; empty: ~/.shoal/NAME.
  std::string binary;   ///< A shoal on the launching machine, to be copied; empty: the one that runs.
  std::vector<std::string> model_roots;  ///< On the host.
  std::map<std::string, std::string> env;
  std::vector<std::string> flags;  ///< Further flags of its `shoal worker`, or `shoal serve`.
};

struct LaunchKeys {
  std::string name;      ///< Of the cluster, in paths; empty: the cluster file's.
  std::string key_file;  ///< On the launching machine; empty: made at the first start, where one is needed.
  std::string tls_dir;  ///< Likewise, with a folder of each device's name, as of `shoal cert`; empty: no TLS.
  std::string api_host;               ///< As `serve --host`; empty: its default.
  int api_port = 8000;                ///< As `serve --port`.
  std::vector<DeviceLaunch> devices;  ///< One a device, with what the section "launch" says of all.
};

/// The section "launch" of a file: what it says of all devices is in `all`.
///   name, key_file, tls_dir, api_host, api_port, and the keys of a device
/// Errors name the place, as ParseClusterFile's.
absl::Status ReadLaunchSection(const ConfigCursor& root, LaunchKeys& keys, DeviceLaunch& all);

/// The keys of a device: ssh {host, user, port, identity, known_hosts}, workdir, binary, model_root (one or a list), env
/// (a map), flags (a list). Flags and env are added to those of all; the other keys replace theirs.
absl::Status ReadDeviceLaunch(const ConfigCursor& device, DeviceLaunch& launch);

}  // namespace shoal
