// Does on its own machine what `shoal up` and its like ask for: processes, PID files, logs, and the API as seen there.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "launch/host_message.h"

namespace shoal {

/// Folders below HostOrder::workdir: bin/shoal, run/ID.pid, logs/.
class HostAgent {
 public:
  struct Options {
    std::string home;                      ///< What "~" is; empty: there is none.
    std::vector<std::string> environment;  ///< "NAME=VALUE": what processes get beside their own.
    std::string version;
    std::function<void(const HostEvent& event)> emit;  ///< Of all events but the reply.
    std::function<bool()> asker_gone;                  ///< Whether nobody waits for events any more.
  };
  explicit HostAgent(Options options) : options_(std::move(options)) {}

  HostReply run(const HostOrder& order) const;

  /// A path where "~/" is the home. FailedPrecondition where there is none.
  absl::StatusOr<std::string> path_of(const std::string& path) const;

 private:
  struct Place;  // The folders of an order.
  absl::Status start(const HostOrder& order, const Place& place, HostReply& reply) const;
  absl::Status start_one(const HostProcess& process, const Place& place, ProcessReport& report) const;
  void wait_until_up(const HostOrder& order, const Place& place, HostReply& reply,
                     const std::vector<int64_t>& log_begins) const;
  absl::Status stop(const HostOrder& order, const Place& place, HostReply& reply) const;
  absl::Status logs(const HostOrder& order, const Place& place, HostReply& reply) const;
  absl::Status health(const HostOrder& order, const Place& place, HostReply& reply) const;
  absl::Status fetch(const HostOrder& order, HostReply& reply) const;
  absl::Status measure(const HostOrder& order, HostReply& reply) const;
  ProcessReport report_of(const HostProcess& process, const Place& place) const;

  const Options options_;
};

/// Makes a folder that only its owner may enter, and those above it. Errors as SystemError.
absl::Status MakePrivateFolder(const std::string& path);

/// Writes a file unless it has this content already. secret: readable by its owner only, from the first byte on.
absl::Status PlaceFile(const std::string& path, std::string_view content, bool secret);

/// Whether something listens at HOST:PORT.
bool IsPortOpen(const std::string& address, Deadline deadline);

}  // namespace shoal
