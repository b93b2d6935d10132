#include "launch/launcher.h"

#include <algorithm>
#include <map>
#include <thread>
#include <utility>

#include "base/file.h"
#include "base/status.h"
#include "base/text.h"
#include "tls/digest.h"

namespace shoal {
namespace {

constexpr Duration kAskMax = std::chrono::seconds(20);
constexpr Duration kInstallMax = std::chrono::minutes(10);  ///< A binary over a slow link.
constexpr Duration kPortMax = std::chrono::seconds(30);     ///< From the start of a process to its open port.
constexpr Duration kHealthRound = std::chrono::seconds(5);
constexpr Duration kFollowMax = std::chrono::hours(24 * 365);
constexpr Duration kUndoPatience = std::chrono::seconds(5);
constexpr int64_t kKeyFileMax = 1 << 16;
constexpr size_t kKeyBytes = 32;

int64_t Milliseconds(Duration duration) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
}

std::string WithLog(const std::string& text, const std::vector<std::string>& log) {
  if (log.empty()) return text + "; its log is empty";
  std::string all = text + "; the end of its log:";
  for (const std::string& line : log) all += "\n  " + line;
  return all;
}

/// The errors of hosts that do not wait for one another, one a line.
absl::Status Together(const std::vector<absl::Status>& results) {
  absl::StatusCode code = absl::StatusCode::kOk;
  std::string text;
  for (const absl::Status& result : results) {
    if (result.ok()) continue;
    if (code == absl::StatusCode::kOk) code = result.code();
    text += (text.empty() ? "" : "\n") + Message(result);
  }
  return code == absl::StatusCode::kOk ? absl::OkStatus() : MakeError(code, "{}", text);
}

/// What the reports of processes that were to be started say of those that could not be.
absl::Status ErrorsOf(const std::vector<ProcessReport>& reports) {
  std::string text;
  for (const ProcessReport& report : reports) {
    if (report.error.empty()) continue;
    text += (text.empty() ? "" : "\n") +
            WithLog(fmt::format("'{}': {}", report.id, report.error), report.log_tail);
  }
  return text.empty() ? absl::OkStatus() : Unavailable("{}", text);
}

/// "2026-11-21 10:00:00.123", which log lines begin with; "" where this one does not.
std::string_view TimeOf(std::string_view line) {
  constexpr std::string_view kShape = "0000-00-00 00:00:00.000";
  if (line.size() < kShape.size()) return {};
  for (size_t i = 0; i < kShape.size(); ++i) {
    const bool digit = line[i] >= '0' && line[i] <= '9';
    if (kShape[i] == '0' ? !digit : line[i] != kShape[i]) return {};
  }
  return line.substr(0, kShape.size());
}

}  // namespace

Launcher::Launcher(Deployment deployment, Options options)
    : deployment_(std::move(deployment)), options_(std::move(options)) {}

absl::StatusOr<std::unique_ptr<Launcher>> Launcher::Create(Deployment deployment,
                                                           const std::vector<std::string>& devices,
                                                           Options options) {
  std::unique_ptr<Launcher> launcher(new Launcher(std::move(deployment), std::move(options)));
  std::vector<std::string> known;
  for (const HostPlan& plan : launcher->deployment_.hosts) {
    for (const HostProcess& process : plan.processes) known.push_back(process.id);
  }
  for (const std::string& device : devices) {
    if (std::ranges::find(known, device) != known.end()) continue;
    const std::string near = NearestWord(device, known);
    return NotFound("the cluster file has no device '{}'{}", device,
                    near.empty() ? "; it has " + Join(known, ", ") : "; did you mean " + near + "?");
  }
  for (const HostPlan& plan : launcher->deployment_.hosts) {
    Host host{.plan = plan};
    std::ranges::copy_if(plan.processes, std::back_inserter(host.chosen), [&](const HostProcess& process) {
      return devices.empty() || std::ranges::find(devices, process.id) != devices.end();
    });
    host.link = plan.ssh.has_value() ? MakeSshLink({*plan.ssh, launcher->options_.ssh_options})
                                     : MakeLocalLink(launcher->options_.local);
    launcher->hosts_.push_back(std::move(host));
  }
  return launcher;
}

