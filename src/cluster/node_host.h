// Hosts nodes of plans in this process: loads what each is to hold, opens its part of a session, ends it, and
// reports. A coordinator's own node, a worker and a cluster within one process are three uses of it. It decides
// nothing: what to load and when a session ends is told by its user.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cluster/cache_move.h"
#include "cluster/kv_buddy.h"
#include "compute/backend.h"
#include "exec/expert_use.h"
#include "exec/node_model.h"
#include "exec/node_session.h"
#include "kv/block_key.h"
#include "kv/disk_store.h"
#include "loading/packed_cache.h"
#include "loading/resolved_weights.h"

namespace shoal {

/// A node that a host has: a node of that name, of plans for that model. Under a new plan it stays the same
/// node, with another shard.
struct HostedNode {
  std::string name;
  std::string model_hash;
  auto operator<=>(const HostedNode&) const = default;
};

/// Which threads run the sessions of a host.
enum class HostThreads : uint8_t {
  kOne,         ///< One for all: nodes that share the CPUs of a machine.
  kOneForEach,  ///< Each node has its own: nodes that stand for machines, and compute at the same time.
};

/// Safe from any thread. load(), open() and drop() wait for each other. prepare() waits for load(), and ends for one of
/// its own node. The session of a node must not be ended while another thread is in its connect().
class NodeHost {
 public:
  struct Options {
    /// The backend of a node, made when it is first loaded.
    std::function<std::unique_ptr<Backend>(const HostedNode&)> make_backend;
    std::shared_ptr<const PackedCache> packed_cache;  ///< nullptr: none.
    int64_t expert_memory = 0;                        ///< As BackendLoad's, of each model.
    std::shared_ptr<DiskStore> kv_disk;               ///< For all nodes; nullptr: none.
    HostThreads executors = HostThreads::kOne;        ///< With kOne all backends ask for the same CPU.
    bool profile = false;                             ///< Keep a StepProfile of every node.
    LayerHook hook;  ///< Of every node, on its executor's thread. May be empty.
  };
  explicit NodeHost(Options options);
  /// Ends all sessions.
  ~NodeHost();

  /// Has the node hold `shard`: keeps it where it does, else ends its session, drops the weights that it had,
  /// as memory is for one shard, and loads. Errors as NodeModel::Load; the node then holds nothing.
  absl::Status load(const HostedNode& node, std::shared_ptr<const ResolvedWeights> weights, NodeShard shard,
                    const LoadProgress& progress);
  /// As load(), while the node's session runs: what it holds stays beside `shard`, which becomes its own with the next
  /// open() or load() for it. What both have is held once. On an error nothing has changed. Cancelled: a load() for the
  /// node came meanwhile, which does not wait for what nobody may want any more.
  absl::Status prepare(const HostedNode& node, std::shared_ptr<const ResolvedWeights> weights,
                       NodeShard shard, const LoadProgress& progress);
  /// Whether the node holds this shard now, prepared ones included.
  bool holds(const HostedNode& node, const NodeShard& shard) const;
  /// Ends the node's session and gives its weights and backend back. Nothing where there is no such node.
  void drop(const HostedNode& node);
  /// Gives back what was prepared, but not taken.
  void drop_prepared(const HostedNode& node);
  /// Of the cache that the node's last session left, gives back blocks and slots behind these limits, or all where it has
  /// none of these layers: weights may need the memory first. Nothing where a session is open.
  void trim_kept(const HostedNode& node, Range layers, const StepLimits& limits);

