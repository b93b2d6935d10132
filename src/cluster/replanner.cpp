#include "cluster/replanner.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cluster/member.h"

namespace shoal {
namespace {

/// "'a'", "'a' and 'b'".
std::string Quoted(const std::vector<std::string>& names, const std::vector<bool>& which) {
  std::vector<std::string> quoted;
  for (size_t i = 0; i < which.size(); ++i) {
    if (which[i]) quoted.push_back(fmt::format("'{}'", names[i]));
  }
  return Join(quoted, " and ");
}

bool Any(const std::vector<bool>& which) { return std::ranges::find(which, true) != which.end(); }

std::vector<bool> Either(std::vector<bool> a, const std::vector<bool>& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] = a[i] || b[i];
  return a;
}

/// Whether the nodes do the same in both.
bool SameParts(const Plan& a, const Plan& b) {
  return a.nodes == b.nodes && a.stages == b.stages && a.experts == b.experts;
}

}  // namespace

Replanner::Replanner(size_t members, AttendanceRules rules)
    : book_(members, rules), names_(members), why_(members), losses_(members), failures_(members) {}

void Replanner::note(const std::vector<MemberReport>& reports, size_t member, Clock::time_point now) {
  const MemberReport& report = reports[member];
  names_[member] = report.name;
  // One that is to be taken in, but does not do its part, must not keep the others from serving.
  const bool failed = book_.out_since(member).has_value() && report.failures != failures_[member];
  if (report.losses != losses_[member] || failed) book_.lost(member, now);
  losses_[member] = report.losses;
  failures_[member] = report.failures;
  if (report.answer.ok()) {
    book_.answered(member, now);
  } else {
    book_.missed(member, now);
  }
}

absl::Status Replanner::waits_for(const std::vector<MemberReport>& reports, Clock::time_point now) const {
  bool awaited = false;
  std::vector<absl::Status> answers;
  for (size_t i = 0; i < reports.size(); ++i) {
    awaited = awaited || book_.of(i, now) == Attendance::kAwaited;
    answers.push_back(reports[i].answer);
  }
  return awaited ? AllErrors(answers) : absl::OkStatus();
}

absl::StatusOr<Plan> Replanner::plan(const std::vector<MemberReport>& reports, Make make,
                                     Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  SHOAL_CHECK_EQ(reports.size(), names_.size());
  for (size_t i = 0; i < reports.size(); ++i) note(reports, i, now);
  better_since_.reset();
  RETURN_IF_ERROR(waits_for(reports, now));
  ASSIGN_OR_RETURN(plan_, plan_without(reports, make, now));
  return *plan_;
}

absl::StatusOr<Plan> Replanner::plan_without(const std::vector<MemberReport>& reports, Make make,
                                             Clock::time_point now) {
  std::vector<bool> away(reports.size());
  std::vector<bool> doubtful(reports.size());
  std::vector<absl::Status> answers;
  for (size_t i = 0; i < reports.size(); ++i) {
    const Attendance attendance = book_.of(i, now);
    away[i] = attendance == Attendance::kAway;
    doubtful[i] = attendance == Attendance::kOnProbation;
    answers.push_back(reports[i].answer);
  }
  std::vector<bool> out = Either(away, doubtful);
  absl::StatusOr<Plan> made = make(out);
  if (!made.ok() && Any(doubtful)) {
    out = away;
    made = make(out);
  }
  if (!made.ok()) {
    if (!Any(away)) return made;
    return Unavailable("{}. The other nodes can't do without {}: {}", Message(AllErrors(answers)),
                       Quoted(names_, away), Message(made.status()));
  }
  if (Any(out))
    made->notes.push_back(fmt::format("without {}: away, or not back for long enough", Quoted(names_, out)));
  leave_out(reports, std::move(out), now);
  return made;
}

void Replanner::leave_out(const std::vector<MemberReport>& reports, std::vector<bool> out,
                          Clock::time_point now) {
  for (size_t i = 0; i < out.size(); ++i) {
    if (!out[i]) continue;
    const bool fresh = !book_.out_since(i).has_value();
    book_.leave_out(i, now);
    if (!fresh) continue;
    why_[i] = reports[i].answer.ok() ? fmt::format("it went away {} times lately", book_.losses(i, now))
                                     : Message(reports[i].answer);
    LogWarning(
        "node '{}' is left out of the plan: {}. It is taken in again after it has answered for {:.0f} s",
        names_[i], why_[i], SecondsOf(book_.hold(i, now)));
  }
  out_ = std::move(out);
}

void Replanner::take_in_all() {
  for (size_t i = 0; i < out_.size(); ++i) {
    if (out_[i] || !book_.out_since(i).has_value()) continue;
    book_.take_in(i);
    LogInfo("node '{}' takes part again", names_[i]);
  }
}

void Replanner::opened() {
  const std::lock_guard lock(mutex_);
  take_in_all();
}

std::vector<bool> Replanner::out() const {
  const std::lock_guard lock(mutex_);
  return out_;
}

std::optional<Replanner::Better> Replanner::better(const std::vector<MemberReport>& reports, Make make,
                                                   Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  SHOAL_CHECK(plan_.has_value() && reports.size() == out_.size());
  std::vector<bool> wanted = out_;
  for (size_t i = 0; i < out_.size(); ++i) {
    if (!out_[i]) continue;
    note(reports, i, now);
    wanted[i] = book_.of(i, now) != Attendance::kHere;
  }
  if (wanted == out_) {
    better_since_.reset();
    return std::nullopt;
  }
  std::vector<bool> back = out_;
  for (size_t i = 0; i < out_.size(); ++i) back[i] = out_[i] && !wanted[i];
  const absl::StatusOr<Plan> made = make(wanted);
  if (made.status() != told_ && !made.ok()) {
    LogWarning("no plan can be made with {}, though back again: {}", Quoted(names_, back),
               Message(made.status()));
  }
  told_ = made.status();
  if (!made.ok()) return std::nullopt;
  if (SameParts(*made, *plan_)) {
    out_ = std::move(wanted);
    take_in_all();
    return std::nullopt;
  }
  if (!better_since_.has_value()) better_since_ = now;
  return Better{fmt::format("the cluster is built again with {}", Quoted(names_, back)), *better_since_};
}

std::vector<LeftOutMember> Replanner::left_out() const {
  const std::lock_guard lock(mutex_);
  std::vector<LeftOutMember> list;
  for (size_t i = 0; i < names_.size(); ++i) {
    if (const auto since = book_.out_since(i)) list.push_back({names_[i], *since, why_[i]});
  }
  return list;
}

}  // namespace shoal
