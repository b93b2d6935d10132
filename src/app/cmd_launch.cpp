// `shoal up`, `down`, `restart`, `status`, `logs` and `test`: a whole cluster, from its cluster file.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "app/launch_commands.h"
#include "app/launch_report.h"
#include "base/json.h"
#include "base/process.h"
#include "base/status.h"
#include "base/text.h"
#include "launch/launcher.h"
#include "plan/cluster_file.h"

extern char** environ;

namespace shoal {
namespace {

struct LaunchFlags {
  std::string cluster;
  std::vector<std::string> devices;
  std::vector<std::string> ssh_options;
  double ready_within_s = 600;
  double stop_within_s = 20;
  bool keep = false;
  bool json = false;
  bool follow = false;
  int64_t lines = 20;
  std::string question = "What is the capital of France?";
  int asks = 3;
  double answer_within_s = 120;
  std::string api_key;
};

std::string Home() {
  const char* home = std::getenv("HOME");
  return home == nullptr ? "" : home;
}

/// This program's file, also where another one has taken its name.
std::string OwnBinary() {
  std::error_code error;
  std::string own = OwnProgram();
  std::string path =
      std::filesystem::read_symlink(own, error);  // Where it is a link, it is to the file itself.
  return !error && std::filesystem::exists(path, error) ? path : own;
}

HostAgent::Options AgentOptions() {
  HostAgent::Options options;
  options.home = Home();
  for (char** variable = environ; *variable != nullptr; ++variable)
    options.environment.emplace_back(*variable);
  options.version = kShoalVersion;
  return options;
}

absl::StatusOr<std::unique_ptr<Launcher>> Open(const LaunchFlags& flags) {
  LaunchContext context{.path = flags.cluster, .home = Home(), .binary = OwnBinary()};
  context.is_this_machine = IsThisMachine;
  // Read once: what was checked is what hosts get, whoever edits the file meanwhile.
  ASSIGN_OR_RETURN(const ClusterFile file, ReadClusterFile(flags.cluster, &context.text));
  auto deployment = PlanDeployment(file, context);
  if (!deployment.ok()) return Annotate(deployment.status(), flags.cluster);
  Launcher::Options options;
  options.local = AgentOptions();
  options.ssh_options = flags.ssh_options;
  options.api_key = flags.api_key;
  options.say = [](const std::string& line) { fmt::print(stderr, "{}\n", line); };
  return Launcher::Create(*std::move(deployment), flags.devices, std::move(options));
}

absl::Status Up(const LaunchFlags& flags) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Launcher> launcher, Open(flags));
  RETURN_IF_ERROR(launcher->up({FromSeconds(flags.ready_within_s), flags.keep}));
  fmt::print("{}\n", launcher->deployment().url);
  return absl::OkStatus();
}

absl::Status Down(const LaunchFlags& flags) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Launcher> launcher, Open(flags));
  return launcher->down(FromSeconds(flags.stop_within_s));
}

absl::Status Restart(const LaunchFlags& flags) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Launcher> launcher, Open(flags));
  RETURN_IF_ERROR(launcher->down(FromSeconds(flags.stop_within_s)));
  return launcher->up({FromSeconds(flags.ready_within_s), flags.keep});
}

absl::Status ShowStatus(const LaunchFlags& flags) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Launcher> launcher, Open(flags));
  const std::vector<DeviceReport> reports = launcher->status();
  const auto cluster = launcher->fetch("/cluster/status");
  const bool answered = cluster.ok() && cluster->http_status == 200;
  const ClusterView view = ViewOf(answered ? cluster->body : std::string());
  const std::string why = answered       ? std::string()
                          : cluster.ok() ? fmt::format("/cluster/status answers {}", cluster->http_status)
                                         : Message(cluster.status());
  if (flags.json) {
    fmt::print("{}\n", StatusJson(launcher->deployment(), reports, view, why));
  } else {
    fmt::print("{}", StatusTable(launcher->deployment(), reports, view, why));
  }
  return absl::OkStatus();
}

absl::Status Logs(const LaunchFlags& flags) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Launcher> launcher, Open(flags));
  size_t width = 0;
  for (const HostPlan& host : launcher->deployment().hosts) {
    for (const HostProcess& process : host.processes) width = std::max(width, process.id.size());
  }
  return launcher->logs(flags.lines, flags.follow, [width](const Launcher::LogLine& line) {
    fmt::print("{:<{}} {} | {}\n", line.device, width, line.rank, line.text);
    std::fflush(stdout);
  });
}

