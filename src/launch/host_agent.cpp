#include "launch/host_agent.h"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "base/file.h"
#include "base/file_handle.h"
#include "base/file_lock.h"
#include "base/status.h"
#include "base/system_calls.h"
#include "base/text.h"
#include "launch/log_reader.h"
#include "launch/process_record.h"
#include "launch/subprocess.h"
#include "tls/digest.h"

namespace shoal {
namespace {

constexpr int64_t kLookMs = 50;
constexpr int64_t kConnectMs = 500;
constexpr int64_t kLockMs = 20000;
constexpr int64_t kTailLines = 20;
constexpr int64_t kLogKeptBytes = int64_t{64} << 20;  ///< A longer log is set aside when its process starts.

/// "" where it runs or is not ours to wait for; else how our child ended.
std::string HowItEnded(int pid) {
  int status = 0;
  if (waitpid(pid, &status, WNOHANG) != pid) return "";
  if (WIFEXITED(status)) return fmt::format(" with exit code {}", WEXITSTATUS(status));
  return fmt::format(" by signal {}", WTERMSIG(status));
}

/// Held while processes of a folder are started or ended.
absl::StatusOr<FileHandle> LockFolder(const std::string& path) {
  const Deadline deadline = Deadline::after_ms(kLockMs);
  while (true) {
    ASSIGN_OR_RETURN(FileLock lock, TryLockFile(path));
    if (lock.held) return std::move(lock.file);
    if (deadline.expired()) {
      return Unavailable("{} is locked: another `shoal up`, `down` or `restart` is at work here; wait for it",
                         path);
    }
    poll(nullptr, 0, kLookMs);
  }
}

}  // namespace

absl::Status MakePrivateFolder(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return absl::OkStatus();
  const std::string above = std::filesystem::path(path).parent_path();
  if (!above.empty()) std::filesystem::create_directories(above, error);
  if (error) return SystemError("make", above, error.value());
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return SystemError("make", path, errno);
  return absl::OkStatus();
}

absl::Status PlaceFile(const std::string& path, std::string_view content, bool secret) {
  const mode_t mode = secret ? 0600 : 0644;
  const auto now = ReadTextFile(path, static_cast<int64_t>(content.size()));
  if (now.ok() && *now == content) {
    return chmod(path.c_str(), mode) == 0 ? absl::OkStatus() : SystemError("change the mode of", path, errno);
  }
  const std::string partial = path + ".partial";
  unlink(partial.c_str());
  const FileHandle file(open(partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
  if (file.fd() < 0) return SystemError("write", partial, errno);
  while (!content.empty()) {
    const ssize_t written = write(file.fd(), content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return SystemError("write", partial, errno);
    content.remove_prefix(static_cast<size_t>(written));
  }
  if (rename(partial.c_str(), path.c_str()) != 0) return SystemError("write", path, errno);
  return absl::OkStatus();
}

bool IsPortOpen(const std::string& address, Deadline deadline) {
  const auto parsed = ParseHostPort(address);
  if (!parsed.ok()) return false;
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(parsed->host.c_str(), std::to_string(parsed->port).c_str(), &hints, &found) != 0)
    return false;
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    const FileHandle file = OpenSocket(at->ai_family, SOCK_STREAM, 0);
    if (file.fd() < 0) continue;
    if (connect(file.fd(), at->ai_addr, at->ai_addrlen) == 0) return true;
    if (errno != EINPROGRESS) continue;
    pollfd wait{file.fd(), POLLOUT, 0};
    if (poll(&wait, 1, static_cast<int>(deadline.remaining_ms())) <= 0) continue;
    int error = 0;
    socklen_t size = sizeof error;
    if (getsockopt(file.fd(), SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0) return true;
  }
  return false;
}

struct HostAgent::Place {
  std::string folder;
  std::string binary;
  std::string binary_hash;  ///< Of what is to be started; empty where nothing is.

  std::string pid_file(const HostProcess& process) const {
    return fmt::format("{}/run/{}.pid", folder, process.id);
  }
  std::string log(const HostProcess& process) const {
    return fmt::format("{}/logs/{}", folder, process.log_name());
  }
};

absl::StatusOr<std::string> HostAgent::path_of(const std::string& path) const {
  if (!path.starts_with("~/")) return path;
  if (options_.home.empty()) return FailedPrecondition("'{}': the environment has no HOME here", path);
  return options_.home + path.substr(1);
}

HostReply HostAgent::run(const HostOrder& order) const {
  HostReply reply;
  reply.version = options_.version;
  const auto folder = path_of(order.workdir);
  if (!folder.ok()) {
    reply.status = folder.status();
    return reply;
  }
  const Place place{.folder = *folder, .binary = *folder + "/bin/shoal"};
  switch (order.verb) {
    case HostVerb::kStart:
      reply.status = start(order, place, reply);
      break;
    case HostVerb::kStop:
      reply.status = stop(order, place, reply);
      break;
    case HostVerb::kStatus:
      for (const HostProcess& process : order.processes) reply.processes.push_back(report_of(process, place));
      break;
    case HostVerb::kLogs:
      reply.status = logs(order, place, reply);
      break;
    case HostVerb::kHealth:
      reply.status = health(order, place, reply);
      break;
    case HostVerb::kFetch:
      reply.status = fetch(order, reply);
      break;
    case HostVerb::kMeasure:
      reply.status = measure(order, reply);
      break;
  }
  return reply;
}

ProcessReport HostAgent::report_of(const HostProcess& process, const Place& place) const {
  ProcessReport report{.id = process.id};
  const auto record = ReadPidFile(place.pid_file(process));
  if (!record.ok()) {
    report.error = Message(record.status());
    return report;
  }
  if (!record->has_value()) return report;
  const ProcessRecord& started = **record;
  report.started_unix = started.started_unix;
  report.pid = started.pid;
  const ProcessLife life = LifeOf(started);
  if (life == ProcessLife::kRunning) {
    report.state = HostProcessState::kRunning;
    const bool other_binary = !place.binary_hash.empty() && started.binary != place.binary_hash;
    report.outdated =
        other_binary || (!process.fingerprint.empty() && started.command != process.fingerprint);
    return report;
  }
  report.state = HostProcessState::kDied;
  report.log_tail = TailOf(place.log(process), kTailLines).lines;
  if (life == ProcessLife::kOther) {
    report.note = fmt::format("PID {} belongs to another process by now, which is left alone", started.pid);
  }
  return report;
}

absl::Status HostAgent::start(const HostOrder& order, const Place& given, HostReply& reply) const {
  Place place = given;
  for (const char* below : {"", "/run", "/logs", "/bin"}) {
    RETURN_IF_ERROR(MakePrivateFolder(place.folder + below));
  }
  ASSIGN_OR_RETURN(const FileHandle lock, LockFolder(place.folder + "/run/lock"));
  for (const HostFile& file : order.files) {
    RETURN_IF_ERROR(PlaceFile(place.folder + "/" + file.name, file.content, file.secret));
  }
  ASSIGN_OR_RETURN(place.binary_hash, Sha256OfFile(place.binary));
  std::vector<int64_t> log_begins;
  for (const HostProcess& process : order.processes) {
    ProcessReport report = report_of(process, place);
    log_begins.push_back(SizeOf(place.log(process)));
    if (report.state != HostProcessState::kRunning && report.error.empty()) {
      report = {.id = process.id};
      const absl::Status started = start_one(process, place, report);
      log_begins.back() = std::min(log_begins.back(), SizeOf(place.log(process)));
      if (!started.ok()) report.error = Message(started);
    }
    reply.processes.push_back(std::move(report));
  }
  wait_until_up(order, place, reply, log_begins);
  return absl::OkStatus();
}

absl::Status HostAgent::start_one(const HostProcess& process, const Place& place,
                                  ProcessReport& report) const {
  if (!process.probe.empty() && IsPortOpen(process.probe, Deadline::after_ms(kConnectMs))) {
    return FailedPrecondition(
        "{} is in use by a process that `shoal up` did not start; end it, or choose another port",
        process.probe);
  }
  const std::string log = place.log(process);
  if (SizeOf(log) > kLogKeptBytes) rename(log.c_str(), (log + ".old").c_str());
  DetachedProcess detached{.argv = {place.binary}, .folder = place.folder, .log = log};
  detached.argv.insert(detached.argv.end(), process.args.begin(), process.args.end());
  for (const std::string& root : process.model_roots) {
    ASSIGN_OR_RETURN(std::string path, path_of(root));
    detached.argv.push_back("--model-root");
    detached.argv.push_back(std::move(path));
  }
  for (const std::string& variable : options_.environment) {
    if (!process.env.contains(variable.substr(0, variable.find('='))))
      detached.environment.push_back(variable);
  }
  for (const auto& [name, value] : process.env) detached.environment.push_back(name + "=" + value);
  ASSIGN_OR_RETURN(const int pid, StartDetached(detached));
  report.fresh = true;
  report.pid = pid;
  auto record = IdentifyProcess(pid);
  const bool ended = !record.ok();
  if (ended)
    record = ProcessRecord{.pid = pid, .boot_id = "ended at once"};  // Nobody's: it is only looked at.
  record->started_unix = report.started_unix = UnixSeconds();
  record->binary = place.binary_hash;
  record->command = process.fingerprint;
  const absl::Status written = WritePidFile(place.pid_file(process), *record);
  if (!written.ok()) {  // Nobody could end it later.
    EndProcess(*record, std::chrono::seconds(1)).IgnoreError();
    return written;
  }
  report.state = ended ? HostProcessState::kDied : HostProcessState::kRunning;
  return ended ? Unavailable("it ended at once{}", HowItEnded(pid)) : absl::OkStatus();
}

void HostAgent::wait_until_up(const HostOrder& order, const Place& place, HostReply& reply,
                              const std::vector<int64_t>& log_begins) const {
  const Deadline deadline = Deadline::after_ms(order.timeout_ms);
  for (size_t i = 0; i < order.processes.size(); ++i) {
    const HostProcess& process = order.processes[i];
    ProcessReport& report = reply.processes[i];
    if (!report.fresh) continue;
    while (report.error.empty()) {
      if (report_of(process, place).state != HostProcessState::kRunning) {
        report.state = HostProcessState::kDied;
        report.error =
            fmt::format("it ended{} before its port {} was open", HowItEnded(report.pid), process.probe);
      } else if (process.probe.empty() || IsPortOpen(process.probe, Deadline::after_ms(kConnectMs))) {
        break;
      } else if (deadline.expired()) {
        report.error = fmt::format("its port {} was not open after {} ms", process.probe, order.timeout_ms);
      } else {
        poll(nullptr, 0, kLookMs);
      }
    }
    if (!report.error.empty()) report.log_tail = TailOf(place.log(process), kTailLines, log_begins[i]).lines;
  }
}

absl::Status HostAgent::stop(const HostOrder& order, const Place& place, HostReply& reply) const {
  std::error_code ignored;
  if (!std::filesystem::is_directory(place.folder + "/run", ignored)) {
    for (const HostProcess& process : order.processes) reply.processes.push_back({.id = process.id});
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const FileHandle lock, LockFolder(place.folder + "/run/lock"));
  for (const HostProcess& process : order.processes) {
    ProcessReport report = report_of(process, place);
    const auto record = ReadPidFile(place.pid_file(process));
    if (record.ok() && record->has_value()) {
      const absl::Status ended = EndProcess(**record, std::chrono::milliseconds(order.timeout_ms));
      HowItEnded((*record)->pid);  // Takes note of a child of ours.
      if (ended.ok()) {
        report.fresh = report.state == HostProcessState::kRunning;
        report.state = HostProcessState::kStopped;
        unlink(place.pid_file(process).c_str());
      } else {
        report.error = Message(ended);
      }
    }
    reply.processes.push_back(std::move(report));
  }
  return absl::OkStatus();
}

absl::Status HostAgent::logs(const HostOrder& order, const Place& place, HostReply& reply) const {
  std::vector<LogFollower> followers;
  for (const HostProcess& process : order.processes) {
    const std::string path = place.log(process);
    LogTail tail = TailOf(path, order.lines);
    for (std::string& line : tail.lines) {
      options_.emit({.kind = HostEvent::Kind::kLog, .id = process.id, .text = std::move(line)});
    }
    reply.processes.push_back({.id = process.id, .log_end = tail.end});
    if (order.follow) followers.emplace_back(path, process.log_from);
  }
  while (order.follow) {
    for (size_t i = 0; i < followers.size(); ++i) {
      followers[i].poll([&](std::string_view line) {
        options_.emit(
            {.kind = HostEvent::Kind::kLog, .id = order.processes[i].id, .text = std::string(line)});
      });
    }
    if (options_.asker_gone()) break;
    poll(nullptr, 0, 2 * kLookMs);
  }
  return absl::OkStatus();
}

}  // namespace shoal
