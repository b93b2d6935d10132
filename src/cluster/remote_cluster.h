// The coordinator's side of a cluster: its own node in this process, workers over the control plane, one
// session over all.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/laps.h"
#include "base/text.h"
#include "cluster/control.h"
#include "cluster/control_cache.h"
#include "cluster/control_weights.h"
#include "cluster/member.h"
#include "cluster/node_host.h"
#include "cluster/supervisor.h"
#include "cluster/weight_shelf.h"
#include "plan/kv_buddies.h"
#include "wire/grpc/endpoint.h"

namespace shoal {

class RemoteCluster final : public SessionHost, public CacheGiver {
 public:
  struct Options {
    std::shared_ptr<const ResolvedWeights> weights;
    std::vector<MemberAddress> members;  ///< This process first, then workers.
    bool adopt_names = false;            ///< As Members.
    /// What the nodes of a plan are to have room for. Called by open() and prepare().
    std::function<StepLimits(const Plan&)> limits;
    /// Who keeps copies of what the nodes of a plan cache, without those that are lost (an entry for each node, or none where
    /// all are there). Called by open() and on_lost(). Empty: nobody does.
    std::function<std::vector<KvBuddy>(const Plan&, const StepLimits&, const std::vector<bool>& lost)>
        buddies;
    /// Called by open(), before nodes load: from now on they hold what this plan says. May be empty.
    std::function<void(const Plan&)> opens;
    std::vector<std::string> model_names;  ///< How workers may find the model.
    std::string listen;  ///< Of this process's frames; empty: loopback or the address towards the workers.
    int threads = 1;
    std::vector<int> cpus;  ///< Where they stay; empty: wherever the system puts them.
    Isa isa = Isa::kReference;
    Duration expert_timeout = std::chrono::seconds(4);
    ClusterKey key;
    /// Whether this process may hold a shard beside what it has in a session of this plan and these limits; empty: it
    /// may. Called by prepare().
    std::function<absl::Status(const Plan& now, const StepLimits& limits, const NodeShard& next)>
        check_beside;
    bool insecure = false;                            ///< Listens beyond loopback without a key.
    bool take_over = false;                           ///< Takes workers that serve another coordinator.
    std::shared_ptr<const PackedCache> packed_cache;  ///< For node 0's shard; nullptr: none.
    int64_t expert_memory = 0;                        ///< Of node 0, as BackendLoad's.
    std::shared_ptr<DiskStore> kv_disk;               ///< For node 0's share of the KV cache; nullptr: none.
    bool send_weights = true;                         ///< Offers its tensors to workers without model files.
    std::shared_ptr<ByteRate> weights_rate;           ///< Of what it sends of them; nullptr: no limit.
    /// Has this process's nodes of several clusters; nullptr: a host of its own, of the five above.
    std::shared_ptr<NodeHost> host;
    /// Loading of a member's shard. Called from several threads. May be empty.
    std::function<void(const std::string& member, int64_t bytes_done, int64_t bytes_total)> progress;
  };
  /// Listens where Options::listen says, if it does: errors as GrpcEndpoint::start. Asks nobody yet.
  static absl::StatusOr<std::unique_ptr<RemoteCluster>> Start(Options options);
  ~RemoteCluster() override;

  /// The nodes of `plan` are members by their names, node 0 this process: FailedPrecondition where they are
  /// not.
  absl::Status open(const Plan& plan, PipelineEngine& engine) override;
  absl::Status prepare(const Plan& plan) override;
  absl::Status open_ahead(const Plan& plan) override;
  void close(PipelineEngine& engine, const absl::Status& why) override;
  bool on_lost(NodeId node, const absl::Status& why) override;
  void interrupt() override;
  absl::Status give_cached(const std::string& model_hash, const CacheRequest& request, Deadline deadline,
                           TakeImages take) override;
  absl::Status give_copies(const std::string& model_hash, uint64_t session, uint64_t after, Deadline deadline,
                           TakeCopies take) override;