void Launcher::say(const std::string& line) {
  const std::lock_guard lock(saying_);
  options_.say(line);
}

std::vector<absl::Status> Launcher::for_each_host(
    absl::FunctionRef<absl::Status(size_t index, Host& host)> call) {
  std::vector<absl::Status> results(hosts_.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < hosts_.size(); ++i) {
    threads.emplace_back([&, i] { results[i] = Annotate(call(i, hosts_[i]), hosts_[i].plan.name); });
  }
  for (std::thread& thread : threads) thread.join();
  return results;
}

// ------------------------------------------------------------------------------------------------------------------ up

absl::Status Launcher::prepare_key() {
  if (deployment_.key_file.empty()) return absl::OkStatus();
  const std::string& path = deployment_.key_file;
  auto key = ReadTextFile(path, kKeyFileMax);
  if (absl::IsNotFound(key.status())) {
    const std::string folder = path.substr(0, path.rfind('/'));
    if (!folder.empty()) RETURN_IF_ERROR(MakePrivateFolder(folder));
    key = RandomHex(kKeyBytes) + "\n";
    RETURN_IF_ERROR(PlaceFile(path, *key, true));
    say(fmt::format("made the cluster's key, {}", path));
  }
  if (!key.ok()) return key.status();
  key_ = *std::move(key);
  return absl::OkStatus();
}

// A wrong or ended certificate is told here, before anything is copied.
absl::Status Launcher::prepare_certificates() {
  if (deployment_.tls_dir.empty()) return absl::OkStatus();
  for (const Host& host : hosts_) {
    for (const HostProcess& process : host.chosen) {
      auto identity = TlsIdentity::Load(TlsFiles::In(deployment_.tls_dir + "/" + process.id));
      if (!identity.ok()) return Annotate(identity.status(), fmt::format("tls_dir, device '{}'", process.id));
      RETURN_IF_ERROR((*identity)->check_name(process.id));
      certificates_[process.id] = *std::move(identity);
    }
  }
  return absl::OkStatus();
}

absl::Status Launcher::install_all() {
  std::map<std::string, std::string> hashes;
  for (const Host& host : hosts_) {
    if (host.chosen.empty() || hashes.contains(host.plan.binary)) continue;
    ASSIGN_OR_RETURN(hashes[host.plan.binary], Sha256OfFile(host.plan.binary));
  }
  return Together(for_each_host([&](size_t, Host& host) -> absl::Status {
    if (host.chosen.empty()) return absl::OkStatus();
    const std::string& binary = host.plan.binary;
    ASSIGN_OR_RETURN(const bool copied, host.link->install(host.plan.workdir, {binary, hashes.at(binary)},
                                                           Deadline::after(kInstallMax)));
    if (copied) say(fmt::format("{}: copied {} into {}/bin", host.plan.name, binary, host.plan.workdir));
    return absl::OkStatus();
  }));
}

absl::Status Launcher::start_on(Host& host, std::vector<HostProcess> processes,
                                std::vector<HostProcess>& started) {
  HostOrder order{
      .verb = HostVerb::kStart, .workdir = host.plan.workdir, .timeout_ms = Milliseconds(kPortMax)};
  if (!deployment_.key_file.empty()) {
    order.files.push_back({.name = "cluster.key", .content = key_, .secret = true});
  }
  for (const HostProcess& process : processes) {
    const auto own = certificates_.find(process.id);
    if (own == certificates_.end()) continue;
    // As TlsFiles::Find() looks for them: several nodes may share the folder.
    order.files.push_back({.name = process.id + "-ca.pem", .content = own->second->pem().authority});
    order.files.push_back({.name = process.id + "-cert.pem", .content = own->second->certificate()});
    order.files.push_back(
        {.name = process.id + "-key.pem", .content = own->second->pem().key, .secret = true});
  }
  if (processes.front().is_coordinator()) order.files.push_back(deployment_.config);
  order.processes = std::move(processes);
  const Duration wait = kAskMax + kPortMax * static_cast<int64_t>(order.processes.size());
  ASSIGN_OR_RETURN(const HostReply reply,
                   host.link->ask(order, Deadline::after(wait), [](const HostEvent&) {}));
  RETURN_IF_ERROR(reply.status);
  for (size_t i = 0; i < reply.processes.size() && i < order.processes.size(); ++i) {
    const ProcessReport& report = reply.processes[i];
    if (report.fresh) started.push_back(order.processes[i]);
    if (!report.error.empty()) continue;
    if (report.fresh) {
      say(fmt::format("{}: started '{}', PID {}", host.plan.name, report.id, report.pid));
    } else {
      say(fmt::format("{}: '{}' runs already, PID {}{}", host.plan.name, report.id, report.pid,
                      report.outdated ? fmt::format(", with another binary or other settings: "
                                                    "`shoal restart {}` brings it up to date",
                                                    report.id)
                                      : ""));
    }
  }
  return ErrorsOf(reply.processes);
}

