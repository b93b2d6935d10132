#include "cluster/member.h"

#include <algorithm>
#include <system_error>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

MemberState StateOf(const WorkerFacts& facts) {
  switch (facts.state) {
    case WorkerState::kServing:
      return MemberState::kUp;
    case WorkerState::kLoading:
      return MemberState::kLoading;
    case WorkerState::kReady:
      return MemberState::kReady;
    case WorkerState::kIdle:
      break;
  }
  return MemberState::kIdle;
}

}  // namespace

absl::Status CheckBuild(const WorkerFacts& facts, const std::string& address, const OwnNode& own) {
  if (facts.wire_version == kWireVersion && facts.numerics_class == own.numerics_class) {
    return absl::OkStatus();
  }
  return FailedPrecondition(
      "{} runs shoal {} (wire version {}, numerics class '{}'), node '{}' here has wire version {}, numerics "
      "class '{}'. Use the same build on all nodes, with backends of one class",
      address, facts.version, facts.wire_version, facts.numerics_class, own.name, kWireVersion,
      own.numerics_class);
}

std::string_view Name(MemberState state) {
  switch (state) {
    case MemberState::kUnknown:
      return "unknown";
    case MemberState::kIdle:
      return "idle";
    case MemberState::kLoading:
      return "loading";
    case MemberState::kReady:
      return "ready";
    case MemberState::kUp:
      return "up";
    case MemberState::kLost:
      return "lost";
    case MemberState::kFailed:
      return "failed";
  }
  return "unknown";
}

Member::Member(MemberId id, MemberAddress address, const ClusterKey& key, OwnNode peer)
    : id_(id), is_self_(address.address.empty()), key_(key), peer_(std::move(peer)) {
  if (!is_self_) client_ = std::make_shared<WorkerClient>(address.address, key, address.name);
  status_.name = std::move(address.name);
  status_.address = std::move(address.address);
}

std::shared_ptr<WorkerClient> Member::client() const {
  const std::lock_guard lock(mutex_);
  return client_;
}

std::string Member::address() const {
  const std::lock_guard lock(mutex_);
  return status_.address;
}

std::string Member::name() const {
  const std::lock_guard lock(mutex_);
  return status_.name;
}

PeerResult Member::probe(int64_t bytes, Deadline deadline) const {
  return ProbePeer({.name = name(), .address = address()}, key_, bytes, deadline);
}

absl::Status Member::describe(Deadline deadline) {
  if (is_self()) return absl::OkStatus();
  const std::shared_ptr<WorkerClient> asked = client();
  const absl::StatusOr<WorkerFacts> facts = asked->describe(deadline);
  const absl::Status verdict = facts.ok() ? CheckBuild(*facts, asked->address(), peer_) : facts.status();
  const std::lock_guard lock(mutex_);
  if (facts.ok()) {
    status_.facts = *facts;
    status_.heard = Clock::now();
  }
  if (!verdict.ok()) {
    const absl::Status named = Annotate(verdict, fmt::format("node '{}'", status_.name));
    status_.state = facts.ok() ? MemberState::kFailed : MemberState::kLost;
    status_.error = Message(named);
    return named;
  }
  // What it failed at before stays said until it succeeds; that it was away is over.
  if (status_.state == MemberState::kLost) status_.error.clear();
  status_.state = StateOf(*facts);
  return absl::OkStatus();
}

void Member::refresh(Deadline deadline) {
  if (is_self()) return;
  const absl::StatusOr<WorkerFacts> facts = client()->describe(deadline);
  const std::lock_guard lock(mutex_);
  if (facts.ok()) {
    status_.facts = *facts;
    status_.heard = Clock::now();
    status_.state = StateOf(*facts);
    if (status_.state == MemberState::kUp) status_.error.clear();
  } else if (status_.state != MemberState::kLoading) {
    status_.state = MemberState::kLost;
    status_.error = Message(facts.status());
  }
}

MemberStatus Member::status() const {
  const std::lock_guard lock(mutex_);
  return status_;
}

void Member::note(MemberState state, const absl::Status& status) {
  const std::lock_guard lock(mutex_);
  status_.state = state;
  status_.error = status.ok() ? "" : Message(status);
  if (state == MemberState::kLost) ++status_.losses;
  if (state == MemberState::kFailed) ++status_.failures;
  if (state == MemberState::kLoading || state == MemberState::kUp) status_.load_done = status_.load_total = 0;
}

void Member::note_loading(int64_t done, int64_t total) {
  const std::lock_guard lock(mutex_);
  status_.load_done = done;
  status_.load_total = total;
}

void Member::note_heard(Clock::time_point at) {
  const std::lock_guard lock(mutex_);
  status_.heard = std::max(at, status_.heard.value_or(at));
}

std::vector<WeightSample> Member::samples(const ResolvedWeights& weights, NodeShard shard) {
  const std::lock_guard lock(sampling_);
  if (!samples_.has_value() || !(sampled_ == shard)) {
    samples_ = SampleShard(weights, shard);
    sampled_ = std::move(shard);
  }
  return *samples_;
}

