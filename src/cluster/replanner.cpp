#include "cluster/replanner.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cluster/member.h"

namespace shoal {
namespace {

/// "'a'", "'a' and 'b'".
std::string Quoted(const std::vector<std::string>& names) {
  std::vector<std::string> quoted;
  for (const std::string& name : names) quoted.push_back(fmt::format("'{}'", name));
  return Join(quoted, " and ");
}

std::string Quoted(const std::vector<MemberReport>& reports, const std::vector<bool>& which) {
  std::vector<std::string> names;
  for (size_t i = 0; i < which.size(); ++i) {
    if (which[i]) names.push_back(reports[i].name);
  }
  return Quoted(names);
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

Clock::time_point LeftAt(const MemberReport& report, Clock::time_point now) {
  return std::min(report.heard.value_or(now), now);
}

/// For how long a member is asked at least.
constexpr Duration kAskMin = std::chrono::milliseconds(500);

constexpr std::string_view kDrained = "it is drained";

}  // namespace

void Replanner::keep_only(const std::vector<MemberReport>& reports) {
  std::set<MemberId> ids;
  for (const MemberReport& report : reports) ids.insert(report.id);
  book_.keep_only(ids);
  std::erase_if(known_, [&](const auto& entry) { return !ids.contains(entry.first); });
}

void Replanner::note_losses(const MemberReport& report, Clock::time_point now) {
  Known& known = known_[report.id];
  known.name = report.name;
  // One that is to be taken in, but does not do its part, must not keep the others from serving.
  const bool failed = book_.out_since(report.id).has_value() && report.failures != known.failures;
  if (report.losses != known.losses || failed) book_.lost(report.id, LeftAt(report, now));
  known.losses = report.losses;
  known.failures = report.failures;
}

void Replanner::note(const MemberReport& report, Clock::time_point now) {
  note_losses(report, now);
  if (report.answer.ok()) {
    book_.answered(report.id, now);
  } else {
    book_.missed(report.id, LeftAt(report, now));
  }
}

std::vector<Duration> Replanner::worth_waiting(const std::vector<MemberReport>& reports,
                                               Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  keep_only(reports);
  std::vector<Duration> worth;
  for (const MemberReport& report : reports) {
    note_losses(report, now);
    const bool away = book_.of(report.id, now) == Attendance::kAway;
    worth.push_back(away ? Duration::zero() : book_.grace_left(report.id, now).value_or(Duration::max()));
  }
  return worth;
}

std::vector<Deadline> Replanner::ask_until(const std::vector<MemberReport>& reports, Clock::time_point now,
                                           Deadline latest) {
  std::vector<Deadline> until;
  for (const Duration worth : worth_waiting(reports, now)) {
    // Compared before it is added: what is worth waiting for ever is more than a time holds.
    until.push_back({now + std::min<Duration>(std::max(worth, kAskMin), latest.at - now)});
  }
  return until;
}

std::optional<Duration> Replanner::next_grace_end(Clock::time_point now) const {
  const std::lock_guard lock(mutex_);
  std::optional<Duration> next;
  for (const auto& [id, known] : known_) {
    const std::optional<Duration> left = drained(id) ? std::nullopt : book_.grace_left(id, now);
    if (left.has_value()) next = std::min(*left, next.value_or(*left));
  }
  return next;
}

absl::Status Replanner::waits_for(const std::vector<MemberReport>& reports, Clock::time_point now) const {
  bool awaited = false;
  std::vector<absl::Status> answers;
  for (size_t i = 0; i < reports.size(); ++i) {
    if (drained(reports[i].id)) continue;
    awaited = awaited || book_.of(reports[i].id, now) == Attendance::kAwaited;
    answers.push_back(reports[i].answer);
  }
  return awaited ? AllErrors(answers) : absl::OkStatus();
}

absl::StatusOr<Plan> Replanner::plan(const std::vector<MemberReport>& reports, Make make,
                                     Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  keep_only(reports);
  for (const MemberReport& report : reports) note(report, now);
  better_since_.reset();
  lacking_ = false;
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
    const Attendance attendance = book_.of(reports[i].id, now);
    const bool is_drained = drained(reports[i].id);
    away[i] = is_drained || attendance == Attendance::kAway;
    doubtful[i] = !is_drained && attendance == Attendance::kOnProbation;
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
    for (size_t i = 0; i < away.size(); ++i) {
      if (drained(reports[i].id)) answers[i] = Unavailable("node '{}' is drained", reports[i].name);
    }
    return Unavailable("{}. The other nodes can't do without {}: {}", Message(AllErrors(answers)),
                       Quoted(reports, away), Message(made.status()));
  }
  if (Any(out)) made->notes.push_back(without(reports, out));
  leave_out(reports, out, now);
  return made;
}

bool Replanner::drained(MemberId member) const {
  const auto known = known_.find(member);
  return known != known_.end() && known->second.drain == Drain::kOrdered;
}

std::string Replanner::without(const std::vector<MemberReport>& reports, const std::vector<bool>& out) const {
  bool any_drained = false;
  for (size_t i = 0; i < out.size(); ++i) any_drained = any_drained || (out[i] && drained(reports[i].id));
  return fmt::format("without {}: away, or not back for long enough{}", Quoted(reports, out),
                     any_drained ? ", or drained" : "");
}

void Replanner::leave_out(const std::vector<MemberReport>& reports, const std::vector<bool>& out,
                          Clock::time_point now) {
  in_.clear();
  for (size_t i = 0; i < out.size(); ++i) {
    const MemberReport& report = reports[i];
    if (!out[i]) {
      in_[report.id] = report.name;
      continue;
    }
    const bool fresh = !book_.out_since(report.id).has_value();
    book_.leave_out(report.id, now);
    if (!fresh) continue;
    std::string& why = known_[report.id].why;
    if (drained(report.id)) {
      why = kDrained;
      continue;
    }
    why = report.answer.ok() ? fmt::format("it went away {} times lately", book_.losses(report.id, now))
                             : Message(report.answer);
    LogWarning(
        "node '{}' is left out of the plan: {}. It is taken in again after it has answered for {:.0f} s",
        report.name, why, SecondsOf(book_.hold(report.id, now)));
  }
}

void Replanner::take_in_all() {
  for (const auto& [id, name] : in_) {
    if (!book_.out_since(id).has_value()) continue;
    if (known_[id].drain == Drain::kEnded) known_[id].drain = Drain::kNo;
    book_.take_in(id);
    LogInfo("node '{}' takes part again", name);
  }
}

void Replanner::opened() {
  const std::lock_guard lock(mutex_);
  take_in_all();
}

void Replanner::note_survived(const std::vector<MemberReport>& reports, Clock::time_point now) {
  for (const MemberReport& report : reports) {
    if (!in_.contains(report.id) || report.losses == known_[report.id].losses) continue;
    known_[report.id].losses = report.losses;
    known_[report.id].why = "it was lost, and the others have all that it held";
    book_.lost(report.id, now);
    book_.leave_out(report.id, now);
    in_.erase(report.id);
    lacking_ = true;
    LogWarning(
        "node '{}' is out: the session goes on without it. It is taken in again after it has answered for "
        "{:.0f} s",
        report.name, SecondsOf(book_.hold(report.id, now)));
  }
}

bool Replanner::counts_on(MemberId member) const {
  const std::lock_guard lock(mutex_);
  return in_.contains(member);
}

std::optional<Replanner::Better> Replanner::better(const std::vector<MemberReport>& reports, Make make,
                                                   Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  SHOAL_CHECK(plan_.has_value());
  keep_only(reports);
  note_survived(reports, now);
  std::vector<bool> out(reports.size());
  std::vector<std::string> back;
  std::vector<std::string> going;
  std::map<MemberId, std::string> left = in_;
  bool ordered = false;
  const bool reordered = orders_met_ < orders_;
  for (size_t i = 0; i < reports.size(); ++i) {
    const MemberReport& report = reports[i];
    left.erase(report.id);
    const bool counted = in_.contains(report.id);
    if (!counted) note(report, now);
    out[i] = drained(report.id) || (!counted && book_.of(report.id, now) != Attendance::kHere);
    if (counted && out[i]) going.push_back(report.name);
    if (counted || out[i]) continue;
    back.push_back(report.name);
    ordered = ordered || known_[report.id].drain == Drain::kEnded;
  }
  if (back.empty() && left.empty() && going.empty() && !reordered) {
    better_since_.reset();
    return std::nullopt;
  }
  absl::StatusOr<Plan> made = make(out);
  if (made.status() != told_ && !made.ok() && !back.empty()) {
    LogWarning("no plan can be made with {}, though there: {}", Quoted(back), Message(made.status()));
  }
  told_ = made.status();
  // Without who left nothing fits: the session goes on for as long as it can.
  if (!made.ok()) return std::nullopt;
  if (Any(out)) made->notes.push_back(without(reports, out));
  if (!better_since_.has_value()) better_since_ = now;
  Better better{
      .since = *better_since_, .at_once = !left.empty(), .ordered = ordered || !going.empty() || reordered};
  better.orders = orders_;
  std::vector<std::string> gone;
  for (const auto& [id, name] : left) gone.push_back(name);
  std::vector<std::string> changes;
  if (!back.empty()) changes.push_back(fmt::format("with {}", Quoted(back)));
  if (!gone.empty()) changes.push_back(fmt::format("without {}, which left", Quoted(gone)));
  if (!going.empty()) changes.push_back(fmt::format("without {}, drained", Quoted(going)));
  if (reordered) changes.push_back("as it was asked for");
  better.why = fmt::format("the cluster is built again {}", Join(changes, ", "));
  for (size_t i = 0; i < reports.size(); ++i) {
    if (!out[i]) better.in[reports[i].id] = reports[i].name;
  }
  if (lacking_ || !SameParts(*made, *plan_)) {
    better.plan = *std::move(made);
    return better;
  }
  count_on(better, now);
  take_in_all();
  return std::nullopt;
}

void Replanner::count_on(const Better& better, Clock::time_point now) {
  better_since_.reset();
  orders_met_ = better.orders;
  for (const auto& [id, name] : in_) {
    if (better.in.contains(id) || !drained(id)) continue;
    book_.leave_out(id, now);
    known_[id].why = kDrained;
    LogInfo("node '{}' is drained", name);
  }
  in_ = better.in;
}

void Replanner::adopt(const Better& better, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  plan_ = better.plan;
  lacking_ = false;
  count_on(better, now);
}

void Replanner::drain(MemberId member, bool drained) {
  const std::lock_guard lock(mutex_);
  Drain& drain = known_[member].drain;
  if (drained) {
    drain = Drain::kOrdered;
  } else if (drain == Drain::kOrdered) {
    // It was not yet done without where plans count on it.
    drain = in_.contains(member) ? Drain::kNo : Drain::kEnded;
  }
}

void Replanner::reorder() {
  const std::lock_guard lock(mutex_);
  ++orders_;
}

std::vector<LeftOutMember> Replanner::left_out() const {
  const std::lock_guard lock(mutex_);
  std::vector<LeftOutMember> list;
  for (const auto& [id, known] : known_) {
    if (const auto since = book_.out_since(id)) list.push_back({known.name, *since, known.why, drained(id)});
  }
  return list;
}

}  // namespace shoal