absl::Status Launcher::start(bool coordinator, std::vector<std::vector<HostProcess>>& started) {
  return Together(for_each_host([&](size_t index, Host& host) -> absl::Status {
    std::vector<HostProcess> processes;
    std::ranges::copy_if(
        host.chosen, std::back_inserter(processes),
        [coordinator](const HostProcess& process) { return process.is_coordinator() == coordinator; });
    return processes.empty() ? absl::OkStatus() : start_on(host, std::move(processes), started[index]);
  }));
}

absl::Status Launcher::up(const UpOptions& options) {
  RETURN_IF_ERROR(prepare_key());
  RETURN_IF_ERROR(prepare_certificates());
  std::map<std::string, std::string> texts;
  for (const auto& [id, identity] : certificates_) texts[id] = identity->certificate();
  SetFingerprints(deployment_, key_, texts);
  for (size_t i = 0; i < hosts_.size(); ++i) {
    for (HostProcess& process : hosts_[i].chosen) {
      process.fingerprint =
          std::ranges::find(deployment_.hosts[i].processes, process.id, &HostProcess::id)->fingerprint;
    }
  }
  RETURN_IF_ERROR(install_all());
  std::vector<std::vector<HostProcess>> started(hosts_.size());
  absl::Status result = start(false, started);
  if (result.ok()) result = start(true, started);
  if (result.ok() && serves()) result = wait_ready(options.ready_within);
  if (result.ok() || options.keep) return result;
  // Half a cluster is of no use, and in the way of the next attempt.
  const std::vector<absl::Status> undone = for_each_host([&](size_t index, Host& host) -> absl::Status {
    if (started[index].empty()) return absl::OkStatus();
    std::ranges::sort(started[index], {}, &HostProcess::rank);
    RETURN_IF_ERROR(stop_on(host, started[index], kUndoPatience));
    return absl::OkStatus();
  });
  if (const absl::Status left = Together(undone); !left.ok()) say(Message(left));
  return result;
}

bool Launcher::serves() {
  Host& host = hosts_.front();
  const HostProcess& coordinator = host.plan.processes.front();
  if (std::ranges::find(host.chosen, coordinator.id, &HostProcess::id) != host.chosen.end()) return true;
  HostOrder order{.verb = HostVerb::kStatus, .workdir = host.plan.workdir};
  order.processes = {coordinator};
  const auto reply = host.link->ask(order, Deadline::after(kAskMax), [](const HostEvent&) {});
  const bool runs =
      reply.ok() && !reply->processes.empty() && reply->processes.front().state == HostProcessState::kRunning;
  if (!runs) say(fmt::format("the coordinator '{}' does not run: `shoal up` starts it", coordinator.id));
  return runs;
}

absl::Status Launcher::check_alive() {
  for (const DeviceReport& report : status()) {
    if (report.process.state != HostProcessState::kDied) continue;
    return Unavailable("{}: {}", report.host,
                       WithLog(fmt::format("'{}' has ended", report.process.id), report.process.log_tail));
  }
  return absl::OkStatus();
}

