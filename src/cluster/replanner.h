// Plans for those members of a cluster that are there: waits for one that is away, then does without it where the others
// have room, and says when it is to be taken in again. Whoever uses it gives the times, so that none is read here.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "cluster/attendance.h"
#include "plan/plan.h"

namespace shoal {

/// How a member was found when it was asked.
struct MemberReport {
  std::string name;
  absl::Status answer;  ///< OK: it is there, and of a build that fits.
  /// How often, since the start, it was lost in a session or while it loaded, and how often it did not do what it was
  /// asked for.
  int losses = 0;
  int failures = 0;
};

/// A member that the plan does without.
struct LeftOutMember {
  std::string name;
  Clock::time_point since;
  std::string why;  ///< In words.
};

/// Safe from any thread.
class Replanner {
 public:
  /// A plan without the members that are `out`, one entry per member.
  using Make = absl::FunctionRef<absl::StatusOr<Plan>(const std::vector<bool>& out)>;

  Replanner(size_t members, AttendanceRules rules);

  /// A plan over the members that are there. Unavailable, or what the members answered, while one that is away is waited
  /// for, and where the others can't do without it: then also why they can't. `reports`: of all members, as they are now.
  absl::StatusOr<Plan> plan(const std::vector<MemberReport>& reports, Make make, Clock::time_point now);

  /// A session of the last plan is up.
  void opened();
  /// Which members the last plan does without; empty where none was made so far.
  std::vector<bool> out() const;
  /// Why, and since when, a session of the last plan should end for a new one: members that it does without are back, and
  /// a plan with them is another one. Of `reports`, of all members, only those that are out matter.
  struct Better {
    std::string why;
    Clock::time_point since;
  };
  std::optional<Better> better(const std::vector<MemberReport>& reports, Make make, Clock::time_point now);

  std::vector<LeftOutMember> left_out() const;

 private:
  void note(const std::vector<MemberReport>& reports, size_t member, Clock::time_point now);
  absl::Status waits_for(const std::vector<MemberReport>& reports, Clock::time_point now) const;
  absl::StatusOr<Plan> plan_without(const std::vector<MemberReport>& reports, Make make,
                                    Clock::time_point now);
  void leave_out(const std::vector<MemberReport>& reports, std::vector<bool> out, Clock::time_point now);
  void take_in_all();

  mutable std::mutex mutex_;  ///< Guards all below.
  AttendanceBook book_;
  std::vector<std::string> names_;
  std::vector<std::string> why_;  ///< Each was left out.
  std::vector<int> losses_;
  std::vector<int> failures_;
  std::optional<Plan> plan_;
  std::vector<bool> out_;
  std::optional<Clock::time_point> better_since_;
  absl::Status told_;  ///< Why a plan with a member that is back could not be made, for the log.
};

}  // namespace shoal
