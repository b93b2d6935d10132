// All nodes of a plan in this process: what `shoal run`, `shoal logits`, the placement harness and a server
// without workers use. Over inproc or over real sockets, the nodes are the very ones that run on other
// machines.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "cluster/node_host.h"
#include "cluster/supervisor.h"
#include "exec/pipeline_engine.h"
#include "plan/plan.h"
#include "wire/grpc/endpoint.h"

namespace shoal {

enum class TransportKind : uint8_t { kInproc, kGrpc };
absl::StatusOr<TransportKind> ParseTransportKind(std::string_view name);  ///< "inproc" | "grpc"

class LocalCluster final : public SessionHost {
 public:
  struct Options {
    std::shared_ptr<const ResolvedWeights> weights;
    Plan plan;
    StepLimits limits;
    int threads_per_node = 1;
    std::vector<int> cpus;  ///< threads_per_node of them for each node in turn; empty: none is pinned.
    Isa isa = Isa::kReference;
    /// Of a process that hosts other nodes, too: their names and model, together, are none of this plan. It makes the
    /// backends and knows the caches; what this says of them is not looked at. nullptr: one of its own.
    std::shared_ptr<NodeHost> host;
    /// Makes the backend of a node; empty: a CpuBackend of the three above.
    std::function<std::unique_ptr<Backend>(const HostedNode&)> make_backend;
    TransportKind transport = TransportKind::kInproc;
    bool profile = false;  ///< Keep a StepProfile of every node.
    LayerHook hook;        ///< Of every node, on its executor's thread. May be empty.
    std::shared_ptr<const PackedCache> packed_cache;  ///< nullptr: none.
    int64_t expert_memory = 0;                        ///< Of each node, as BackendLoad's.
    std::shared_ptr<DiskStore> kv_disk;               ///< For all nodes; nullptr: none.
    LoadProgress progress;  ///< Over all nodes' tensors, one node after the other. May be empty.
  };

  /// Loads every node's shard. Errors as NodeModel::Load.
  static absl::StatusOr<std::unique_ptr<LocalCluster>> Load(Options options);
  ~LocalCluster() override;

  absl::Status open(const Plan& plan, PipelineEngine& engine) override;
  void close(PipelineEngine& engine, const absl::Status& why) override;

  /// Of the nodes.
  const NodeHost& host() const { return *host_; }
  const NodeModel& model(NodeId node) const { return *host_->model(hosted(node)); }
  /// Where the node's executor spent its time, over all sessions; nullptr where nobody asked for it.
  const StepProfile* profile(NodeId node) const { return host_->profile(hosted(node)); }
  /// Of all nodes, which load one after the other.
  LoadStats load_stats() const;
  /// As NodeModel::finish_saving, for all nodes.
  void finish_saving() { host_->finish_saving(); }
  /// The node's end of the session, for whoever breaks it on purpose; nullptr between sessions.
  Transport* transport(NodeId node) const { return host_->transport(hosted(node)); }
  /// What has travelled between the nodes in this session, by node; empty between sessions.
  std::vector<TransportStats> link_stats() const;
  /// Microseconds of each of `count` round trips of a frame with `payload_bytes` from node 0 to node 1 and
  /// back, over links of their own, between threads where the nodes' executors run; some more go before them.
  /// Two nodes at least, between sessions; `epoch` is new. Errors as Transport::connect, send and receive.
  absl::StatusOr<std::vector<double>> round_trips_us(Epoch epoch, int64_t payload_bytes, int count);
  /// The plan in force: of Load(), then of the last open().
  const Plan& plan() const { return options_.plan; }

 private:
  explicit LocalCluster(Options options);
  HostedNode hosted(NodeId node) const {
    return {options_.plan.node(node).name, options_.weights->checkpoint().hash()};
  }
  /// What the node is told of the session of the plan in force; without transport and sink.
  NodeHost::SessionSetup setup_of(NodeId node, const std::vector<LayerSupply>& moves,
                                  const std::optional<PipelineEngine::Wanted>& wanted) const;
  void close_nodes();
  int32_t nodes() const { return static_cast<int32_t>(options_.plan.nodes.size()); }
  /// Has every node hold its shard of `plan`, which becomes the one in force.
  absl::Status prepare(const Plan& plan) override;
  absl::StatusOr<std::vector<std::unique_ptr<Transport>>> open_transports(Epoch epoch);

  Options options_;
  std::vector<std::unique_ptr<GrpcEndpoint>>
      endpoints_;  ///< By node, as on machines of their own. kGrpc only.
  std::shared_ptr<NodeHost> host_;
  uint64_t last_up_ = 0;  ///< The last session in which steps may have run; 0: none.
  Plan last_plan_;        ///< Its plan.
};

}  // namespace shoal
