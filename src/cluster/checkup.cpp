#include "cluster/checkup.h"

#include <algorithm>
#include <cstdlib>

#include "base/exposure.h"
#include "base/status.h"
#include "base/text.h"
#include "wire/key_auth.h"

namespace shoal {
namespace {

constexpr int64_t kDescriptorsMin = 1024;
constexpr int64_t kClockAdviceSeconds = 10;
/// A step's rows should cross a link in less than a layer takes.
constexpr int64_t kSlowRoundTripUs = 2000;
constexpr int64_t kSlowBytesPerSecond = 20 << 20;

Finding Ok(const std::string& node, std::string check, std::string text) {
  return {node, std::move(check), CheckResult::kOk, std::move(text), ""};
}

bool Has(std::string_view text, std::string_view word) { return text.find(word) != std::string_view::npos; }

Finding CheckMemory(const std::string& node, const MachineReport& machine) {
  Finding finding = Ok(node, "memory",
                       fmt::format("{} of {} are available", FormatBytes(machine.memory_available),
                                   FormatBytes(machine.memory_total)));
  if (machine.memory_total > 0 && machine.memory_available < machine.memory_total / 4) {
    finding.verdict = CheckResult::kAdvice;
    finding.remedy = fmt::format("other programs use the rest: end some, or start shoal with --memory {}MiB",
                                 std::max<int64_t>(machine.memory_available / 10 * 9 >> 20, 1));
  }
  return finding;
}

Finding CheckLimit(const std::string& node, const MachineReport& machine) {
  Finding finding = Ok(node, "limits", fmt::format("{} CPUs, {} cores", machine.cpus, machine.cores));
  if (machine.memory_limit <= 0 || machine.memory_limit >= machine.memory_total) {
    finding.text += ", no memory limit of a control group";
    return finding;
  }
  finding.text += fmt::format(", a control group allows {}", FormatBytes(machine.memory_limit));
  finding.verdict = CheckResult::kAdvice;
  finding.remedy =
      "shoal keeps to it; to give more: systemctl set-property UNIT MemoryMax=SIZE, docker run --memory "
      "SIZE, "
      "or resources.limits.memory of the pod";
  return finding;
}

Finding CheckPages(const std::string& node, const MachineReport& machine) {
  if (machine.huge_pages != "never")
    return Ok(
        node, "huge pages",
        machine.huge_pages.empty() ? "the system does not say" : "transparent ones: " + machine.huge_pages);
  return {node, "huge pages", CheckResult::kAdvice,
          "transparent huge pages are off: reading weights takes longer",
          "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"};
}

Finding CheckCpu(const std::string& node, const MachineReport& machine) {
  const std::string cpu = machine.cpu_name.empty() ? "CPU" : machine.cpu_name;
  if (machine.isa != "reference") return Ok(node, "cpu", fmt::format("{}: {}", cpu, machine.isa));
  return {node, "cpu", CheckResult::kAdvice,
          fmt::format(
              "{} has none of the instruction sets that shoal has fast kernels for: it is many times slower",
              cpu),
          "use a CPU with AVX2 (x86, since 2013) or 64-bit ARM; a virtual machine needs its host's CPU model "
          "(qemu: -cpu host)"};
}

Finding CheckDescriptors(const std::string& node, const MachineReport& machine) {
  if (machine.descriptors >= kDescriptorsMin || machine.descriptors <= 0)
    return Ok(node, "descriptors", fmt::format("{} may be open", machine.descriptors));
  return {node, "descriptors", CheckResult::kAdvice,
          fmt::format("{} may be open: connections are refused early", machine.descriptors),
          "ulimit -Hn 65536 before the start, or LimitNOFILE=65536 in the unit"};
}

}  // namespace

std::string_view Name(CheckResult verdict) {
  switch (verdict) {
    case CheckResult::kOk:
      return "ok";
    case CheckResult::kAdvice:
      return "advice";
    case CheckResult::kWrong:
      break;
  }
  return "wrong";
}

std::vector<Finding> CheckMachine(const std::string& node, const MachineReport& machine) {
  return {CheckCpu(node, machine), CheckMemory(node, machine), CheckLimit(node, machine),
          CheckPages(node, machine), CheckDescriptors(node, machine)};
}

Finding CheckBuildOf(const std::string& node, const std::string& address, const WorkerFacts& facts,
                     const OwnNode& own) {
  const absl::Status same = CheckBuild(facts, address, own);
  if (same.ok()) {
    return Ok(node, "version",
              fmt::format("shoal {}, wire version {}, {}", facts.version, facts.wire_version,
                          facts.numerics_class));
  }
  return {node, "version", CheckResult::kWrong, Message(same),
          "install the same shoal on all nodes, and start it again"};
}

Finding CheckCertificate(const std::string& node, const CertificateFacts& facts, int64_t now_s) {
  const std::string warning = ExpiryWarning(facts, now_s);
  if (warning.empty())
    return Ok(node, "certificate", fmt::format("for '{}', until {}", facts.subject, DayOf(facts.ends_s)));
  return {
      node, "certificate", CheckResult::kAdvice, warning,
      fmt::format("shoal cert node {} --dir DIR, copy it to the node, and start it again", facts.subject)};
}

Finding CheckClock(const std::string& node, int64_t ahead_s) {
  const std::string text = ahead_s == 0 ? "as this machine's"
                                        : fmt::format("{} s {} this machine's", std::abs(ahead_s),
                                                      ahead_s < 0 ? "behind" : "ahead of");
  if (std::abs(ahead_s) < kClockAdviceSeconds) return Ok(node, "clock", text);
  return {node, "clock", CheckResult::kAdvice,
          text + ": times in logs differ as much, and certificates begin and end by it",
          "on both: sudo timedatectl set-ntp true"};
}

Finding CheckAnswer(const std::string& node, const std::string& address, const absl::Status& answer) {
  if (answer.ok()) return Ok(node, "port", fmt::format("{} answers", address));
  const std::string said = Message(answer);
  Finding finding{node, "port", CheckResult::kWrong, said, ""};
  const auto at = ParseHostPort(address);
  const std::string port = at.ok() ? fmt::format("{}", at->port) : "PORT";
  if (absl::IsUnauthenticated(answer)) {
    finding.check = "key";
    finding.remedy =
        "give all nodes the same file: --key-file FILE (here, too: shoal doctor --key-file FILE)";
  } else if (Has(said, "resolution") || Has(said, "resolve") || Has(said, "not known")) {
    finding.remedy = "the name is not known here: check it, or write the number of the address";
  } else if (Has(said, "refused")) {
    finding.remedy = fmt::format(
        "nobody listens there. On '{}': shoal worker --listen 0.0.0.0:{} --model-root DIR --key-file FILE (a "
        "worker that "
        "listens on 127.0.0.1 is reached from its own machine only)",
        node, port);
  } else if (absl::IsUnimplemented(answer)) {
    finding.remedy = "an older shoal is there: install the same on all nodes";
  } else {
    finding.remedy = fmt::format(
        "is the machine on (ping {})? Is its firewall open: sudo ufw allow {}/tcp, or firewall-cmd "
        "--add-port={}/tcp",
        at.ok() ? at->host : address, port, port);
  }
  return finding;
}

Finding CheckLink(const std::string& from, const std::string& to, const std::string& address,
                  const PeerResult& result) {
  const std::string check = "link to " + to;
  if (!result.status.ok()) {
    const auto at = ParseHostPort(address);
    const bool loopback = at.ok() && IsLoopback(at->host);
    return {
        from, check, CheckResult::kWrong, Message(result.status),
        loopback
            ? fmt::format("{} means each machine itself: give '{}' the address that it has on the network",
                          at->host, to)
            : fmt::format("open {} on '{}' for '{}', or give an address of '{}' that all nodes reach",
                          address, to, from, to)};
  }
  const int64_t us = result.round_trip / std::chrono::microseconds(1);
  std::string text = fmt::format("{} us", us);
  if (result.bytes_per_second > 0)
    text += fmt::format(", {:.0f} MB/s", static_cast<double>(result.bytes_per_second) / 1e6);
  if (us < kSlowRoundTripUs &&
      (result.bytes_per_second == 0 || result.bytes_per_second >= kSlowBytesPerSecond))
    return Ok(from, check, text);
  return {from, check, CheckResult::kAdvice, text + ": slow",
          "use a cable rather than Wi-Fi; spread layers, not experts (--experts with_layer): shoal plan "
          "shows the messages of "
          "a token"};
}

Finding CheckModel(const std::string& node, const MachineReport& machine, const std::string& hash) {
  if (machine.fetches_model) return Ok(node, "model", "not there: its part is fetched from the coordinator");
  if (!machine.model_error.empty()) {
    return {node, "model", CheckResult::kWrong, machine.model_error,
            "copy the coordinator's model folder there, below a --model-root of the worker"};
  }
  if (!hash.empty() && machine.model_hash != hash) {
    return {node, "model", CheckResult::kWrong,
            fmt::format("another model has this name there: hash {}, expected {}", machine.model_hash, hash),
            "copy the coordinator's folder there, or name one of them differently"};
  }
  return Ok(node, "model", fmt::format("found, hash {}", machine.model_hash));
}

int64_t CountWrong(const std::vector<Finding>& findings) {
  return std::ranges::count(findings, CheckResult::kWrong, &Finding::verdict);
}

std::string FindingsText(const std::vector<Finding>& findings) {
  size_t nodes = 0;
  size_t checks = 0;
  for (const Finding& one : findings) {
    nodes = std::max(nodes, one.node.size());
    checks = std::max(checks, one.check.size());
  }
  std::string text;
  for (const Finding& one : findings) {
    text += fmt::format("{:<6}  {:<{}}  {:<{}}  {}\n", Name(one.verdict), one.node, nodes, one.check, checks,
                        one.text);
    if (!one.remedy.empty())
      text += fmt::format("{:<6}  {:<{}}  {:<{}}  -> {}\n", "", "", nodes, "", checks, one.remedy);
  }
  return text;
}

}  // namespace shoal
