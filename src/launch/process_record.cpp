#include "launch/process_record.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/json.h"
#include "base/other_process.h"
#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

using Json = nlohmann::json;

constexpr int64_t kPidFileMax = 1 << 16;
constexpr Duration kKillMax = std::chrono::seconds(5);
constexpr int64_t kLookMs = 20;

/// A handle to the process of the record, and to no other; none where it has ended.
std::optional<ProcessHandle> OpenProcess(const ProcessRecord& record) {
  std::optional<ProcessHandle> handle = ProcessHandle::Open(record.pid);
  // The handle is to whoever has the PID now; who that is is seen afterwards, so that it can't change in between.
  if (!handle.has_value() || LifeOf(record) != ProcessLife::kRunning) return std::nullopt;
  return handle;
}

absl::Status Send(const ProcessHandle& process, const ProcessRecord& record, int signal) {
  const int error = process.send(signal);
  if (error == 0) return absl::OkStatus();
  if (error == EPERM)
    return PermissionDenied("process {} is another user's: {}", record.pid, std::strerror(error));
  return Unavailable("process {} can't be sent signal {}: {}", record.pid, signal, std::strerror(error));
}

bool EndedWithin(const ProcessHandle& process, const ProcessRecord& record, Deadline deadline) {
  while (true) {
    if (process.wait_for_end(std::chrono::milliseconds(std::min<int64_t>(kLookMs, deadline.remaining_ms()))))
      return true;
    if (LifeOf(record) != ProcessLife::kRunning) return true;
    if (deadline.expired()) return false;
  }
}

}  // namespace

absl::StatusOr<ProcessRecord> IdentifyProcess(int pid) {
  ProcessRecord record{.pid = pid};
  ASSIGN_OR_RETURN(record.start_ticks, StartOfProcess(pid));
  ASSIGN_OR_RETURN(record.boot_id, BootId());
  return record;
}

ProcessLife LifeOf(const ProcessRecord& record) {
  const auto now = IdentifyProcess(record.pid);
  if (!now.ok()) return ProcessLife::kEnded;
  if (now->boot_id != record.boot_id) return ProcessLife::kOther;
  return now->start_ticks == record.start_ticks ? ProcessLife::kRunning : ProcessLife::kOther;
}

absl::Status EndProcess(const ProcessRecord& record, Duration patience) {
  const std::optional<ProcessHandle> process = OpenProcess(record);
  if (!process.has_value()) {
    if (LifeOf(record) != ProcessLife::kRunning) return absl::OkStatus();
    return Unavailable("process {}: the system gives no handle to it (Linux does since 5.3); end it yourself",
                       record.pid);
  }
  RETURN_IF_ERROR(Send(*process, record, SIGTERM));
  RETURN_IF_ERROR(Send(*process, record, SIGCONT));  // One that was stopped ends, too.
  if (EndedWithin(*process, record, Deadline::after(patience))) return absl::OkStatus();
  RETURN_IF_ERROR(Send(*process, record, SIGKILL));
  if (EndedWithin(*process, record, Deadline::after(kKillMax))) return absl::OkStatus();
  return DeadlineExceeded("process {} did not end within {:.0f} s of SIGKILL: the system holds it",
                          record.pid, SecondsOf(kKillMax));
}

absl::StatusOr<ProcessRecord> ParseRecord(std::string_view text) {
  Json json;
  RETURN_IF_ERROR(ReadJson(text, JsonLimits{}, &json));
  const auto number_of = [&json](const char* key) {
    const Json& found = MemberOf(json, key);
    return found.is_number_unsigned() ? found.get<uint64_t>() : 0;
  };
  if (!json.is_object()) return InvalidArgument("expected an object");
  ProcessRecord record;
  const uint64_t pid = number_of("pid");
  if (pid < 2 || pid > INT32_MAX) return InvalidArgument("expected a PID above 1 under \"pid\"");
  record.pid = static_cast<int>(pid);
  record.start_ticks = number_of("start_ticks");
  record.boot_id = TextOf(json, "boot_id");
  if (record.boot_id.empty()) return InvalidArgument("the key \"boot_id\" is missing");
  record.started_unix = static_cast<int64_t>(std::min<uint64_t>(number_of("started_unix"), INT64_MAX));
  record.binary = TextOf(json, "binary");
  record.command = TextOf(json, "command");
  return record;
}

std::string FormatRecord(const ProcessRecord& record) {
  const Json json = {{"pid", record.pid},         {"start_ticks", record.start_ticks},
                     {"boot_id", record.boot_id}, {"started_unix", record.started_unix},
                     {"binary", record.binary},   {"command", record.command}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<std::optional<ProcessRecord>> ReadPidFile(const std::string& path) {
  const auto text = ReadTextFile(path, kPidFileMax);
  if (absl::IsNotFound(text.status())) return std::nullopt;
  if (!text.ok()) return text.status();
  auto record = ParseRecord(*text);
  if (!record.ok()) {
    return InvalidArgument("{}: not a PID file of shoal: {}. Delete it once its process has ended", path,
                           Message(record.status()));
  }
  return std::optional<ProcessRecord>(*std::move(record));
}

absl::Status WritePidFile(const std::string& path, const ProcessRecord& record) {
  return WriteTextFile(path, FormatRecord(record));
}

}  // namespace shoal
