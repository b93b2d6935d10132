// `shoal host-agent`: what `shoal up` and its like run on a host, over ssh.
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>

#include "app/launch_commands.h"
#include "base/status.h"
#include "launch/host_agent.h"

extern char** environ;

namespace shoal {
namespace {

constexpr size_t kOrderMax = size_t{8} << 20;

/// Standard input up to the end of the first line.
absl::StatusOr<std::string> ReadOrder() {
  std::string line;
  while (line.size() <= kOrderMax) {
    char c = 0;
    const ssize_t got = read(STDIN_FILENO, &c, 1);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return InvalidArgument("host-agent: expected an order, a line of JSON, on standard input");
    if (c == '\n') return line;
    line += c;
  }
  return InvalidArgument("host-agent: the order has more than {} bytes", kOrderMax);
}

/// Whether standard input has ended.
bool InputEnded() {
  pollfd wait{STDIN_FILENO, POLLIN, 0};
  if (poll(&wait, 1, 0) <= 0) return false;
  char c = 0;
  return read(STDIN_FILENO, &c, 1) == 0;
}

absl::Status RunAgent() {
  std::signal(SIGPIPE, SIG_IGN);
  std::atomic<bool> unheard{false};
  const auto emit = [&unheard](const HostEvent& event) {
    const std::string line = FormatEvent(event) + "\n";
    if (std::fwrite(line.data(), 1, line.size(), stdout) != line.size() || std::fflush(stdout) != 0)
      unheard = true;
  };
  ASSIGN_OR_RETURN(const std::string line, ReadOrder());
  HostEvent last{.kind = HostEvent::Kind::kReply};
  const auto order = ParseOrder(line);
  if (order.ok()) {
    HostAgent::Options options;
    if (const char* home = std::getenv("HOME"); home != nullptr) options.home = home;
    for (char** variable = environ; *variable != nullptr; ++variable)
      options.environment.emplace_back(*variable);
    options.version = kShoalVersion;
    options.emit = emit;
    options.asker_gone = [&unheard] { return unheard || InputEnded(); };
    last.reply = HostAgent(std::move(options)).run(*order);
  } else {
    last.reply.status = order.status();
  }
  emit(last);
  return absl::OkStatus();
}

}  // namespace

Command AddHostAgentCommand(Flags root) {
  Flags app =
      root.add_subcommand("host-agent", "Used by `shoal up` and its like on each host; not for people");
  return {app, RunAgent};
}

}  // namespace shoal
