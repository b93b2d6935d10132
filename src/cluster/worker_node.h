// A worker process: a port that serves control calls and frames, and a host of nodes behind it.
#pragma once

#include <atomic>
#include <chrono>
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
#include "base/clock.h"
#include "cluster/control.h"
#include "cluster/control_cache.h"
#include "cluster/control_weights.h"
#include "cluster/node_host.h"
#include "cluster/weight_shelf.h"
#include "cluster/worker_weights.h"
#include "exec/model_facts.h"
#include "numeric/version.h"
#include "wire/grpc/endpoint.h"

namespace shoal {

class WorkerNode final : public WorkerControl, public CacheGiver {
 public:
  struct Options {
    std::string name;
    std::string listen;                    ///< HOST:PORT; port 0 picks one.
    std::vector<std::string> model_roots;  ///< Models are loaded from below these only.
    int64_t memory_bytes = 0;              ///< For weights and cache.
    int64_t expert_memory = 0;             ///< Of it, as BackendLoad's, for each model.
    std::optional<ThreadRates> rates;      ///< Of its threads, where they were measured.
    int threads = 1;
    std::vector<int> cpus;  ///< Where they stay; empty: wherever the system puts them.
    Isa isa = Isa::kReference;
    /// Makes the backend of a node; empty: a CpuBackend of the three above.
    std::function<std::unique_ptr<Backend>()> make_backend;
    std::string numerics_class = CpuNumericsClass();  ///< Of these backends, for describe().
    ClusterKey key;
    bool insecure = false;                            ///< Listens beyond loopback without a key.
    std::shared_ptr<const PackedCache> packed_cache;  ///< nullptr: none.
    std::shared_ptr<DiskStore> kv_disk;               ///< nullptr: none.
    std::shared_ptr<FetchedModels> fetched;  ///< Where fetched weights go; nullptr: none are fetched.
    int64_t weights_rate = 0;                ///< Bytes per second that it sends of weights; 0: no limit.
    std::string version;                     ///< Of the program, for describe().
    std::string device;                      ///< The CPU's name, for describe().
    /// For examine(); empty: nothing is known of the machine.
    std::function<MachineReport()> machine;
  };
  /// Listens. Errors as GrpcEndpoint::start and CheckExposure.
  static absl::StatusOr<std::unique_ptr<WorkerNode>> Start(Options options);
  ~WorkerNode() override;

  int port() const { return endpoint_->port(); }
  /// Of this process; random.
  uint64_t instance() const { return instance_; }
  /// Whether it takes part in a session.
  bool in_session() const;

  WorkerFacts describe() override;
  absl::StatusOr<int64_t> prepare(const PrepareOrder& order, const PrepareProgress& progress) override;
  absl::StatusOr<OpenAnswer> open(const OpenOrder& order) override;
  absl::Status dial(const OpenOrder& order) override;
  absl::Status follow(const FollowOrder& order) override;
  void close(uint64_t session) override;
  std::vector<PeerResult> check_peers(const PeerCheck& check) override;
  MachineReport examine(const std::vector<std::string>& model_names) override;
  std::vector<LayerUseCount> take_expert_use(const std::string& model_hash) override {
    return host_.take_expert_use(hosted(model_hash));
  }
  absl::Status give_cached(const std::string& model_hash, const CacheRequest& request, Deadline deadline,
                           TakeImages take) override;
  absl::Status give_copies(const std::string& model_hash, uint64_t session, uint64_t after, Deadline deadline,
                           TakeCopies take) override;

 private:
  /// How long a call waits for another to end. With what open() may take it is less than a coordinator waits.
  static constexpr Duration kTurnMax = std::chrono::seconds(2);

  /// A model of which this process holds a shard.
  struct Held {
    OpenedModel model;
    std::vector<WeightSample> samples;  ///< Of the shard.
    int64_t weight_bytes = 0;
    int64_t cache_bytes = 0;  ///< Of its sessions, as last ordered.
    uint64_t ordered_by = 0;  ///< The coordinator that it was prepared for last.
    uint64_t owner = 0;       ///< The coordinator that opened the last session.
    std::string owner_name;   ///< For people, with its address.
    int64_t since = 0;        ///< When it did; Unix seconds.
    /// Held beside it for the session to come, and what it takes beyond it.
    std::optional<NodeShard> next;
    std::vector<WeightSample> next_samples;
    int64_t next_bytes = 0;
  };

