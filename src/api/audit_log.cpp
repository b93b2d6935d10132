#include "api/audit_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "api/http/text.h"
#include "api/json.h"
#include "base/status.h"

namespace shoal {
namespace {

constexpr size_t kTargetBytesMax = 200;

}  // namespace

absl::StatusOr<std::unique_ptr<AuditLog>> AuditLog::Open(std::string path) {
  std::unique_ptr<AuditLog> log(new AuditLog(std::move(path)));
  RETURN_IF_ERROR(log->reopen());
  return log;
}

absl::Status AuditLog::reopen() {
  FileHandle file(::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, S_IRUSR | S_IWUSR));
  if (file.fd() < 0)
    return InvalidArgument("audit log '{}' cannot be opened: {}", path_, std::strerror(errno));
  const std::lock_guard lock(mutex_);
  file_ = std::move(file);
  return absl::OkStatus();
}

std::string AuditLine(const AdminCall& call, int64_t now_s) {
  Json line = {{"time", UtcText(now_s)},
               {"request", call.request_id},
               {"key", call.caller},
               {"address", call.peer},
               {"call", fmt::format("{} {}", call.method, call.path)}};
  if (!call.subject.target.empty()) line["target"] = call.subject.target.substr(0, kTargetBytesMax);
  line["status"] = call.status;
  return DumpJson(line) + "\n";
}

void AuditLog::record(const AdminCall& call, int64_t now_s) {
  const std::string line = AuditLine(call, now_s);
  const std::lock_guard lock(mutex_);
  // One write: lines of several processes do not mix.
  if (::write(file_.fd(), line.data(), line.size()) == std::ssize(line)) return;
  failures_.warn(fmt::format("audit log '{}': cannot be written: {}", path_, std::strerror(errno)));
}

}  // namespace shoal
