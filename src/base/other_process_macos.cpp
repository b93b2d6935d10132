// base/other_process.h on macOS.
#include <sys/event.h>
#include <sys/sysctl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "base/other_process.h"
#include "base/status.h"
#include "base/sysctl.h"

namespace shoal {

absl::StatusOr<std::string> BootId() {
  std::optional<std::string> id = SystemText("kern.bootsessionuuid");
  if (!id.has_value()) return Unavailable("the system does not name this start of it (kern.bootsessionuuid)");
  return *std::move(id);
}

absl::StatusOr<uint64_t> StartOfProcess(int pid) {
  int name[] = {CTL_KERN, KERN_PROC, KERN_PROC_PID, pid};
  kinfo_proc info = {};
  size_t size = sizeof info;
  if (sysctl(name, 4, &info, &size, nullptr, 0) != 0 || size == 0)
    return NotFound("there is no process {}", pid);
  if (info.kp_proc.p_stat == SZOMB) return NotFound("process {} has ended", pid);
  const timeval at = info.kp_proc.p_starttime;
  return static_cast<uint64_t>(at.tv_sec) * 1'000'000 + static_cast<uint64_t>(at.tv_usec);
}

std::optional<ProcessHandle> ProcessHandle::Open(int pid) {
  FileHandle queue(kqueue());
  struct kevent wanted = {};
  EV_SET(&wanted, static_cast<uintptr_t>(pid), EVFILT_PROC, EV_ADD, NOTE_EXIT, 0, nullptr);
  if (queue.fd() < 0 || kevent(queue.fd(), &wanted, 1, nullptr, 0, nullptr) != 0) return std::nullopt;
  return ProcessHandle(pid, std::move(queue));
}

// By PID, for there are no other handles here. A process that ended a moment ago could be taken for one that has its PID
// since; PIDs are given in turn, so that it would be about a hundred thousand processes later.
int ProcessHandle::send(int signal) const { return kill(pid_, signal) == 0 || errno == ESRCH ? 0 : errno; }

bool ProcessHandle::wait_for_end(Duration longest) const {
  const auto s = std::chrono::floor<std::chrono::seconds>(longest);
  timespec limit = {};
  limit.tv_sec = static_cast<time_t>(s.count());
  limit.tv_nsec = static_cast<long>(std::chrono::nanoseconds(longest - s).count());
  struct kevent ended = {};
  // An event is told once; who asks again sees that nobody has the PID.
  return kevent(file_.fd(), nullptr, 0, &ended, 1, &limit) > 0 || (kill(pid_, 0) != 0 && errno == ESRCH);
}

}  // namespace shoal
