#include "cluster/attendance.h"

#include <algorithm>

namespace shoal {
namespace {

constexpr size_t kLossesKept = 64;  // Enough for the longest hold.

}  // namespace

void AttendanceBook::keep_only(const std::set<MemberId>& members) {
  std::erase_if(entries_, [&](const auto& entry) { return !members.contains(entry.first); });
}

const AttendanceBook::Entry& AttendanceBook::entry(MemberId member) const {
  static const Entry kNeverHeardOf;
  const auto found = entries_.find(member);
  return found == entries_.end() ? kNeverHeardOf : found->second;
}

void AttendanceBook::answered(MemberId member, Clock::time_point now) {
  Entry& entry = entries_[member];
  if (entry.presence == Presence::kThere) return;
  entry.presence = Presence::kThere;
  entry.since = now;
}

void AttendanceBook::missed(MemberId member, Clock::time_point left) {
  Entry& entry = entries_[member];
  if (entry.presence == Presence::kAway) return;
  left = std::max(left, entry.since);  // What it was asked for later shows that it was there later.
  // One that was never there did not go away.
  if (entry.presence == Presence::kThere) entry.losses.push_back(left);
  if (entry.losses.size() > kLossesKept) entry.losses.pop_front();
  entry.presence = Presence::kAway;
  entry.since = left;
}

void AttendanceBook::lost(MemberId member, Clock::time_point left) {
  answered(member, left);  // It was there, as something was asked of it.
  missed(member, left);
}

std::optional<Duration> AttendanceBook::grace_left(MemberId member, Clock::time_point now) const {
  if (!rules_.grace.has_value() || of(member, now) != Attendance::kAwaited) return std::nullopt;
  const Entry& entry = this->entry(member);
  if (entry.presence != Presence::kAway) return std::nullopt;
  return entry.since + *rules_.grace - now;
}

void AttendanceBook::leave_out(MemberId member, Clock::time_point now) {
  std::optional<Clock::time_point>& since = entries_[member].out_since;
  if (!since.has_value()) since = now;
}

void AttendanceBook::take_in(MemberId member) { entries_[member].out_since.reset(); }

Attendance AttendanceBook::of(MemberId member, Clock::time_point now) const {
  const Entry& entry = this->entry(member);
  const bool there = entry.presence == Presence::kThere;
  if (!rules_.grace.has_value()) return there ? Attendance::kHere : Attendance::kAwaited;
  const bool doubtful = entry.out_since.has_value() || losses(member, now) >= rules_.flaps;
  if (there)
    return doubtful && now - entry.since < hold(member, now) ? Attendance::kOnProbation : Attendance::kHere;
  if (entry.presence == Presence::kUnknown) return Attendance::kAwaited;
  return doubtful || now - entry.since >= *rules_.grace ? Attendance::kAway : Attendance::kAwaited;
}

std::optional<Clock::time_point> AttendanceBook::out_since(MemberId member) const {
  return entry(member).out_since;
}

int AttendanceBook::losses(MemberId member, Clock::time_point now) const {
  return static_cast<int>(std::ranges::count_if(
      entry(member).losses, [&](Clock::time_point at) { return now - at < rules_.remembered; }));
}

Duration AttendanceBook::hold(MemberId member, Clock::time_point now) const {
  Duration hold = rules_.hold;
  for (int i = 1; i < losses(member, now) && hold < rules_.hold_max; ++i) hold *= 2;
  return std::min(hold, rules_.hold_max);
}

}  // namespace shoal