  Members& members() { return members_; }
  /// How all members are, after asking each at most until `deadline`; one that does not answer is lost. What
  /// is known already where another thread is asking.
  std::vector<MemberStatus> status(Deadline deadline);
  /// How much of the bytes that members load, those that are done included, is there: 0 to 1; nothing where no
  /// member loads.
  std::optional<double> load_progress() const;
  /// How experts were used since this was last asked, by layers of all members that are up, each asked until `deadline` at
  /// most. What one that does not answer counted comes with its next answer, if its process lives.
  std::vector<LayerUseCount> take_expert_use(Deadline deadline);
  /// What travelled between this process and each member since the start, over all sessions.
  std::map<std::string, LinkStats> link_stats() const;
  /// Tensors that workers without model files got from this process.
  int64_t weights_sent_bytes() const { return shelf_.bytes_sent(); }
  /// What the host tells of this process's own node; empty before it has loaded.
  NodeHost::NodeReport own_report() const;
  /// Buddies of the session that is open, or was last, by the name of the node whose copies they keep.
  struct Buddy {
    std::string name;
    int64_t bytes_max = 0;
  };
  std::map<std::string, Buddy> buddies() const;
  /// Blocks and states that were not computed again after a loss, as a buddy had copies; since the start.
  int64_t restored() const { return restored_; }
  /// This process's node.
  const NodeHost& host() const { return *host_; }
  const HostedNode& own_node() const { return own_node_; }

  /// A host for the CPUs that the options of several clusters agree on.
  static std::shared_ptr<NodeHost> MakeHost(const Options& options);

 private:
  /// Of one plan: its nodes' members, by NodeId.
  struct Session {
    Plan plan;
    MemberList members;
    uint64_t id = 0;
    StepLimits limits;
    std::vector<KvBuddy> buddies;
    std::vector<bool> lost;  ///< By node: the session goes on without it.
    std::unique_ptr<Transport>
        dialled;  ///< Of this process's node, if open_ahead() has opened the links of all.
  };
  /// A session as the next one may find it.
  struct Last {
    uint64_t id = 0;  ///< 0: none.
    Plan plan;        ///< With the addresses of its nodes.
    std::vector<KvBuddy> buddies;
    std::vector<uint64_t> instances;  ///< By node: of its process; 0: unknown.
  };
  /// What of the caches of the last session goes on in the next.
  struct CachePlan {
    KeptCaches keeps = KeptCaches::kNone;                 ///< If all nodes have theirs.
    std::vector<CachedPlace> places;                      ///< Of kWanted.
    std::vector<std::vector<OpenOrder::Source>> sources;  ///< Of kWanted, by the node of the next plan.
    Duration move_max{};
    std::vector<std::string> lost;  ///< Nodes whose copies are asked for.
    std::vector<std::string> buddies;
  };