absl::Status Launcher::wait_ready(Duration within) {
  const Deadline deadline = Deadline::after(within);
  std::string told;
  while (true) {
    Host& host = hosts_.front();
    HostOrder order{.verb = HostVerb::kHealth, .workdir = host.plan.workdir, .api = deployment_.api};
    order.processes = {host.plan.processes.front()};
    order.timeout_ms = Milliseconds(std::min<Duration>(kHealthRound, deadline.remaining()));
    ASSIGN_OR_RETURN(const HostReply reply, host.link->ask(order, Deadline::after(kAskMax + kHealthRound),
                                                           [&](const HostEvent& event) {
                                                             if (event.text != told)
                                                               say("waiting: " + event.text);
                                                             told = event.text;
                                                           }));
    if (reply.status.ok()) {
      say(fmt::format("serving at {}", deployment_.url));
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(check_alive());
    if (!absl::IsDeadlineExceeded(reply.status)) return Annotate(reply.status, host.plan.name);
    if (!deadline.expired()) continue;
    return DeadlineExceeded("{}: after {:.0f} s {}", host.plan.name, SecondsOf(within),
                            Message(reply.status));
  }
}

// ---------------------------------------------------------------------------------------------------------------- down

absl::Status Launcher::stop_on(Host& host, std::vector<HostProcess> processes, Duration patience) {
  HostOrder order{
      .verb = HostVerb::kStop, .workdir = host.plan.workdir, .timeout_ms = Milliseconds(patience)};
  order.processes = std::move(processes);
  const Duration wait = kAskMax + (patience + kAskMax) * static_cast<int64_t>(order.processes.size());
  const auto reply = host.link->ask(order, Deadline::after(wait), [](const HostEvent&) {});
  if (absl::IsNotFound(reply.status())) return absl::OkStatus();  // Nothing was ever started there.
  if (!reply.ok()) return reply.status();
  RETURN_IF_ERROR(reply->status);
  for (const ProcessReport& report : reply->processes) {
    if (!report.note.empty()) say(fmt::format("{}: '{}': {}", host.plan.name, report.id, report.note));
    if (report.fresh) say(fmt::format("{}: stopped '{}'", host.plan.name, report.id));
  }
  return ErrorsOf(reply->processes);
}

absl::Status Launcher::down(Duration patience) {
  std::vector<absl::Status> results;
  for (const bool coordinator : {true, false}) {  // The coordinator first, so that it reports no lost worker.
    const std::vector<absl::Status> some = for_each_host([&](size_t, Host& host) -> absl::Status {
      std::vector<HostProcess> processes;
      std::ranges::copy_if(
          host.chosen, std::back_inserter(processes),
          [coordinator](const HostProcess& process) { return process.is_coordinator() == coordinator; });
      return processes.empty() ? absl::OkStatus() : stop_on(host, std::move(processes), patience);
    });
    results.insert(results.end(), some.begin(), some.end());
  }
  return Together(results);
}

// ---------------------------------------------------------------------------------------------------------- to be seen

std::vector<DeviceReport> Launcher::status() {
  std::vector<std::vector<DeviceReport>> reports(hosts_.size());
  for_each_host([&](size_t index, Host& host) -> absl::Status {
    HostOrder order{.verb = HostVerb::kStatus, .workdir = host.plan.workdir};
    order.processes = host.chosen;
    const auto reply = host.link->ask(order, Deadline::after(kAskMax), [](const HostEvent&) {});
    for (size_t i = 0; i < host.chosen.size(); ++i) {
      DeviceReport report{.host = host.plan.name, .rank = host.chosen[i].rank};
      report.process.id = host.chosen[i].id;
      if (reply.ok() && i < reply->processes.size()) {
        report.process = reply->processes[i];
      } else if (!absl::IsNotFound(reply.status())) {
        report.process.error = Message(reply.ok() ? reply->status : reply.status());
      }
      reports[index].push_back(std::move(report));
    }
    return absl::OkStatus();
  });
  std::vector<DeviceReport> all;
  for (std::vector<DeviceReport>& some : reports) std::ranges::move(some, std::back_inserter(all));
  std::ranges::sort(all, {}, &DeviceReport::rank);
  return all;
}

absl::StatusOr<HostReply> Launcher::ask_api(HostOrder order, Deadline deadline) {
  Host& host = hosts_.front();
  order.workdir = host.plan.workdir;
  order.api = deployment_.api;
  order.api_key = options_.api_key;
  const auto reply = host.link->ask(order, deadline, [](const HostEvent&) {});
  if (!reply.ok()) return Annotate(reply.status(), host.plan.name);
  if (!reply->status.ok()) return Annotate(reply->status, host.plan.name);
  return *reply;
}

absl::StatusOr<HostReply> Launcher::fetch(const std::string& path) {
  return ask_api({.verb = HostVerb::kFetch, .timeout_ms = 5000, .path = path}, Deadline::after(kAskMax));
}

absl::StatusOr<HostReply> Launcher::measure(const std::string& question, Duration timeout) {
  return ask_api({.verb = HostVerb::kMeasure, .timeout_ms = Milliseconds(timeout), .path = question},
                 Deadline::after(kAskMax + timeout));
}

absl::Status Launcher::logs(int64_t lines, bool follow,
                            const std::function<void(const LogLine& line)>& take) {
  // What is appended between the two orders to a host is in the second: it goes on where the first one ended.
  const auto ask = [&](Host& host, bool live, const EventTaker& taker) -> absl::Status {
    if (host.chosen.empty()) return absl::OkStatus();
    HostOrder order{
        .verb = HostVerb::kLogs, .workdir = host.plan.workdir, .lines = live ? 0 : lines, .follow = live};
    order.processes = host.chosen;
    ASSIGN_OR_RETURN(const HostReply reply,
                     host.link->ask(order, Deadline::after(live ? kFollowMax : kAskMax), taker));
    for (size_t i = 0; i < host.chosen.size() && i < reply.processes.size(); ++i)
      host.chosen[i].log_from = reply.processes[i].log_end;
    return reply.status;
  };
  const auto line_of = [](const Host& host, const HostEvent& event) {
    const auto process = std::ranges::find(host.chosen, event.id, &HostProcess::id);
    return LogLine{event.id, process == host.chosen.end() ? 0 : process->rank, event.text};
  };
  std::vector<std::map<std::string, std::vector<LogLine>>> said(hosts_.size());
  const absl::Status begun = Together(for_each_host([&](size_t index, Host& host) {
    return ask(host, false,
               [&](const HostEvent& event) { said[index][event.id].push_back(line_of(host, event)); });
  }));
  std::vector<std::vector<LogLine>> logs;
  for (auto& some : said) {
    for (auto& [id, log] : some) logs.push_back(std::move(log));
  }
  for (const LogLine& line : MergeByTime(logs)) take(line);
  if (!begun.ok() || !follow) return begun;
  std::mutex taking;
  return Together(for_each_host([&](size_t, Host& host) {
    const absl::Status ended = ask(host, true, [&](const HostEvent& event) {
      const std::lock_guard lock(taking);
      take(line_of(host, event));
    });
    if (!host.chosen.empty()) {
      say(fmt::format("{}: its logs are not followed any more: {}", host.plan.name,
                      ended.ok() ? "the host ended it" : Message(ended)));
    }
    return ended;
  }));
}

std::vector<Launcher::LogLine> MergeByTime(const std::vector<std::vector<Launcher::LogLine>>& logs) {
  struct Entry {
    std::string time;
    size_t log;
    size_t line;
  };
  std::vector<Entry> entries;
  for (size_t log = 0; log < logs.size(); ++log) {
    std::string time;
    for (size_t line = 0; line < logs[log].size(); ++line) {
      // A clock that was set back must not change the order of one log.
      time = std::max(time, std::string(TimeOf(logs[log][line].text)));
      entries.push_back({time, log, line});
    }
  }
  std::ranges::stable_sort(entries, [](const Entry& a, const Entry& b) { return a.time < b.time; });
  std::vector<Launcher::LogLine> merged;
  for (const Entry& entry : entries) merged.push_back(logs[entry.log][entry.line]);
  return merged;
}

}  // namespace shoal
