// Who changed what the server does for everybody: a line of JSON for each admin call, in a file.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/http/server.h"
#include "base/clock.h"
#include "base/file_handle.h"
#include "base/log_throttle.h"

namespace shoal {

class AuditLog {
 public:
  /// Appends to a file, which is made with mode 0600. InvalidArgument where that can't be.
  static absl::StatusOr<std::unique_ptr<AuditLog>> Open(std::string path);

  /// {"time", "request", "key", "address", "call", "target", "status"}; `target` where the handler read one. A disk that is
  /// full is a warning in the log: the call is not refused for it. Safe from any thread.
  void record(const AdminCall& call, int64_t now_s = UnixSeconds());

  /// Opens the path anew, for who moves the file away.
  absl::Status reopen();

 private:
  explicit AuditLog(std::string path) : path_(std::move(path)) {}

  const std::string path_;
  std::mutex mutex_;
  FileHandle file_;
  LogThrottle failures_{std::chrono::seconds(10)};
};

/// The line of a call, with its end.
std::string AuditLine(const AdminCall& call, int64_t now_s);

}  // namespace shoal