absl::Status Test(const LaunchFlags& flags) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Launcher> launcher, Open(flags));
  ASSIGN_OR_RETURN(const HostReply cluster, launcher->fetch("/cluster/status"));
  const ClusterView view = ViewOf(cluster.body);
  std::vector<std::string> away;
  for (const DeviceReport& report : launcher->status()) {
    const auto node = view.nodes.find(report.process.id);
    const std::string state = node == view.nodes.end() ? "not in /cluster/status" : node->second.state;
    if (report.process.state != HostProcessState::kRunning) {
      away.push_back(fmt::format("{} is {}", report.process.id, Name(report.process.state)));
    } else if (state != "up") {
      away.push_back(fmt::format("{} is {}", report.process.id, state));
    }
  }
  if (!away.empty()) return FailedPrecondition("not all devices are up: {}", Join(away, ", "));
  fmt::print("all {} devices are up\n", view.nodes.size());
  std::vector<Measurement> measured;
  for (int i = 0; i < flags.asks; ++i) {
    ASSIGN_OR_RETURN(const HostReply reply,
                     launcher->measure(flags.question, FromSeconds(flags.answer_within_s)));
    if (!reply.measurement.has_value() || reply.measurement->answer.empty()) {
      return Unavailable("the model gave an empty answer to: {}", flags.question);
    }
    measured.push_back(*reply.measurement);
  }
  fmt::print("{}\n{}", measured.front().answer, LatencyTable(measured));
  return absl::OkStatus();
}

/// A command with the flags that all have.
template <typename Run>
Command Declare(Flags root, const char* name, const char* help, Run run,
                const std::function<void(Flags app, LaunchFlags& flags)>& more = {}) {
  auto flags = std::make_shared<LaunchFlags>();
  Flags app = root.add_subcommand(name, help);
  app.add_option("--cluster", flags->cluster,
                 "Cluster file (.json, .yaml): devices, model, and how to start them")
      .envname("SHOAL_CLUSTER")
      .required();
  app.add_option("--ssh-option", flags->ssh_options, "KEY=VALUE for ssh -o, for all hosts; repeatable");
  if (more) more(app, *flags);
  return {app, [flags, run] { return run(*flags); }};
}

void AddDevices(Flags app, LaunchFlags& flags) {
  app.add_option("devices", flags.devices, "Names of devices (default: all)");
}

void AddStartOptions(Flags app, LaunchFlags& flags) {
  AddDevices(app, flags);
  app.add_option("--timeout", flags.ready_within_s, "Seconds until the cluster must serve (default 600)")
      .range(1.0, 86400.0);
  app.add_flag("--keep", flags.keep,
               "Leave what was started running, also where something else could not be started");
}

void AddStopOptions(Flags app, LaunchFlags& flags) {
  app.add_option("--stop-timeout", flags.stop_within_s,
                 "Seconds from SIGTERM to SIGKILL (default 20; give more than serve's --drain-timeout)")
      .range(0.0, 3600.0);
}

void AddApiKey(Flags app, LaunchFlags& flags) {
  app.add_option("--api-key", flags.api_key, "Key of the API, where it asks for one")
      .envname("SHOAL_API_KEY");
}

}  // namespace

Command AddUpCommand(Flags root) {
  return Declare(root, "up", "Start what does not run of a cluster, over ssh and on this machine", Up,
                 AddStartOptions);
}

Command AddDownCommand(Flags root) {
  return Declare(root, "down", "End what `shoal up` started", Down, [](Flags app, LaunchFlags& flags) {
    AddDevices(app, flags);
    AddStopOptions(app, flags);
  });
}

Command AddRestartCommand(Flags root) {
  return Declare(root, "restart", "`shoal down`, then `shoal up`", Restart,
                 [](Flags app, LaunchFlags& flags) {
                   AddStartOptions(app, flags);
                   AddStopOptions(app, flags);
                 });
}

Command AddStatusCommand(Flags root) {
  return Declare(root, "status", "Show the processes of a cluster, and what each holds", ShowStatus,
                 [](Flags app, LaunchFlags& flags) {
                   app.add_flag("--json", flags.json, "For scripts");
                   AddApiKey(app, flags);
                 });
}

Command AddLogsCommand(Flags root) {
  return Declare(root, "logs", "Show the logs of a cluster's processes, by time", Logs,
                 [](Flags app, LaunchFlags& flags) {
                   AddDevices(app, flags);
                   app.add_option("-n,--lines", flags.lines, "The last lines of each log (default 20)")
                       .range(0, 1000000);
                   app.add_flag("-f,--follow", flags.follow, "And what is appended, until Ctrl-C");
                 });
}

Command AddTestCommand(Flags root) {
  return Declare(root, "test", "Check that all devices are up, ask a question, and measure", Test,
                 [](Flags app, LaunchFlags& flags) {
                   app.add_option("--question", flags.question, "What is asked");
                   app.add_option("--asks", flags.asks, "How often (default 3)").range(1, 1000);
                   app.add_option("--timeout", flags.answer_within_s, "Seconds for an answer (default 120)")
                       .range(0.1, 3600.0);
                   AddApiKey(app, flags);
                 });
}

}  // namespace shoal
