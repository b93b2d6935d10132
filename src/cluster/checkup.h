// What `shoal doctor` concludes from what it was told: for each check of each node whether it is well, or what is wrong and
// what to type. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "cluster/control.h"
#include "cluster/member.h"

namespace shoal {

enum class CheckResult : uint8_t {
  kOk,
  kAdvice,  ///< It works; better could be had.
  kWrong,   ///< It does not work, or will not.
};
std::string_view Name(CheckResult verdict);  ///< "ok", "advice", "wrong"

struct Finding {
  std::string node;
  std::string check;  ///< "memory", "clock", ...
  CheckResult verdict = CheckResult::kOk;
  std::string text;
  std::string remedy;  ///< What to type or to do; empty where nothing is to be done.
};

/// What does not need another machine: CPU, memory, limits, huge pages, descriptors.
std::vector<Finding> CheckMachine(const std::string& node, const MachineReport& machine);

/// A worker that answered: its build, against this one's.
Finding CheckBuildOf(const std::string& node, const std::string& address, const WorkerFacts& facts,
                     const OwnNode& own);

/// A node's certificate: advice where it ends soon.
Finding CheckCertificate(const std::string& node, const CertificateFacts& facts, int64_t now_s);

/// Its clock, seconds ahead of this machine's. Nothing is refused for it but certificates that have not begun, or ended.
Finding CheckClock(const std::string& node, int64_t ahead_s);

/// A worker that did not answer, or refused.
Finding CheckAnswer(const std::string& node, const std::string& address, const absl::Status& answer);

/// Whether `from` reaches `to` at `address`.
Finding CheckLink(const std::string& from, const std::string& to, const std::string& address,
                  const PeerResult& result);

/// The model on a worker, against the coordinator's hash of it; "": not known.
Finding CheckModel(const std::string& node, const MachineReport& machine, const std::string& hash);

/// A line for each, and what to do below those that are not well.
std::string FindingsText(const std::vector<Finding>& findings);
/// How many are kWrong.
int64_t CountWrong(const std::vector<Finding>& findings);

}  // namespace shoal
