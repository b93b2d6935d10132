#include "launch/subprocess.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include "base/file_handle.h"
#include "base/status.h"
#include "base/system_calls.h"
#include "base/text.h"

extern char** environ;

namespace shoal {
namespace {

constexpr size_t kErrorsKept = 16 << 10;
constexpr int64_t kLookMs =
    20;  ///< How often we look whether it has ended: a grandchild may hold its output open.
constexpr int64_t kTermMs = 500;

/// Both ends of a stream between two processes.
struct Stream {
  FileHandle ours;
  FileHandle theirs;
};

absl::StatusOr<Stream> OpenStream() {
  std::array<FileHandle, 2> ends;
  if (const int error = OpenSocketPair(ends); error != 0) {
    return Unavailable("cannot make a pipe: {}", std::strerror(error));
  }
  fcntl(ends[0].fd(), F_SETFL, O_NONBLOCK);
  return Stream{std::move(ends[0]), std::move(ends[1])};
}

std::vector<char*> Pointers(const std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (const std::string& word : words) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

/// What posix_spawn needs, freed at the end.
class SpawnPlan {
 public:
  SpawnPlan() {
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    sigset_t none;
    sigset_t all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    set_flags(0);
  }
  ~SpawnPlan() {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;

  void set_flags(int flags) {
    posix_spawnattr_setflags(&attributes,
                             static_cast<short>(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | flags));
  }

  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
};

absl::Status SpawnError(const std::string& program, int error) {
  if (error == ENOENT) return NotFound("cannot run '{}': no such program", program);
  if (error == EACCES) return PermissionDenied("cannot run '{}': {}", program, std::strerror(error));
  return Unavailable("cannot run '{}': {}", program, std::strerror(error));
}

/// A program that runs, with our ends of its streams. Ended and waited for at the latest with this object.
class Running {
 public:
  static absl::StatusOr<Running> Start(const SubprocessOptions& options) {
    ASSIGN_OR_RETURN(Stream input, OpenStream());
    ASSIGN_OR_RETURN(Stream output, OpenStream());
    ASSIGN_OR_RETURN(Stream errors, OpenStream());
    SpawnPlan plan;
    posix_spawn_file_actions_adddup2(&plan.actions, input.theirs.fd(), 0);
    posix_spawn_file_actions_adddup2(&plan.actions, output.theirs.fd(), 1);
    posix_spawn_file_actions_adddup2(&plan.actions, errors.theirs.fd(), 2);
    pid_t pid = -1;
    const int error = posix_spawnp(&pid, options.argv[0].c_str(), &plan.actions, &plan.attributes,
                                   Pointers(options.argv).data(), environ);
    if (error != 0) return SpawnError(options.argv[0], error);
    return Running(pid, std::move(input.ours), std::move(output.ours), std::move(errors.ours));
  }
  Running(Running&& other) noexcept
      : pid_(std::exchange(other.pid_, -1)),
        input_(std::move(other.input_)),
        output_(std::move(other.output_)),
        errors_(std::move(other.errors_)) {}
  Running& operator=(Running&&) = delete;
  ~Running() { end(); }

  /// Whether it has ended by itself.
  bool ended() {
    if (pid_ < 0) return true;
    int status = 0;
    if (waitpid(pid_, &status, WNOHANG) != pid_) return false;
    note(status);
    return true;
  }

  void end() {
    if (pid_ < 0) return;
    kill(pid_, SIGTERM);
    const Deadline patience = Deadline::after_ms(kTermMs);
    while (!ended()) {
      if (patience.expired()) kill(pid_, SIGKILL);
      poll(nullptr, 0, 5);
    }
  }

  int exit_code() const { return exit_code_; }
  FileHandle& input() { return input_; }
  FileHandle& output() { return output_; }
  FileHandle& errors() { return errors_; }

 private:
  Running(pid_t pid, FileHandle input, FileHandle output, FileHandle errors)
      : pid_(pid), input_(std::move(input)), output_(std::move(output)), errors_(std::move(errors)) {}
  void note(int status) {
    exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    pid_ = -1;
  }

  pid_t pid_;
  int exit_code_ = 0;
  FileHandle input_;
  FileHandle output_;
  FileHandle errors_;
};

/// Takes standard output: whole, or line by line.
class OutputTaker {
 public:
  explicit OutputTaker(const SubprocessOptions& options) : options_(options) {}

  /// False: enough.
  bool take(std::string_view bytes) {
    text_ += bytes;
    if (!options_.on_line) return true;
    size_t begin = 0;
    for (size_t end = 0; (end = text_.find('\n', begin)) != std::string::npos; begin = end + 1) {
      if (!options_.on_line(std::string_view(text_).substr(begin, end - begin))) return false;
    }
    text_.erase(0, begin);
    return true;
  }
  bool too_much() const { return text_.size() > options_.output_max; }
  std::string rest() { return std::move(text_); }

 private:
  const SubprocessOptions& options_;
  std::string text_;
};

/// Reads what is there. Returns false at the end of the stream, which is closed then.
template <typename Take>
bool Drain(FileHandle& stream, Take take) {
  std::array<char, 65536> bytes;
  while (stream.fd() >= 0) {
    const ssize_t got = recv(stream.fd(), bytes.data(), bytes.size(), 0);
    if (got > 0) {
      if (!take(std::string_view(bytes.data(), static_cast<size_t>(got)))) return false;
      continue;
    }
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    stream = FileHandle();
  }
  return false;
}

/// Sends what the program takes of `left`.
void Feed(FileHandle& stream, std::string_view& left) {
  while (stream.fd() >= 0 && !left.empty()) {
    const ssize_t sent = send(stream.fd(), left.data(), left.size(), MSG_NOSIGNAL);
    if (sent < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (sent < 0) {
      stream = FileHandle();  // It reads no more; its exit code says why.
      return;
    }
    left.remove_prefix(static_cast<size_t>(sent));
  }
}

void WaitForAny(Running& running, bool feeding, Deadline deadline) {
  std::array<pollfd, 3> waits = {pollfd{running.output().fd(), POLLIN, 0},
                                 {running.errors().fd(), POLLIN, 0},
                                 {feeding ? running.input().fd() : -1, POLLOUT, 0}};
  poll(waits.data(), waits.size(), static_cast<int>(std::min<int64_t>(kLookMs, deadline.remaining_ms())));
}

}  // namespace

absl::StatusOr<SubprocessResult> RunSubprocess(const SubprocessOptions& options) {
  ASSIGN_OR_RETURN(Running running, Running::Start(options));
  SubprocessResult result;
  OutputTaker output(options);
  const auto keep_errors = [&result](std::string_view bytes) {
    result.errors += bytes;
    if (result.errors.size() > kErrorsKept) result.errors.erase(0, result.errors.size() - kErrorsKept);
    return true;
  };
  std::string_view left = options.input;
  bool wanted = true;
  while (wanted) {
    Feed(running.input(), left);
    if (left.empty() && !options.hold_input) running.input() = FileHandle();
    const bool ended = running.ended();  // Before the streams are read: what it wrote is there.
    Drain(running.output(), [&](std::string_view bytes) { return wanted = output.take(bytes); });
    Drain(running.errors(), keep_errors);
    if (output.too_much()) {
      return ResourceExhausted("'{}' wrote more than {}", options.argv[0],
                               FormatBytes(static_cast<int64_t>(options.output_max)));
    }
    if (ended) break;
    if (options.deadline.expired()) {
      running.end();
      return DeadlineExceeded("'{}' did not end in time{}{}", options.argv[0],
                              result.errors.empty() ? "" : ": ", result.errors);
    }
    WaitForAny(running, !left.empty(), options.deadline);
  }
  running.end();
  result.exit_code = running.exit_code();
  result.output = output.rest();
  if (options.on_line && wanted && !result.output.empty()) options.on_line(std::exchange(result.output, ""));
  return result;
}

absl::StatusOr<int> StartDetached(const DetachedProcess& process) {
  constexpr int kLogMode = 0640;
  const FileHandle log(open(process.log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, kLogMode));
  if (log.fd() < 0) return SystemError("write", process.log, errno);
  SpawnPlan plan;
  posix_spawn_file_actions_addopen(&plan.actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&plan.actions, log.fd(), 1);
  posix_spawn_file_actions_adddup2(&plan.actions, log.fd(), 2);
  plan.set_flags(POSIX_SPAWN_SETSID | GiveNoOtherFiles(plan.actions));
  posix_spawn_file_actions_addchdir_np(&plan.actions, process.folder.c_str());
  // A child of another thread may hold a program that was just written open for a moment: ETXTBSY.
  const Deadline deadline = Deadline::after_ms(kTermMs);
  while (true) {
    pid_t pid = -1;
    const int error = posix_spawn(&pid, process.argv[0].c_str(), &plan.actions, &plan.attributes,
                                  Pointers(process.argv).data(), Pointers(process.environment).data());
    if (error == 0) return pid;
    if (error != ETXTBSY || deadline.expired()) return SpawnError(process.argv[0], error);
    poll(nullptr, 0, static_cast<int>(kLookMs));
  }
}

}  // namespace shoal