  /// What one node is told of a session that it takes part in.
  struct SessionSetup {
    uint64_t session = 0;
    Plan plan;
    NodeId node;
    std::unique_ptr<Transport> transport;
    StepLimits limits;
    Duration expert_timeout = std::chrono::seconds(4);
    CoordinatorSink* sink = nullptr;  ///< Of node 0 of a coordinator; nullptr elsewhere.
    /// The session in which the last steps of the cluster ran, if their blocks are to stay; 0: none.
    uint64_t keep_from = 0;
    /// Where layers move: what is to be kept, of all layers; who has those that this node lacks; and whether others are
    /// to be given those that it lets go, until the first work comes.
    std::vector<CachedPlace> places = {};
    std::vector<CacheSource> sources = {};
    bool gives = false;
    Duration move_max{};  ///< For taking in what lacks.
    /// Buddies: whether another node fetches copies of what this one caches; of which nodes this one keeps copies; and the
    /// coordinator (OrderGiver::id), which numbers them.
    bool copied = false;
    std::vector<FollowedNode> follows = {};
    uint64_t giver = 0;
  };
  /// Ends the node's session, takes memory for the cache of this one and gives it to an executor. Where the node's
  /// cache is as session `keep_from` left it, and has all layers of this plan, it stays. The links are
  /// opened by connect(). FailedPrecondition where the node does not hold its shard of the plan; else as
  /// NodeSession::Create, and then the node has no session.
  absl::Status open(const HostedNode& node, SessionSetup setup);
  /// Opens the links of the node's session. Errors as Transport::connect, FailedPrecondition where it has none.
  absl::Status connect(const HostedNode& node, Deadline deadline);

  /// What the node's session began with.
  struct KeptPart {
    /// All that its layers cached in the session that it was to keep, or the places that were named: a node without
    /// layers always does. False without a session.
    bool keeps = false;
    std::vector<int32_t> missing;  ///< Of SessionSetup::places, by their indices: these it lacks.
  };
  KeptPart kept_part(const HostedNode& node) const;
  bool keeps_cache(const HostedNode& node) const {
    const KeptPart part = kept_part(node);
    return part.keeps && part.missing.empty();
  }
  /// Gives images of what a session left in the node's cache, or of copies that it keeps of another's. FailedPrecondition:
  /// it is not there any more.
  absl::Status give_cached(const HostedNode& node, const CacheRequest& request, Deadline deadline,
                           TakeImages take) const;
  /// Gives copies of what the node caches in this session to its buddy, which has those up to number `after`: waits a
  /// while for the first. FailedPrecondition: it has no such session, or no buddy.
  absl::Status give_copies(const HostedNode& node, uint64_t session, uint64_t after, Deadline deadline,
                           TakeCopies take) const;

  /// The node keeps copies of further nodes from now on, in this session. FailedPrecondition: it has no such session.
  absl::Status follow(const HostedNode& node, uint64_t session, std::vector<FollowedNode> follows);

  /// Bytes of the copies that the node keeps of others' caches; and how many it may keep from now on (CopyShelf::cap).
  int64_t copies_bytes(const HostedNode& node) const;
  void cap_copies(const HostedNode& node, int64_t bytes_max);

  /// Ends what this process runs in a session; of one node; of all sessions. Weights stay, and so do caches.
  void close(uint64_t session);
  void close(const HostedNode& node);
  void close_all();

  /// A node as it is now.
  struct NodeReport {
    HostedNode node;
    int64_t weight_bytes = 0;  ///< Packed; 0 while it loads.
    LoadStats load;
    std::optional<ExpertTierStats> expert_tier;  ///< Of a model whose experts are not all in memory.
    uint64_t session = 0;                        ///< 0: none is open, or it has ended.
    NodeSession::Stats stats;                    ///< Of the session that is open.
    std::map<std::string, LinkStats> links;      ///< To the other nodes of the session, by their names.
    CopyOutbox::Stats copied;                    ///< What its buddy took in the session.
    CopyShelf::Stats copies;                     ///< That it keeps of others.
  };
  std::vector<NodeReport> report() const;

  /// How the experts of the node's layers were used since this was last asked; of all its sessions.
  std::vector<LayerUseCount> take_expert_use(const HostedNode& node);

  /// The node's weights; nullptr where it holds none. Valid until the next load() or drop() of it.
  const NodeModel* model(const HostedNode& node) const;
  /// Its transport; nullptr without a session. Valid until the session ends.
  Transport* transport(const HostedNode& node) const;
  /// What travelled in its session; nothing without one.
  std::optional<TransportStats> links(const HostedNode& node) const;
  /// Where its executor spent its time, over all sessions; nullptr where nobody asked for it.
  const StepProfile* profile(const HostedNode& node) const;
  /// For threads of a caller's that stand in for the executor; nullptr where there is no such node.
  Backend* backend(const HostedNode& node) const;
  /// As NodeModel::finish_saving, for all nodes.
  void finish_saving();

