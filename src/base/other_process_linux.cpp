// base/other_process.h where the kernel is Linux.
#include <fmt/format.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "base/file.h"
#include "base/other_process.h"
#include "base/process_stat.h"
#include "base/status.h"

namespace shoal {
namespace {

constexpr int64_t kProcFileMax = 1 << 16;

}  // namespace

absl::StatusOr<std::string> BootId() {
  ASSIGN_OR_RETURN(std::string text, ReadTextFile("/proc/sys/kernel/random/boot_id", kProcFileMax));
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

absl::StatusOr<uint64_t> StartOfProcess(int pid) {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(fmt::format("/proc/{}/stat", pid), kProcFileMax));
  ASSIGN_OR_RETURN(const ProcessStat stat, ParseProcessStat(text));
  if (stat.state == 'Z' || stat.state == 'X') return NotFound("process {} has ended", pid);
  return stat.start_ticks;
}

std::optional<ProcessHandle> ProcessHandle::Open(int pid) {
  FileHandle file(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (file.fd() < 0) return std::nullopt;
  return ProcessHandle(pid, std::move(file));
}

int ProcessHandle::send(int signal) const {
  const bool sent = syscall(SYS_pidfd_send_signal, file_.fd(), signal, nullptr, 0) == 0 || errno == ESRCH;
  return sent ? 0 : errno;
}

bool ProcessHandle::wait_for_end(Duration longest) const {
  pollfd wait{file_.fd(), POLLIN, 0};
  return poll(&wait, 1, static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(longest).count())) > 0;
}

}  // namespace shoal
