// A worker process: a port that serves control calls and frames, one model shard, one session at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cluster/control.h"
#include "exec/model_facts.h"
#include "exec/node_model.h"
#include "exec/node_session.h"
#include "wire/grpc/endpoint.h"

namespace shoal {

class WorkerNode final : public WorkerControl {
 public:
  struct Options {
    std::string name;
    std::string listen;                    ///< HOST:PORT; port 0 picks one.
    std::vector<std::string> model_roots;  ///< Models are loaded from below these only.
    int64_t memory_bytes = 0;              ///< For weights and cache.
    int threads = 1;
    std::vector<int> cpus;  ///< Where they stay; empty: wherever the system puts them.
    Isa isa = Isa::kReference;
    std::optional<KeyAuth> key;
    bool insecure = false;                            ///< Listens beyond loopback without a key.
    std::shared_ptr<const PackedCache> packed_cache;  ///< nullptr: none.
    std::string version;                              ///< Of the program, for describe().
    std::string device;                               ///< The CPU's name, for describe().
  };
  /// Listens. Errors as GrpcEndpoint::start and CheckExposure.
  static absl::StatusOr<std::unique_ptr<WorkerNode>> Start(Options options);
  ~WorkerNode() override;

  int port() const { return endpoint_->port(); }

  WorkerFacts describe() override;
  absl::StatusOr<int64_t> prepare(const PrepareOrder& order, const PrepareProgress& progress) override;
  absl::Status open(const OpenOrder& order) override;
  void close(uint64_t session) override;

 private:
  explicit WorkerNode(Options options);
  absl::StatusOr<OpenedModel> find_model(const PrepareOrder& order) const;
  /// That the coordinator's plan is one for the model that is here: sessions index by layers and experts.
  absl::Status check_plan(const Plan& plan, const ModelFacts& model) const;
  /// That the weights are the coordinator's, as far as its samples tell. Returns those of this node.
  absl::StatusOr<std::vector<WeightSample>> check_weights(const PrepareOrder& order, const OpenedModel& model,
                                                          const NodeSlice& slice) const;
  /// That the limits suit the model, and that the memory allowed holds weights, KV cache and states.
  absl::Status check_limits(const OpenedModel& model, const Plan& plan, const NodeSlice& slice,
                            const StepLimits& limits) const;
  /// Of open(): whether the order is for what is held here. Nothing has changed so far.
  absl::Status check_open(const OpenOrder& order) const;
  absl::Status start_session(const OpenOrder& order, std::unique_ptr<Transport> transport);
  void end_session();

  const Options options_;
  ThreadPool pool_;
  std::unique_ptr<ControlService> service_;
  std::unique_ptr<GrpcEndpoint> endpoint_;
  std::mutex work_;           ///< Held through prepare, open and close: one at a time.
  mutable std::mutex mutex_;  ///< Guards what follows, for describe(); held until there is an endpoint.
  std::string state_ = "idle";
  std::unique_ptr<NodeModel> model_;
  OpenedModel opened_;                 ///< What model_ was loaded from.
  std::vector<WeightSample> samples_;  ///< Of model_'s shard.
  std::unique_ptr<NodeSession> session_;
  uint64_t session_id_ = 0;
};

}  // namespace shoal
