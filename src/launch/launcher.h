// `shoal up` and its like: what a Deployment asks for, done on all hosts at once.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "launch/deployment.h"
#include "launch/host_link.h"
#include "tls/identity.h"

namespace shoal {

/// A process with where it is.
struct DeviceReport {
  std::string host;
  int rank = 0;
  ProcessReport process;
};

class Launcher {
 public:
  struct Options {
    HostAgent::Options local;              ///< Of processes on this machine.
    std::vector<std::string> ssh_options;  ///< "Key=Value", for all hosts.
    std::string api_key;                   ///< Of the API, where it asks for one.
    /// Gets a line for people about what happens. Called from several threads, one at a time.
    std::function<void(const std::string& line)> say;
  };
  /// Empty devices: all. NotFound: the cluster file has no such device.
  static absl::StatusOr<std::unique_ptr<Launcher>> Create(Deployment deployment,
                                                          const std::vector<std::string>& devices,
                                                          Options options);

  struct UpOptions {
    Duration ready_within = std::chrono::minutes(10);
    bool keep = false;  ///< What was started stays, also where something else could not be.
  };
  /// Starts what does not run: workers, then the coordinator, and waits until it serves. Errors name host, device, what
  /// was tried, and end with the last lines of its log; what this call had started is ended then.
  absl::Status up(const UpOptions& options);

  /// Ends what runs, the coordinator first. patience: as EndProcess(). Errors of hosts are collected: the others are done.
  absl::Status down(Duration patience);

  /// One a device, by rank. Of hosts that do not answer the error is in the report.
  std::vector<DeviceReport> status();

  /// GET from the API, on the coordinator's host.
  absl::StatusOr<HostReply> fetch(const std::string& path);
  /// Asks a question, on the coordinator's host.
  absl::StatusOr<HostReply> measure(const std::string& question, Duration timeout);

  struct LogLine {
    std::string device;
    int rank = 0;
    std::string text;
  };
  /// The last `lines` lines of each device, all by their time; with `follow` then what is appended, as it comes, until the
  /// process is interrupted; a host of which no more can be read is told of. `take` gets one line at a time.
  absl::Status logs(int64_t lines, bool follow, const std::function<void(const LogLine& line)>& take);

  const Deployment& deployment() const { return deployment_; }

 private:
  struct Host {
    HostPlan plan;
    std::vector<HostProcess> chosen;  ///< Those of its processes that are meant.
    std::unique_ptr<HostLink> link;
  };
  Launcher(Deployment deployment, Options options);

  /// Runs `call` for each host, in a thread each, and waits for all. One entry a host; each error names its host.
  std::vector<absl::Status> for_each_host(absl::FunctionRef<absl::Status(size_t index, Host& host)> call);
  absl::Status install_all();
  absl::Status prepare_key();
  absl::Status prepare_certificates();
  /// Starts the chosen processes of that role; the names of what was started go to `started`.
  absl::Status start(bool coordinator, std::vector<std::vector<HostProcess>>& started);
  absl::Status start_on(Host& host, std::vector<HostProcess> processes, std::vector<HostProcess>& started);
  /// Whether a coordinator runs that was meant, or was there before.
  bool serves();
  absl::Status wait_ready(Duration within);
  /// That none of the processes has ended. A host that does not answer for a moment is no error.
  absl::Status check_alive();
  absl::Status stop_on(Host& host, std::vector<HostProcess> processes, Duration patience);
  absl::StatusOr<HostReply> ask_api(HostOrder order, Deadline deadline);
  void say(const std::string& line);

  Deployment deployment_;
  const Options options_;
  std::vector<Host> hosts_;
  std::string key_;
  std::map<std::string, std::shared_ptr<const TlsIdentity>> certificates_;  ///< By the ids of processes.
  std::mutex saying_;
};

/// The lines of several logs, each in its order, merged by the times that they begin with; a line without a time stays
/// behind the one before it.
std::vector<Launcher::LogLine> MergeByTime(const std::vector<std::vector<Launcher::LogLine>>& logs);

}  // namespace shoal
