// Which workers have joined a coordinator, and where each is. Nothing here reads a clock or asks anybody.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "cluster/control.h"

namespace shoal {

struct RosterRules {
  /// A worker offers itself again within this time.
  Duration lease = std::chrono::seconds(6);
  /// One that neither offered itself nor answered for so long is forgotten. Until then it is a member that is away.
  Duration forgotten_after = std::chrono::minutes(10);
  size_t members_max = 256;
};

struct JoinedMember {
  std::string name;
  std::string address;
  uint64_t instance = 0;
  std::optional<int32_t> rank;
  Clock::time_point heard;  ///< When it last offered itself, or answered.
};

/// Safe from any thread.
class Roster {
 public:
  explicit Roster(RosterRules rules = {}) : rules_(rules) {}

  const RosterRules& rules() const { return rules_; }

  /// Members that were there before anybody joined, by name: the coordinator, and workers of its command line. Nobody else
  /// may join under such a name; who listens at the name's address is that worker.
  void reserve(std::map<std::string, std::string> addresses);

  /// Renews the lease of a member that offers itself again from where it is. Returns its address; nothing where the offer
  /// is news: the process is another one, or is not where it was.
  std::optional<std::string> renew(const JoinOffer& offer, Clock::time_point now);
  /// FailedPrecondition where the name is reserved, ResourceExhausted where there are too many members.
  absl::Status may_join(const JoinOffer& offer, Clock::time_point now);
  /// FailedPrecondition where another member's name differs from this one by upper and lower case alone, which certificates do
  /// not tell apart.
  absl::Status may_be_certified(const std::string& name) const;
  /// Takes it in at the address, in place of the one that had its name.
  void admit(const JoinOffer& offer, const std::string& address, Clock::time_point now);
  /// Whether a process of that name and instance was a member; it is none any more.
  bool leave(const std::string& name, uint64_t instance);

  /// A member answered, or takes part in a session that is up.
  void answered(const std::string& name, Clock::time_point now);
  /// Forgets those that were silent for too long; their names.
  std::vector<std::string> forget(Clock::time_point now);

  std::optional<JoinedMember> find(const std::string& name) const;
  /// By rank, then by name: the same members come in the same order, whoever came first. Without a rank: last.
  std::vector<JoinedMember> members() const;

 private:
  std::vector<std::string> forget_locked(Clock::time_point now);

  const RosterRules rules_;
  mutable std::mutex mutex_;  ///< Guards what follows.
  std::map<std::string, std::string> reserved_;
  std::map<std::string, JoinedMember> members_;
};

}  // namespace shoal