void Member::add_links(const LinkStats& links) {
  const std::lock_guard lock(mutex_);
  links_ += links;
  links_.bytes_waiting = 0;  // Nothing waits any more.
}

LinkStats Member::links() const {
  const std::lock_guard lock(mutex_);
  return links_;
}

Members::Members(const std::vector<MemberAddress>& members, const ClusterKey& key, bool adopt_names,
                 const std::string& numerics_class)
    : adopt_names_(adopt_names), key_(key), own_{members.front().name, numerics_class} {
  SHOAL_CHECK(!members.empty() && members.front().address.empty());
  for (const MemberAddress& member : members)
    members_.push_back(std::make_shared<Member>(next_id_++, member, key, own_));
  self_ = members_.front();
}

std::shared_ptr<Member> Members::find(std::string_view name) const {
  const MemberList members = all();
  const auto found =
      std::ranges::find_if(members, [name](const auto& member) { return member->name() == name; });
  return found == members.end() ? nullptr : *found;
}

MemberList Members::all() const {
  const std::lock_guard lock(mutex_);
  return members_;
}

void Members::follow(const std::vector<JoinedMember>& joined) {
  const std::lock_guard lock(mutex_);
  MemberList members;
  for (const auto& member : members_) {
    if (!member->status().joined) members.push_back(member);
  }
  for (const JoinedMember& one : joined) {
    const auto named =
        std::ranges::find_if(members_, [&](const auto& member) { return member->name() == one.name; });
    if (named == members_.end()) {
      auto member = std::make_shared<Member>(next_id_++, MemberAddress{one.name, one.address}, key_, own_);
      member->status_.joined = true;
      if (cancelled_) member->client_->cancel();
      members.push_back(std::move(member));
      continue;
    }
    Member& member = **named;
    const std::lock_guard member_lock(member.mutex_);
    if (!member.status_.joined) continue;  // A declared one that also offers itself.
    if (member.status_.address != one.address) {
      member.status_.address = one.address;
      member.client_ = std::make_shared<WorkerClient>(one.address, key_, one.name);
      if (cancelled_) member.client_->cancel();
    }
    members.push_back(*named);
  }
  members_ = std::move(members);
}

absl::Status Members::describe(Deadline deadline) { return AllErrors(describe(all(), deadline)); }

std::vector<absl::Status> Members::describe(const MemberList& which, Deadline deadline) {
  return describe(which, std::vector<Deadline>(which.size(), deadline));
}

std::vector<absl::Status> Members::describe(const MemberList& which, const std::vector<Deadline>& deadlines) {
  SHOAL_CHECK_EQ(which.size(), deadlines.size());
  std::vector<absl::Status> results =
      ForEachMember(which, [&](size_t index, Member& member) { return member.describe(deadlines[index]); });
  if (adopt_names_) {
    for (const auto& member : all()) {
      const MemberStatus status = member->status();
      if (!status.facts.has_value() || status.name != status.address || status.facts->name.empty()) continue;
      if (find(status.facts->name) != nullptr) continue;  // Workers on one host may say the host's name.
      const std::lock_guard lock(member->mutex_);
      member->status_.name = status.facts->name;
    }
  }
  return results;
}

void Members::refresh(Deadline deadline) {
  (void)ForEachMember(all(), [&](size_t, Member& member) {
    member.refresh(deadline);
    return absl::OkStatus();
  });
}

std::vector<MemberStatus> Members::status() const {
  std::vector<MemberStatus> list;
  for (const auto& member : all()) list.push_back(member->status());
  return list;
}

void Members::cancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  for (const auto& member : members_) {
    if (!member->is_self()) member->client()->cancel();
  }
}

std::vector<absl::Status> ForEachMember(const MemberList& members,
                                        absl::FunctionRef<absl::Status(size_t index, Member& member)> call) {
  std::vector<absl::Status> results(members.size());
  std::vector<std::thread> threads;
  std::vector<size_t> left;
  for (size_t i = 0; i < members.size(); ++i) {
    try {
      threads.emplace_back([&, i] {
        SetThreadLogName(members[0]->name(), 0);
        results[i] = call(i, *members[i]);
      });
    } catch (const std::system_error&) {  // Clients hold all that the system grants.
      left.push_back(i);
    }
  }
  for (const size_t i : left) results[i] = call(i, *members[i]);
  for (std::thread& thread : threads) thread.join();
  return results;
}

absl::Status AllErrors(const std::vector<absl::Status>& results) {
  absl::Status first;
  std::vector<std::string> messages;
  for (const absl::Status& result : results) {
    if (result.ok()) continue;
    if (first.ok()) first = result;
    messages.push_back(Message(result));
  }
  return first.ok() ? first : absl::Status(first.code(), Join(messages, "; "));
}

absl::Status FirstError(const MemberList& members,
                        absl::FunctionRef<absl::Status(size_t index, Member& member)> call) {
  std::mutex mutex;
  absl::Status first;
  (void)ForEachMember(members, [&](size_t index, Member& member) {
    const absl::Status status = call(index, member);
    const std::lock_guard lock(mutex);
    if (first.ok()) first = status;
    return status;
  });
  return first;
}

}  // namespace shoal