 private:
  /// What is in a node's cache.
  struct Contents {
    BlockKey identity;  ///< CachesKeyOf the plan and the weights.
    /// It is what each of these sessions left: one that ran no step leaves what it found. Empty: nobody knows.
    std::vector<uint64_t> sessions;
  };
  struct KeptCache {
    Contents contents;
    std::mutex
        use;  ///< Held by whoever takes layers out, or gives others what they hold. No other is taken with it.
    std::unique_ptr<BackendCache> cache;

    bool is_from(uint64_t session) const { return std::ranges::count(contents.sessions, session) > 0; }
  };
  struct Node {
    std::unique_ptr<Backend> backend;
    std::unique_ptr<StepProfile> profile;
    std::shared_ptr<NodeModel> model;
    std::shared_ptr<NodeModel> next;  ///< Prepared beside it.
    std::shared_ptr<Executor> executor;
    uint64_t session_id = 0;
    std::unique_ptr<NodeSession> session;
    ExpertUses uses;
    Contents contents;   ///< Of the session's cache, as long as it has begun no step.
    KeptPart kept_part;  ///< Of the session.
    std::shared_ptr<CopyShelf> shelf = std::make_shared<CopyShelf>();
    std::vector<std::unique_ptr<CopyFollower>> followers;  ///< Of the session.
    /// Between sessions; and what the session that is open has left of it for others. The backend outlives them.
    std::shared_ptr<KeptCache> kept;
    std::shared_ptr<KeptCache> leaving;
  };
  struct Ended {
    std::shared_ptr<Node> node;
    std::unique_ptr<NodeSession> session;
    std::vector<std::unique_ptr<CopyFollower>> followers;
    uint64_t session_id = 0;
    Contents contents;
  };

  std::shared_ptr<Node> find(const HostedNode& node) const;
  /// The executor of a node that is to open a session. Call with work_ held.
  std::shared_ptr<Executor> executor_of(const Node& node);
  /// Ends the sessions that `which` picks, outside the lock: an executor may take a layer's time to notice.
  template <typename Which>
  void end_sessions(Which which);
  /// Keeps the cache of a session that has stopped.
  void keep_cache(Ended ended);
  /// Creates the node's session, which goes on with what the node has of an earlier one, or gives that back.
  absl::Status create_session(const std::shared_ptr<Node>& node, SessionSetup setup);
  /// Who counts how experts are used in the node's next session.
  std::shared_ptr<ExpertUse> use_of(Node& node);
  NodeSession::Options options_of(const std::shared_ptr<Node>& node, SessionSetup& setup);
  /// Has the layers that the session lacks taken in. What it has then.
  static KeptPart take_in(NodeSession& session, const Node& node, const SessionSetup& setup,
                          const CacheRequest& all, std::span<const LayerId> held);
  /// From now on the session's copies are kept.
  static void follow(Node& node, std::vector<FollowedNode> follows);

  /// The turn of a load(): ends a prepare() of the node.
  std::unique_lock<std::mutex> turn_to_load(const HostedNode& node);
  /// Whether `node` holds the shard; makes it the node's own where it was prepared, and ends its session then.
  bool take_prepared(const HostedNode& node, const NodeShard& shard);

  const Options options_;
  std::mutex loading_;                         ///< Held through load() and prepare(); before work_.
  std::mutex work_;                            ///< Held through load() and open().
  std::shared_ptr<Executor> shared_executor_;  ///< Of kOne, once a session was opened.
  mutable std::mutex mutex_;                   ///< Guards the map and what its nodes hold.
  std::map<HostedNode, std::shared_ptr<Node>> nodes_;
  std::multiset<HostedNode> to_load_;  ///< Those whose load() waits for its turn.
};

}  // namespace shoal
