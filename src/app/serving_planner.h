// "Make me a plan now" of a server: from what flags, cluster file or plan file declare, and what the members
// say of themselves at that moment.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "app/command.h"
#include "app/what_if.h"
#include "cluster/join_desk.h"
#include "cluster/link_table.h"
#include "cluster/member.h"
#include "cluster/replanner.h"
#include "plan/compare.h"
#include "plan/kv_buddies.h"
#include "plan/left_out.h"

namespace shoal {

/// What the models of one server take of its nodes' memory. Safe from any thread.
class MemoryLedger {
 public:
  /// From now on `model` (Options::identity) is served under this name. ResourceExhausted where it is already: its
  /// nodes can't hold it twice.
  absl::Status claim(const std::string& model, const std::string& name);
  /// bytes: by the node's name.
  void set(const std::string& model, std::map<std::string, int64_t> bytes);
  void erase(const std::string& model);
  /// What all models but `model` take of the node.
  int64_t others(const std::string& model, const std::string& node) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::string, std::string> names_;
  std::map<std::string, std::map<std::string, int64_t>> bytes_;
};

/// Bytes of `--kv-buddy`: "off", "auto" (no limit but what there is to keep), or a size. InvalidArgument.
absl::StatusOr<int64_t> ParseKvBuddy(const std::string& text);

/// Layers of nodes, by name.
using LayerCounts = std::vector<std::pair<std::string, int64_t>>;

class ServingPlanner {
 public:
  struct Options {
    Placement placement;  ///< Its first node is this process, described.
    ModelFacts model;
    ModelSpec spec;
    CacheSize cache;  ///< As asked for; zeros: by memory.
    int64_t rows_per_step = 256;
    /// Where the memory is shared with other models: a plan leaves what they take, and a cache has room for a few
    /// thousand positions at least. nullptr: all is for this model.
    std::shared_ptr<MemoryLedger> ledger;
    /// What this process takes of its memory for something else than the model's own weights and cache.
    int64_t beside_bytes = 0;
    std::string identity;                   ///< Of the model in the ledger: what nodes tell models by.
    AttendanceRules attendance;             ///< When plans do without a member.
    ReplanAs replan_as = ReplanAs::kAsked;  ///< How, where the placement names its part.
    std::shared_ptr<JoinDesk> desk;         ///< Where further workers join; nullptr: nobody can.
    int64_t kv_buddy_max = 0;               ///< Bytes of copies kept of one node's cache; 0: none are.
    int await_ranks = 0;                    ///< No plan is made before the ranks 1 to so many have joined.
  };
  ~ServingPlanner();
  /// Errors are those that no worker's answer can mend: the request does not suit the model or the nodes, the
  /// plan file is another model's, a node has no address, what is declared does not fit.
  static absl::StatusOr<std::unique_ptr<ServingPlanner>> Create(Options options);

  /// Who is declared to take part, this process first.
  std::vector<MemberAddress> members() const;
  /// Whether members named by their addresses may take names of their own: not where a plan file names them.
  bool adopts_names() const { return !file_plan_.has_value(); }

  /// Asks all workers, each until `deadline` at most and hardly longer than it is waited for, and plans for what they say. Errors as
  /// Members::describe and MakePlan, of the members that Replanner waits for or can't do without.
  absl::StatusOr<Plan> make_plan(Members& members, Deadline deadline);

  /// Replanner::next_grace_end().
  std::optional<Duration> next_grace_end() const { return replanner_->next_grace_end(Clock::now()); }

  /// A session of the last plan is up. Asks the members that it does without, or that joined since, each until `deadline` at
  /// most; result as
  /// Replanner::better().
  std::optional<Replanner::Better> better_plan(Members& members, Deadline deadline);
  /// Replanner::adopt().
  void adopt(const Replanner::Better& better) { replanner_->adopt(better, Clock::now()); }
  /// From now on plans do without the node of this name, or, where `drained` is false, no longer for that reason. NotFound:
  /// no such node. InvalidArgument: it is this process. FailedPrecondition: the others can't do without it.
  absl::Status drain(Members& members, const std::string& node, bool drained);
  /// What is predicted of a plan of these members. Errors as PredictPlan; NotFound: nullptr.
  absl::StatusOr<Predicted> predicted(const Members& members, const Plan* plan) const;
  /// From now on plans divide the layers so, by the nodes' names, for as long as those with layers are there; without them, and
  /// with an empty list, as the server was asked. A session of such a plan is opened soon. NotFound: no such node. Errors as
  /// MakePlan; FailedPrecondition: plans do without one that is named.
  absl::Status order_layers(Members& members, const LayerCounts& layers);
  /// What a question about another plan starts from: the members that plans count on. Measures the links that are not known,
  /// until `deadline` at most.
  PlanGround ground(Members& members, Deadline deadline);
  /// The plan of the members that plans count on, as the server was asked, whatever layers were ordered. Errors as MakePlan.
  absl::StatusOr<Plan> usual_plan(Members& members) const;
  /// Measures the links between members that were not measured lately, until `deadline` at most.
  void measure_links(Members& members, Deadline deadline);
  /// The links between members that were measured.
  std::vector<LinkFacts> links(const Members& members) const { return links_.links(members); }
  std::vector<LeftOutMember> left_out() const { return replanner_->left_out(); }

