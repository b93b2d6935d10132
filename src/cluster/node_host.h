// Hosts nodes of plans in this process: loads what each is to hold, opens its part of a session, ends it, and
// reports. A coordinator's own node, a worker and a cluster within one process are three uses of it. It decides
// nothing: what to load and when a session ends is told by its user.
#pragma once

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
#include "compute/backend.h"
#include "exec/node_model.h"
#include "exec/node_session.h"
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

/// Safe from any thread. load(), open() and drop() wait for each other. prepare() waits for load(), and ends for one of its
/// own node. The session of a node must not be ended while another thread is in its connect().
class NodeHost {
 public:
  struct Options {
    /// The backend of a node, made when it is first loaded.
    std::function<std::unique_ptr<Backend>(const HostedNode&)> make_backend;
    std::shared_ptr<const PackedCache> packed_cache;  ///< nullptr: none.
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
  /// open() or load() for it. What both have is held once. On an error nothing has changed. Cancelled: a load() for the node
  /// came meanwhile, which does not wait for what nobody may want any more.
  absl::Status prepare(const HostedNode& node, std::shared_ptr<const ResolvedWeights> weights,
                       NodeShard shard, const LoadProgress& progress);
  /// Whether the node holds this shard now, prepared ones included.
  bool holds(const HostedNode& node, const NodeShard& shard) const;
  /// Ends the node's session and gives its weights and backend back. Nothing where there is no such node.
  void drop(const HostedNode& node);
  /// Gives back what was prepared, but not taken.
  void drop_prepared(const HostedNode& node);

  /// What one node is told of a session that it takes part in.
  struct SessionSetup {
    uint64_t session = 0;
    Plan plan;
    NodeId node;
    std::unique_ptr<Transport> transport;
    StepLimits limits;
    Duration expert_timeout = std::chrono::seconds(6);
    CoordinatorSink* sink = nullptr;  ///< Of node 0 of a coordinator; nullptr elsewhere.
  };
  /// Ends the node's session, takes memory for the cache of this one and gives it to an executor. The links are
  /// opened by connect(). FailedPrecondition where the node does not hold its shard of the plan; else as
  /// NodeSession::Create, and then the node has no session.
  absl::Status open(const HostedNode& node, SessionSetup setup);
  /// Opens the links of the node's session. Errors as Transport::connect, FailedPrecondition where it has none.
  absl::Status connect(const HostedNode& node, Deadline deadline);

  /// Ends what this process runs in a session; of one node; of all sessions. Weights stay.
  void close(uint64_t session);
  void close(const HostedNode& node);
  void close_all();

  /// A node as it is now.
  struct NodeReport {
    HostedNode node;
    int64_t weight_bytes = 0;  ///< Packed; 0 while it loads.
    LoadStats load;
    uint64_t session = 0;      ///< 0: none is open, or it has ended.
    NodeSession::Stats stats;  ///< Of the session that is open.
  };
  std::vector<NodeReport> report() const;

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
  struct Node {
    std::unique_ptr<Backend> backend;
    std::unique_ptr<StepProfile> profile;
    std::shared_ptr<NodeModel> model;
    std::shared_ptr<NodeModel> next;  ///< Prepared beside it.
    std::shared_ptr<Executor> executor;
    uint64_t session_id = 0;
    std::unique_ptr<NodeSession> session;
  };

  std::shared_ptr<Node> find(const HostedNode& node) const;
  /// The executor of a node that is to open a session. Call with work_ held.
  std::shared_ptr<Executor> executor_of(const Node& node);
  /// Ends the sessions that `which` picks, outside the lock: an executor may take a layer's time to notice.
  template <typename Which>
  void end_sessions(Which which);

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
