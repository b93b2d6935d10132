// Who of a cluster's members counts for a plan: one that is away is waited for first, then done without; one that comes
// back counts once it has been there for a while, which grows with how often it went away. Nothing here reads a clock.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>

#include "base/clock.h"

namespace shoal {

struct AttendanceRules {
  /// A member that is away for so long is done without; nothing: plans wait for it, however long it takes.
  std::optional<Duration> grace = std::chrono::seconds(15);
  /// One that was done without counts after it has been there for so long; twice as long for every further time that it
  /// went away in the time that is remembered.
  Duration hold = std::chrono::seconds(5);
  Duration hold_max = std::chrono::minutes(5);
  Duration remembered = std::chrono::minutes(30);
  /// One that went away so often is done without at once.
  int flaps = 3;
};

enum class Attendance : uint8_t {
  kHere,         ///< Plans are made with it.
  kAwaited,      ///< It is away, and plans wait for it.
  kAway,         ///< Plans are made without it.
  kOnProbation,  ///< It is there again, but not for long enough: as kAway, where others can do without it.
};

/// Tells members apart; never used twice.
using MemberId = uint64_t;

/// Of members by their ids; one that was never heard of is in there when it is first asked for.
class AttendanceBook {
 public:
  explicit AttendanceBook(AttendanceRules rules) : rules_(rules) {}

  /// Forgets all others.
  void keep_only(const std::set<MemberId>& members);

  void answered(MemberId member, Clock::time_point now);
  /// It does not answer, and was there for the last time at `left`: the grace runs from then on.
  void missed(MemberId member, Clock::time_point left);
  /// It went away at `left`, even if it answers again by now.
  void lost(MemberId member, Clock::time_point left);

  /// A plan is made without it, from now on.
  void leave_out(MemberId member, Clock::time_point now);
  /// A session is up that has it.
  void take_in(MemberId member);

  Attendance of(MemberId member, Clock::time_point now) const;
  /// How long it is still waited for: nothing for one that is not, and where plans wait for as long as it takes.
  std::optional<Duration> grace_left(MemberId member, Clock::time_point now) const;
  /// Since when plans are made without it; nothing where they are not.
  std::optional<Clock::time_point> out_since(MemberId member) const;
  /// How often it went away in the time that is remembered.
  int losses(MemberId member, Clock::time_point now) const;
  /// How long it must be there before it counts.
  Duration hold(MemberId member, Clock::time_point now) const;

 private:
  enum class Presence : uint8_t { kUnknown, kThere, kAway };
  struct Entry {
    Presence presence = Presence::kUnknown;
    Clock::time_point since;  ///< Of its presence.
    std::optional<Clock::time_point> out_since;
    std::deque<Clock::time_point> losses;  ///< The last ones, oldest first.
  };

  const Entry& entry(MemberId member) const;

  const AttendanceRules rules_;
  std::map<MemberId, Entry> entries_;
};

}  // namespace shoal