  /// What the nodes of a plan of make_plan(), or of better_plan(), are to have room for.
  StepLimits limits(const Plan& plan) const;
  /// Who keeps copies of what its nodes cache, where Options::kv_buddy_max says so: in memory that neither this model
  /// nor others take.
  /// lost: by node of the plan, those that keep nothing any more; empty: all are there.
  std::vector<KvBuddy> buddies(const Plan& plan, const std::vector<bool>& lost = {}) const;
  /// A session of this plan is about to be opened: what it takes is not there for other models from now on.
  void opens(const Plan& plan) const;
  /// What other models leave of this process's memory.
  int64_t own_memory() const { return left_by_others(nodes()).front().memory_bytes; }
  /// The nodes as they were last planned for.
  std::vector<NodeFacts> nodes() const;

 private:
  explicit ServingPlanner(Options options) : options_(std::move(options)), nodes_(options_.placement.nodes) {}
  /// The members as they are now.
  struct Present {
    MemberList members;
    std::vector<NodeFacts> nodes;
    std::vector<MemberReport> reports;  ///< Their answers are yet to be filled in.
  };
  Present present(Members& members) const;
  /// Who has joined and who has left, until now.
  void follow(Members& members) const;
  /// Unavailable until all ranks that are awaited have joined once; it names those that lack.
  absl::Status await_ranks();
  /// That the request suits so many nodes as may come to be.
  absl::Status check_request() const;
  /// A plan without the nodes that are out, an entry for each.
  absl::StatusOr<Plan> plan_for(const std::vector<NodeFacts>& nodes, const std::vector<LinkFacts>& links,
                                const std::vector<bool>& out) const;
  /// plan_for() where no layers are ordered.
  absl::StatusOr<Plan> usual_plan_for(const std::vector<NodeFacts>& nodes,
                                      const std::vector<LinkFacts>& links,
                                      const std::vector<bool>& out) const;
  /// What a plan is asked for where no layers are ordered, and the plan file does not count.
  PlanRequest usual_request() const;
  /// The usual request with these layers; nothing where there are none, or a node that they name is out.
  std::optional<PlanRequest> request_for(const LayerCounts& layers, const std::vector<NodeFacts>& nodes,
                                         const std::vector<bool>& out) const;
  /// plan_for(), by this request.
  absl::StatusOr<Plan> plan_by(PlanRequest request, const std::vector<NodeFacts>& nodes,
                               const std::vector<LinkFacts>& links, const std::vector<bool>& out) const;
  /// What messages between the members take, where a plan needs to know: measured now if it was not lately.
  std::vector<LinkFacts> measured_links(Members& members, const std::vector<NodeFacts>& nodes,
                                        Deadline deadline);
  CacheSize cache_of(const Plan& plan) const;
  /// What a plan is asked for where the plan file can't be followed.
  PlanRequest request_like_file() const;
  /// The nodes with what other models leave of their memory, and what is beside the model.
  std::vector<NodeFacts> left_by_others(std::vector<NodeFacts> nodes) const;

  Options options_;
  std::optional<Plan> file_plan_;
  LinkTable links_;
  std::optional<Replanner> replanner_;  ///< From the end of Create() on.
  bool gathered_ = false;               ///< Of the thread that makes plans.
  mutable std::mutex mutex_;            ///< Guards what follows.
  LayerCounts ordered_;                 ///< By order_layers().
  std::vector<NodeFacts> nodes_;
  std::vector<std::string> told_;  ///< Notes of the last plan, for the log.
};

}  // namespace shoal
