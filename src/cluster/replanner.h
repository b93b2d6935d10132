// Plans for those members of a cluster that are there: waits for one that is away, then does without it where the others
// have room, and says when it is to be taken in again. Whoever uses it gives the times, so that none is read here.
#pragma once

#include <cstdint>
#include <map>
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
  MemberId id = 0;
  std::string name;
  absl::Status answer;  ///< OK: it is there, and of a build that fits.
  /// How often, since the start, it was lost in a session or while it loaded, and how often it did not do what it was
  /// asked for.
  int losses = 0;
  int failures = 0;
  /// The last heartbeat, where one is known: one that is away is waited for from then on.
  std::optional<Clock::time_point> heard;
};

/// A member that the plan does without.
struct LeftOutMember {
  std::string name;
  Clock::time_point since;
  std::string why;  ///< In words.
  bool drained = false;
};

/// Members may come and go: each call says who there is. Safe from any thread.
class Replanner {
 public:
  /// A plan without the members that are `out`, one entry per report.
  using Make = absl::FunctionRef<absl::StatusOr<Plan>(const std::vector<bool>& out)>;

  explicit Replanner(AttendanceRules rules) : book_(rules) {}

  /// A plan over the members that are there. Unavailable, or what the members answered, while one that is away is waited
  /// for, and where the others can't do without it: then also why they can't. `reports`: of all members, as they are now.
  absl::StatusOr<Plan> plan(const std::vector<MemberReport>& reports, Make make, Clock::time_point now);

  /// How long the answer of each is worth waiting for, as it was known before it is asked: for the rest of its grace
  /// where it was lost, and for ever where it was not. Answers do not matter yet.
  std::vector<Duration> worth_waiting(const std::vector<MemberReport>& reports, Clock::time_point now);
  /// Until when each is asked where a plan is to be made: as long as its answer is worth waiting for, but for half a second
  /// at least, as one that is done without may be back; in any case no longer than to `latest`.
  std::vector<Deadline> ask_until(const std::vector<MemberReport>& reports, Clock::time_point now,
                                  Deadline latest);
  /// When the next grace of a member that plans wait for ends; nothing where they wait for none, or for ever.
  std::optional<Duration> next_grace_end(Clock::time_point now) const;

  /// A session of the last plan is up.
  void opened();
  /// Whether the last plan was made with this member, and its session has not lost it.
  bool counts_on(MemberId member) const;
  /// Why, and since when, a session of the last plan should end for a new one: members that it does without are back, or
  /// have joined, and a plan with them is another one, or the session went on without them; or members are none any more
  /// that it counts on. Of `reports`, of all members, the answers of those that the plan does without matter, and the
  /// losses of the others, which from then on are out, too: the session survived them.
  struct Better {
    std::string why;
    Clock::time_point since;
    bool at_once = false;  ///< Who left is going: to wait gains nothing.
    bool ordered =
        false;  ///< Somebody drains a member, or undoes that: not to be put off where requests can go on.
    Plan plan;
    std::map<MemberId, std::string> in;  ///< Names of the members that the plan counts on.
    int64_t orders = 0;                  ///< Calls of reorder() that the plan knows of.
  };
  std::optional<Better> better(const std::vector<MemberReport>& reports, Make make, Clock::time_point now);

  /// A session of this plan is to be opened instead of that of the last one.
  void adopt(const Better& better, Clock::time_point now);

  /// From now on plans do without the member, whether it is there or not; or no longer so. What better() says of it is
  /// not put off.
  void drain(MemberId member, bool drained);

  /// Somebody asked for another plan of the same members. What better() says of it is not put off, until it is adopted or the
  /// plan is the same.
  void reorder();

  std::vector<LeftOutMember> left_out() const;

 private:
  enum class Drain : uint8_t { kNo, kOrdered, kEnded /* but not yet taken in again */ };
  struct Known {
    std::string name;
    std::string why;  ///< It was left out.
    int losses = 0;
    int failures = 0;
    Drain drain = Drain::kNo;
  };
  void note(const MemberReport& report, Clock::time_point now);
  void note_losses(const MemberReport& report, Clock::time_point now);
  /// Forgets those that are not among the reports.
  void keep_only(const std::vector<MemberReport>& reports);
  void note_survived(const std::vector<MemberReport>& reports, Clock::time_point now);
  absl::Status waits_for(const std::vector<MemberReport>& reports, Clock::time_point now) const;
  absl::StatusOr<Plan> plan_without(const std::vector<MemberReport>& reports, Make make,
                                    Clock::time_point now);
  void leave_out(const std::vector<MemberReport>& reports, const std::vector<bool>& out,
                 Clock::time_point now);
  void take_in_all();
  bool drained(MemberId member) const;
  std::string without(const std::vector<MemberReport>& reports, const std::vector<bool>& out) const;
  void count_on(const Better& better, Clock::time_point now);

  mutable std::mutex mutex_;  ///< Guards all below.
  AttendanceBook book_;
  std::map<MemberId, Known> known_;
  std::optional<Plan> plan_;
  std::map<MemberId, std::string> in_;  ///< Names of the members that the plan counts on.
  int64_t orders_ = 0;                  ///< Calls of reorder().
  int64_t orders_met_ = 0;              ///< Those that the plan in force knows of.
  bool lacking_ = false;                ///< The session goes on without some that its plan has.
  std::optional<Clock::time_point> better_since_;
  absl::Status told_;  ///< Why a plan with a member that is back could not be made, for the log.
};

}  // namespace shoal
