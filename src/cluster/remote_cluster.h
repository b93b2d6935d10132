// The coordinator's side of a cluster: its own node in this process, workers over the control plane, one
// session over all.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cluster/control.h"
#include "exec/node_model.h"
#include "exec/node_session.h"
#include "exec/supervisor.h"
#include "wire/grpc/endpoint.h"

namespace shoal {

/// How one node of the plan is, for /cluster/status.
struct NodeStatus {
  std::string state;                 ///< "up", "lost", "loading", ...
  std::string error;                 ///< Why it is not up, empty otherwise.
  std::optional<WorkerFacts> facts;  ///< What it said last.
};

class RemoteCluster final : public SessionHost {
 public:
  struct Options {
    std::shared_ptr<const ResolvedWeights> weights;
    Plan plan;  ///< Node 0 is this process; the others have addresses.
    StepLimits limits;
    std::vector<std::string> model_names;  ///< How workers may find the model.
    std::string listen;  ///< Of this process's frames; empty: loopback or the address towards the workers.
    int threads = 1;
    std::vector<int> cpus;  ///< Where they stay; empty: wherever the system puts them.
    Isa isa = Isa::kReference;
    Duration expert_timeout = std::chrono::seconds(6);
    std::optional<KeyAuth> key;
    std::shared_ptr<const PackedCache> packed_cache;  ///< For node 0's shard; nullptr: none.
    /// Loading of a node's shard. Called from several threads.
    std::function<void(NodeId node, int64_t done, int64_t total)> progress;
  };
  static absl::StatusOr<std::unique_ptr<RemoteCluster>> Start(Options options);
  ~RemoteCluster() override;

  /// `plan` is for the nodes of Options::plan.
  absl::Status open(const Plan& plan, PipelineEngine& engine) override;
  void close(PipelineEngine& engine, const absl::Status& why) override;
  void interrupt() override;

  /// Asks every worker how it is, at most for `deadline`; a worker that does not answer is "lost".
  std::vector<NodeStatus> status(Deadline deadline);
  /// Links of this process since the start, over all sessions.
  TransportStats link_stats() const;
  const Plan& plan() const { return options_.plan; }
  const NodeModel* own_model() const { return model_.get(); }

 private:
  explicit RemoteCluster(Options options);
  /// Runs `call` for every worker at the same time; the error of the lowest node, if any.
  absl::Status for_each_worker(absl::FunctionRef<absl::Status(NodeId, WorkerClient&)> call);
  absl::Status check_worker(NodeId node, WorkerClient& client);
  absl::Status prepare_all();
  absl::Status prepare_own();
  absl::StatusOr<int64_t> prepare(NodeId node, WorkerClient& client, const PrepareProgress& progress);
  absl::Status open_own_session(uint64_t session, PipelineEngine& engine);
  void note(NodeId node, std::string state, const absl::Status& status);

  Options options_;
  ThreadPool pool_;
  std::unique_ptr<GrpcEndpoint> endpoint_;
  std::vector<std::unique_ptr<WorkerClient>> workers_;  ///< Index = NodeId; nullptr for node 0.
  std::unique_ptr<NodeModel> model_;
  /// Of each worker's shard; taken by the thread that speaks to that worker, again where its shard is another.
  struct Samples {
    NodeSlice slice;
    std::vector<WeightSample> taken;
  };
  std::vector<std::optional<Samples>> samples_;
  uint64_t session_base_ = 0;
  uint64_t session_id_ = 0;
  std::atomic<bool> stopping_{false};
  mutable std::mutex mutex_;  ///< Guards what follows.
  std::unique_ptr<NodeSession> session_;
  TransportStats ended_links_;  ///< Of the sessions before.
  std::vector<NodeStatus> status_;
};

/// This machine's address as seen from `host`, without sending anything: where peers over there can reach it.
absl::StatusOr<std::string> LocalAddressTowards(const std::string& host, int port);

/// The names under which workers may know the model in `folder`: its absolute path, provider/name where a
/// cluster file or a Hugging Face cache path tells, and the folder's own name.
std::vector<std::string> ModelNames(const std::string& folder, const std::string& provider_and_name);

}  // namespace shoal
