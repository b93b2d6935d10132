// What `shoal up` and its like ask of a host, and what the host answers. On a host, `shoal host-agent` reads an order, a
// line of JSON on standard input, and writes events, each a line that begins with kEventMark. What else stands there, such
// as the greeting of a login shell, is noise.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shoal {

inline constexpr int kHostProtocol = 1;
inline constexpr std::string_view kEventMark = "@shoal ";

/// A process that a host is to run.
struct HostProcess {
  std::string id;                 ///< The device's name; it names the log and the PID file.
  int rank = 0;                   ///< 0: the coordinator.
  std::vector<std::string> args;  ///< Behind the program's name.
  std::vector<std::string>
      model_roots;  ///< Further arguments, "--model-root PATH"; "~/" is the user's home there.
  std::map<std::string, std::string> env;
  std::string probe;                ///< HOST:PORT that is open when the process is up, as seen on the host.
  std::string fingerprint;          ///< Of all that the process is started with but the binary.
  std::optional<int64_t> log_from;  ///< Byte of its log from which on it is followed; none: the end.

  bool is_coordinator() const { return rank == 0; }
  std::string log_name() const { return is_coordinator() ? "api_server.log" : id + "_server.log"; }
};

/// A small file that the host is to have in its folder.
struct HostFile {
  std::string name;
  std::string content;
  bool secret = false;  ///< Readable by its owner only.
};

enum class HostVerb : uint8_t {
  kStart,  ///< Places files, starts those of `processes` that don't run, and waits until their ports are open.
  kStop,   ///< Ends those that run.
  kStatus,
  kLogs,     ///< The last `lines` lines of each log; `follow`: and what is appended, until we are gone.
  kHealth,   ///< Waits until GET /health answers 200.
  kFetch,    ///< GET `path`.
  kMeasure,  ///< Asks the model `path`'s question, and measures.
};

struct HostOrder {
  HostVerb verb = HostVerb::kStatus;
  std::string workdir;  ///< Absolute, or below "~/".
  std::vector<HostFile> files;
  std::vector<HostProcess> processes;
  int64_t timeout_ms = 10000;
  int64_t lines = 20;
  bool follow = false;
  std::string api;   ///< HOST:PORT of the API, as seen on the host.
  std::string path;  ///< Of kFetch; the question of kMeasure.
  std::string api_key;
};

enum class HostProcessState : uint8_t {
  kRunning,
  kStopped,  ///< It was never started, or was stopped.
  kDied,     ///< It was started, and ended by itself.
};

struct ProcessReport {
  std::string id;
  HostProcessState state = HostProcessState::kStopped;
  int pid = 0;
  int64_t started_unix = 0;
  bool fresh = false;     ///< Started, or stopped, by this order.
  bool outdated = false;  ///< It runs another binary, or was started with something else.
  std::string note;       ///< What else is worth telling.
  std::string error;      ///< Of this process, with what was tried.
  std::vector<std::string> log_tail;
  std::optional<int64_t> log_end;  ///< Of kLogs: behind the last complete line that was read.
};

struct Measurement {
  double first_token_ms = 0;
  double total_ms = 0;
  int64_t tokens = 0;
  std::string answer;
};

struct HostReply {
  std::vector<ProcessReport> processes;
  std::string version;  ///< Of the shoal there.
  int http_status = 0;
  std::string body;
  std::optional<Measurement> measurement;
  absl::Status status;
};

struct HostEvent {
  enum class Kind : uint8_t { kLog, kProgress, kReply };
  Kind kind = Kind::kReply;
  std::string id;    ///< Of kLog.
  std::string text;  ///< Of kLog, a line; of kProgress.
  HostReply reply;   ///< Of kReply, the last event.
};

/// One line, without its end.
std::string FormatOrder(const HostOrder& order);
/// InvalidArgument, which names what is wrong; for an order of another kHostProtocol it says what to do.
absl::StatusOr<HostOrder> ParseOrder(std::string_view line);

/// One line with its mark, without its end.
std::string FormatEvent(const HostEvent& event);
/// A line without its mark. InvalidArgument names what is wrong.
absl::StatusOr<HostEvent> ParseEvent(std::string_view line);

/// "running", "stopped", "died".
std::string_view Name(HostProcessState state);

}  // namespace shoal
