// Who takes part in a cluster: processes by name. All that outlives a plan belongs to a member: how it is
// reached, what it said of itself, how it is, what travelled to it. A NodeId is an index within one plan.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "cluster/attendance.h"
#include "cluster/control.h"
#include "cluster/roster.h"
#include "exec/node_model.h"
#include "wire/transport.h"

namespace shoal {

enum class MemberState : uint8_t {
  kUnknown,  ///< Nobody asked it so far.
  kIdle,     ///< It holds no weights.
  kLoading,
  kReady,   ///< It holds its weights, but no session is open.
  kUp,      ///< It takes part in the session.
  kLost,    ///< It does not answer.
  kFailed,  ///< It answers, but did not do what it was asked for.
};
std::string_view Name(MemberState state);  ///< "unknown", "idle", "loading", "ready", "up", "lost", "failed"

struct MemberAddress {
  std::string name;     ///< As plans name the node; unique.
  std::string address;  ///< HOST:PORT; empty for the coordinator's own process.
  bool operator==(const MemberAddress&) const = default;
};

/// What is known of a member, for planning and for /cluster/status.
struct MemberStatus {
  std::string name;
  std::string address;
  MemberState state = MemberState::kUnknown;
  bool joined = false;               ///< It offered itself; nobody declared it.
  std::string error;                 ///< Why it is not up, as last seen; empty otherwise.
  std::optional<WorkerFacts> facts;  ///< What it said last; nothing of the coordinator's own process.
  int64_t load_done = 0;   ///< Bytes of its shard, from the begin of loading until it is up; else 0.
  int64_t load_total = 0;  ///< 0 where nothing had to be loaded.
  /// Since the start: how often it was noted as lost (in a session, or while it loaded), and as failed.
  int losses = 0;
  int failures = 0;
  std::optional<Clock::time_point> heard;  ///< Its last heartbeat, as far as anybody looked for one.
};

/// The coordinator's own node: what members must agree with.
struct OwnNode {
  std::string name;
  std::string numerics_class;
};

/// FailedPrecondition where a worker speaks or computes differently than `own`. address: of the worker.
absl::Status CheckBuild(const WorkerFacts& facts, const std::string& address, const OwnNode& own);

/// Safe from any thread.
class Member {
 public:
  Member(MemberId id, MemberAddress address, const ClusterKey& key, OwnNode peer);

  MemberId id() const { return id_; }
  /// Whether it is the coordinator's own process, which has no client.
  bool is_self() const { return is_self_; }
  /// Of the address that it has now; not of this process.
  std::shared_ptr<WorkerClient> client() const;
  std::string address() const;
  std::string name() const;

  /// Asks it what it is; this process need not be asked. Unavailable or DeadlineExceeded where it does not answer, FailedPrecondition where it
  /// runs a build that computes or speaks differently; each is noted and names the member.
  absl::Status describe(Deadline deadline);
  /// Whether it answers at its address, and how far away that is; with `bytes` also how quickly they get there.
  PeerResult probe(int64_t bytes, Deadline deadline) const;
  /// As describe(), but without a verdict on its build, and a member that loads may be slow to answer.
  void refresh(Deadline deadline);

  MemberStatus status() const;
  void note(MemberState state, const absl::Status& status);
  void note_loading(int64_t done, int64_t total);
  void note_heard(Clock::time_point at);

  /// Samples of the weights of its shard; taken once for a shard that stays the same.
  std::vector<WeightSample> samples(const ResolvedWeights& weights, NodeShard shard);

  /// Adds what travelled between the coordinator and it in a session that has ended.
  void add_links(const LinkStats& links);
  LinkStats links() const;

 private:
  friend class Members;

  const MemberId id_;
  const bool is_self_;
  const ClusterKey key_;
  const OwnNode peer_;
  std::mutex sampling_;  ///< Guards the two below.
  NodeShard sampled_;
  std::optional<std::vector<WeightSample>> samples_;
  mutable std::mutex mutex_;              ///< Guards what follows.
  std::shared_ptr<WorkerClient> client_;  ///< nullptr: this process.
  MemberStatus status_;
  LinkStats links_;
};

using MemberList = std::vector<std::shared_ptr<Member>>;

/// All members of a coordinator's cluster: those that were declared, for its whole life; then those that have joined.
/// Safe from any thread.
class Members {
 public:
  /// The first is the coordinator's own process. adopt_names: a member that is named by its address takes the
  /// name that it says of itself, unless another has it. numerics_class: of this process's backend.
  Members(const std::vector<MemberAddress>& members, const ClusterKey& key, bool adopt_names,
          const std::string& numerics_class);

  Member& self() const { return *self_; }
  /// nullptr where there is none of that name.
  std::shared_ptr<Member> find(std::string_view name) const;
  /// Declared ones have the ids 0, 1, ... in the order given; who joined follows in the roster's order.
  MemberList all() const;

  /// Takes in who has joined, goes on without who has left, and dials those that moved where they are now. Members keep
  /// their ids for as long as they stay.
  void follow(const std::vector<JoinedMember>& joined);

  /// Member::describe() of all, at the same time. The error names every member that has one.
  absl::Status describe(Deadline deadline);
  /// Member::describe() of `which`, at the same time; an entry for each.
  std::vector<absl::Status> describe(const MemberList& which, Deadline deadline);
  /// As that, with a deadline for each.
  std::vector<absl::Status> describe(const MemberList& which, const std::vector<Deadline>& deadlines);
  /// Member::refresh() of all, at the same time.
  void refresh(Deadline deadline);
  /// In the order of all().
  std::vector<MemberStatus> status() const;

  /// Ends calls in flight with Cancelled, and those to come. From any thread.
  void cancel();

 private:
  const bool adopt_names_;
  const ClusterKey key_;
  const OwnNode own_;
  std::shared_ptr<Member> self_;
  mutable std::mutex mutex_;  ///< Guards what follows. Never held while a member is asked.
  MemberList members_;
  MemberId next_id_ = 0;
  bool cancelled_ = false;
};

/// Runs `call` for every one of `members`, each in a thread of its own, or one after the other where the system
/// has no more threads, and waits for all. One entry per member.
std::vector<absl::Status> ForEachMember(const MemberList& members,
                                        absl::FunctionRef<absl::Status(size_t index, Member& member)> call);

/// The errors of nodes that do not wait for one another: the first's code, and what each says.
absl::Status AllErrors(const std::vector<absl::Status>& results);

/// ForEachMember(); of several errors the one that came first: the others tend to follow from it.
absl::Status FirstError(const MemberList& members,
                        absl::FunctionRef<absl::Status(size_t index, Member& member)> call);

}  // namespace shoal