  explicit RemoteCluster(Options options);
  /// As workers tell this cluster from those of other coordinators.
  OrderGiver giver() const { return {session_base_, options_.take_over}; }
  absl::StatusOr<MemberList> members_of(const Plan& plan) const;
  /// Of an address of this machine that the nodes of the plan reach.
  static absl::StatusOr<std::string> HostTowards(const Plan& plan);
  absl::Status listen_towards(const Plan& plan);
  /// The address at which the nodes of `next` reach this process after listen_towards(). ResourceExhausted where it would
  /// have to listen anew, which ends the session that is open.
  absl::StatusOr<std::string> address_towards(const Plan& next) const;
  /// At which the nodes of `next` reach this process before its session. ResourceExhausted where they don't while another
  /// session is open.
  absl::StatusOr<std::string> address_beside(const Plan& next) const;
  std::vector<PeerToCheck> peers_of(const Session& session) const;
  /// That every node reaches all others at the addresses of the plan, where that is not known. Unavailable names the
  /// two that don't.
  absl::Status check_links(const Session& session);
  static absl::Status check_links_of(Member& member, const PeerToCheck& from, std::vector<PeerToCheck> peers);
  absl::Status start_endpoint(const HostPort& listen);
  absl::Status prepare_own(const Session& session);
  absl::Status prepare_all(const Session& session);
  absl::StatusOr<int64_t> prepare(const Session& session, NodeId node, Member& member, bool beside);
  absl::Status prepare_own_beside(const Plan& plan);
  /// Whether it takes part in the session that is open, which has not lost it.
  bool takes_part(const Member& member) const;
  /// kNone where a node and its buddy are away that had layers, or nobody says in time what is worth moving.
  CachePlan plan_caches(const Session& next, PipelineEngine& engine) const;
  /// Of the nodes of a plan: of their processes, as they were last heard of.
  std::vector<uint64_t> instances_of(const Plan& plan) const;
  /// By node of the last session: whether it is the same process still, and may be asked.
  std::vector<bool> still_there(const Plan& next) const;
  /// Gives nodes whose buddy is lost another one, where there is one. Whether there was for any.
  bool replace_buddies(Session& session);
  /// Has the buddy keep copies in a session that is open.
  absl::Status order_copies_of(const Session& session, const KvBuddy& buddy);
  /// For buddies(), and for what the next session takes over.
  void note_buddies(const Session& session);
  static void order_copies(const Session& session, size_t node, OpenOrder& order);
  /// What all nodes have of the places that were to be kept. The entries of those that one lacks, ascending.
  std::vector<uint64_t> note_kept(const CachePlan& caches, std::span<const OpenAnswer> answers);
  OpenOrder order_for(const Session& session, size_t node, const CachePlan& caches) const;
  /// A session of the plan, of which nothing is opened so far.
  absl::StatusOr<std::unique_ptr<Session>> session_of(const Plan& plan, const std::string& own_address);
  /// The links of all nodes. Unimplemented: a worker that is too old.
  absl::Status dial_all(Session& session);
  /// What open_ahead() has opened, if it is of this plan; under the plan's epoch from now on.
  std::unique_ptr<Session> take_ahead(const Plan& plan);
  /// Nodes are asked, reach one another, and have loaded.
  absl::StatusOr<std::unique_ptr<Session>> get_ready(const Plan& plan, PipelineEngine& engine, Laps& laps);
  absl::Status open_all(Session& session, PipelineEngine& engine);
  absl::StatusOr<OpenAnswer> open_own(const OpenOrder& order, PipelineEngine& engine,
                                      std::unique_ptr<Transport> transport);
  void report(Member& member, int64_t done, int64_t total) const;

  const Options options_;
  Members members_;
  const std::shared_ptr<NodeHost> host_;
  WeightShelf shelf_;
  WeightsService weights_service_;
  std::string listens_on_;     ///< The host of an endpoint that open() started.
  const HostedNode own_node_;  ///< By the content of its weights: the host may have another fine-tune, too.
  std::string own_address_;    ///< At which others dial this process.
  bool dialled_at_is_told_ = false;  ///< By Options::listen: own_address_ stays.
  const uint64_t session_base_;
  uint64_t sessions_ = 0;           ///< Ids given so far: none is used twice.
  std::unique_ptr<Session> ahead_;  ///< Opened by open_ahead(), for the next open().
  const uint64_t instance_;         ///< Of this process's endpoint.
  ProbeService probes_;
  CacheService cache_service_;
  Last last_;                               ///< The last session in which steps may have run.
  std::vector<PeerToCheck> links_checked_;  ///< Found to reach one another; those of the last plan.
  std::unique_ptr<GrpcEndpoint>
      endpoint_;  ///< nullptr until the first open() where Options::listen is empty.
  std::atomic<bool> stopping_{false};
  std::atomic<int64_t> restored_{0};
  std::mutex asking_;         ///< Held by whoever asks the members how they are.
  mutable std::mutex mutex_;  ///< Guards what follows.
  std::unique_ptr<Session> session_;
  std::map<std::string, Buddy> buddies_;
};

/// Those of `peers` of which peers[from] is to be asked whether it reaches them. known: by peer, whether it is one of
/// those that were found to reach one another.
std::vector<PeerToCheck> NewLinks(const std::vector<PeerToCheck>& peers, size_t from,
                                  const std::vector<bool>& known);

}  // namespace shoal