  explicit WorkerNode(Options options);
  HostedNode hosted(const std::string& model_hash) const { return {options_.name, model_hash}; }
  absl::Status named(const absl::Status& status) const;
  absl::Status busy() const;
  /// Without a key, a worker is made to dial no address but this machine's; else as CheckExposure.
  absl::Status check_dial(const std::string& address) const;
  /// check_dial() of all nodes of a plan but this one, which others may know by a name that it does not.
  absl::Status check_dials(const Plan& plan, NodeId self) const;
  absl::StatusOr<OpenedModel> find_model(const PrepareOrder& order) const;
  /// That the weights are the coordinator's, as far as its samples tell. Returns those of this node.
  absl::StatusOr<std::vector<WeightSample>> check_weights(const PrepareOrder& order, const OpenedModel& model,
                                                          const NodeShard& shard) const;
  /// That the plan is one for the model, since sessions index by layers and experts; that the limits suit it; and
  /// that the memory allowed holds weights, KV cache and states.
  absl::Status check_order(const OpenedModel& model, const Plan& plan, const NodeShard& shard,
                           const StepLimits& limits) const;
  /// As prepare(), where the model has no session that goes on.
  absl::StatusOr<int64_t> prepare_now(const PrepareOrder& order, const PrepareProgress& progress);
  /// For as long as the result is held, what is fetched beside a session of the model ends with Cancelled: that session
  /// was lost, and what it was to become with it.
  std::shared_ptr<const void> overtake(const std::string& model_hash);
  /// As prepare(), beside what a session has.
  absl::StatusOr<int64_t> prepare_beside(const PrepareOrder& order, const PrepareProgress& progress);
  /// Bytes that the shard takes beyond what is held. ResourceExhausted where both do not fit, without copies.
  absl::StatusOr<int64_t> check_beside(const std::string& model_hash, const OpenedModel& model,
                                       const NodeShard& shard) const;
  /// What is held for the models but one.
  int64_t bytes_held_but(const std::string& model_hash) const;
  /// What the models take, all or all but one, beside copies of others' caches: what is being loaded counts. With work_ held.
  int64_t bytes_taken() const;
  int64_t bytes_taken_but(const std::string& model_hash) const;
  /// Copies of others' caches give way to weights and caches, which take so much, or are about to: what is kept of them is
  /// what fits beside these. At first what is here stays, then each model may keep as much as its session was to.
  void fit_copies(int64_t taken);
  /// Whether the model has a session whose coordinator is there.
  bool serves(const std::string& model_hash) const;
  /// That no other coordinator has a session with the model, or that it may be taken from it.
  absl::Status check_owner(const std::string& model_hash, const OrderGiver& giver) const;
  /// Drops shards of other models until `bytes` fit beside those that stay: at first those without a session,
  /// then the others, as one coordinator owns a worker.
  void make_room(const std::string& model_hash, int64_t bytes);
  /// A model, and where it was fetched to, if it was.
  struct Source {
    OpenedModel model;
    std::shared_ptr<const FetchedModel> files;
  };
  /// OK where the tensors are to be fetched after the model was not found here; else why there is nothing to load.
  absl::Status check_fetch(const PrepareOrder& order, const absl::Status& not_found) const;
  /// fetched_bytes: what progress() counted as fetched, at the end.
  absl::StatusOr<Source> fetch(const PrepareOrder& order, const NodeShard& shard,
                               const PrepareProgress& progress, int64_t& fetched_bytes);
  absl::StatusOr<Source> find_or_fetch(const PrepareOrder& order, const NodeShard& shard,
                                       const PrepareProgress& progress, int64_t& fetched_bytes);
  absl::StatusOr<int64_t> load(const PrepareOrder& order, Source source, NodeShard shard,
                               const PrepareProgress& progress);
  void note_loading(int more);
  /// What was prepared beside a session is the model's shard now.
  void take_next(const HostedNode& node);
  void note_cache(const std::string& model_hash, int64_t bytes);
  void note_owner(const std::string& model_hash, const OpenOrder& order);
  /// The model that an order to open is for; nullptr where none is held.
  const Held* held_for(const Plan& plan) const;
  /// That as open() and dial() want it: prepared for this plan and coordinator. With work_ held.
  absl::StatusOr<const Held*> ready_for(const OpenOrder& order, const NodeShard& shard) const;
  /// The transport of the order's session, with its links if they were dialled. With work_ held.
  absl::StatusOr<std::unique_ptr<Transport>> transport_for(const OpenOrder& order, const HostedNode& node);

  const Options options_;
  const uint64_t instance_;
  NodeHost host_;
  WeightShelf shelf_;
  std::unique_ptr<WorkerWeights> weights_;  ///< nullptr: none are fetched.
  std::unique_ptr<ControlService> service_;
  std::unique_ptr<ProbeService> probes_;
  std::unique_ptr<WeightsService> weights_service_;
  std::unique_ptr<CacheService> cache_service_;
  std::unique_ptr<GrpcEndpoint> endpoint_;
  std::timed_mutex preparing_;  ///< Held through what is prepared beside a session; before work_.
  std::timed_mutex work_;       ///< Held through prepare, open and close: one at a time.
  mutable std::mutex mutex_;    ///< Guards what follows, for describe(); held until there is an endpoint.
  int loading_ = 0;             ///< Calls that load, or fetch what they are to load.
  std::multiset<std::string> overtaking_;  ///< Hashes of the models that overtake() is for.
  std::map<std::string, Held> held_;       ///< By the model's hash. Changed with work_ held, too.
  /// Bytes of copies that each model's last session was to keep, by hash. With work_ held.
  std::map<std::string, int64_t> copies_wanted_;
  /// What is being loaded beside a session, and is not its next_bytes yet. Becomes more with work_ held.
  std::atomic<int64_t> beside_bytes_ = 0;
  std::string beside_of_;  ///< The hash of its model. With work_ held.
  struct Dialled {
    uint64_t session = 0;
    std::unique_ptr<Transport> transport;  ///< nullptr while its links are being opened, or could not be.
  };
  std::map<std::string, Dialled> dialled_;  ///< For the next session of each model, by hash. With work_ held.
};

}  // namespace shoal
