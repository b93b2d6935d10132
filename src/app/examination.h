// What `shoal doctor` and POST /cluster/doctor look at: this machine, workers, and the links between them.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "cluster/checkup.h"
#include "cluster/member.h"
#include "wire/cluster_key.h"

namespace shoal {

struct Examination {
  std::string here;  ///< The name of this node.
  ClusterKey key;
  std::vector<std::string>
      model_names;         ///< Looked for on the workers, as WorkerClient::examine(); none: no model is.
  std::string model_hash;  ///< Which it is to be; "": not known.
  std::vector<MemberAddress> workers;  ///< One of no name has its address for it.
  int64_t link_bytes = 0;              ///< To be sent over each link at most, to measure it.
  Deadline deadline;                   ///< Nothing is begun after it.
};

/// Of this machine: build, CPU, memory, limits.
std::vector<Finding> ExamineHere(const std::string& here);
/// Of each worker: whether it answers, its certificate, build, clock, machine and model; then of each link between two nodes,
/// one after the other. What there was no time for is a finding, too.
std::vector<Finding> ExamineWorkers(const Examination& examination);

/// [{"node", "check", "verdict", "text", "remedy"}] as "findings", "ok": whether none is wrong, and, unless it is 0, when: "at".
std::string FindingsJson(const std::vector<Finding>& findings, int64_t at = 0);

/// Examinations of a running cluster by its coordinator, one at a time; the last is kept. Safe from any thread.
class ClusterDoctor {
 public:
  /// examine: takes as long as it may.
  explicit ClusterDoctor(std::function<std::vector<Finding>()> examine) : examine_(std::move(examine)) {}

  /// FindingsJson() of the last; "at" is 0 and "findings" is null where there was none.
  std::string last() const;
  /// FindingsJson() of one now. Unavailable: one is being made.
  absl::StatusOr<std::string> run();

 private:
  const std::function<std::vector<Finding>()> examine_;
  std::mutex running_;
  mutable std::mutex mutex_;  ///< Guards what follows.
  std::string last_;
};

}  // namespace shoal
