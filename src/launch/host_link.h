// The line from the launching machine to a host: ssh, or nothing where the host is this machine.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "launch/host_agent.h"
#include "launch/host_message.h"
#include "plan/launch_keys.h"

namespace shoal {

/// A shoal to copy.
struct BinaryFile {
  std::string path;  ///< On this machine.
  std::string hash;
};

using EventTaker = std::function<void(const HostEvent& event)>;

class HostLink {
 public:
  virtual ~HostLink() = default;

  /// Makes `workdir`/bin/shoal the binary; true where something was copied. Unavailable: the host does not answer, or
  /// refuses the login; FailedPrecondition: the binary does not run there, and why.
  virtual absl::StatusOr<bool> install(const std::string& workdir, const BinaryFile& binary,
                                       Deadline deadline) = 0;
  /// Has an order done by the shoal in its workdir; events but the last go to `take`. NotFound: there is no shoal. Else
  /// as install(); an error in the order itself is the reply's.
  virtual absl::StatusOr<HostReply> ask(const HostOrder& order, Deadline deadline,
                                        const EventTaker& take) = 0;
};

/// environment: "NAME=VALUE", of processes started on this machine.
std::unique_ptr<HostLink> MakeLocalLink(HostAgent::Options options);

struct SshTarget {
  SshKeys keys;                           ///< With a host; paths of this machine.
  std::vector<std::string> more_options;  ///< "Key=Value" for ssh -o.
};
std::unique_ptr<HostLink> MakeSshLink(SshTarget target);

/// The command line that runs `command`, one word to the remote shell. Exposed for tests.
std::vector<std::string> SshArguments(const SshTarget& target, const std::string& command);

/// The names of libraries that ldd's output says were not found.
std::vector<std::string> MissingLibraries(std::string_view ldd_output);

}  // namespace shoal
