// One node's part in one session (one plan in force): a task of an executor that takes frames from the transport
// and runs steps, serves experts to others, and answers probes. No wait holds the executor: while its own expert
// requests are out, and between layers, it serves those of others (I13), and other sessions have their turns.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compute/backend.h"
#include "compute/step_profile.h"
#include "cpu/arena.h"
#include "exec/executor.h"
#include "exec/expert_use.h"
#include "exec/kv_copies.h"
#include "exec/kv_tier.h"
#include "exec/mask_inbox.h"
#include "exec/node_model.h"
#include "exec/pipeline_engine.h"
#include "exec/planned_exchange.h"
#include "exec/stage_runner.h"
#include "exec/task_transport.h"
#include "wire/grpc/endpoint.h"
#include "wire/transport.h"

namespace shoal {

/// What a gRPC endpoint must know to take part in a session of `plan` as `self`, which holds `model`.
SessionOptions WireSession(const Plan& plan, NodeId self, uint64_t session, const NodeModel& model);

class NodeSession {
 public:
  struct Options {
    Plan plan;
    NodeId self;
    NodeModel* model =
        nullptr;  ///< Outlives the session, as do executor and sink. No other session uses its backend.
    Executor* executor = nullptr;  ///< Backends of all its sessions ask for the same CPU.
    std::unique_ptr<Transport> transport;
    StepLimits limits;
    /// Other nodes are waited for without a heartbeat, and told of this one's eight times as often.
    Duration expert_timeout = std::chrono::seconds(4);
    CoordinatorSink* sink = nullptr;  ///< On node 0 of a coordinator; nullptr elsewhere.
    std::string log_name;
    StepProfile* profile = nullptr;      ///< Where the executor's time is charged, if anybody wants to know.
    LayerHook hook;                      ///< As StageRunner::Options::hook.
    std::shared_ptr<ExpertUse> use;      ///< Counts how experts are used; nullptr: nobody does.
    std::shared_ptr<DiskStore> kv_disk;  ///< Where blocks of the cache are kept; nullptr: nowhere.
    bool copied = false;                 ///< A buddy fetches copies of what is cached, from outbox().
    /// Called once, on the executor's thread, when the first work comes: all nodes have their sessions. May be empty.
    std::function<void()> on_first_work;
  };

  /// Allocates the cache; nothing runs yet. ResourceExhausted where it does not fit.
  static absl::StatusOr<std::unique_ptr<NodeSession>> Create(Options options);
  /// Stops.
  ~NodeSession();
  NodeSession(const NodeSession&) = delete;
  NodeSession& operator=(const NodeSession&) = delete;

  /// Before start(): as BackendSession::adopt_cache().
  std::vector<LayerId> adopt_cache(BackendCache& cache) { return compute_->adopt_cache(cache); }
  /// Before start(): as BackendSession::import_image() and set_state_position().
  absl::StatusOr<int64_t> import_image(LayerId layer, const CachePlace& place, const ImageId& id,
                                       std::span<const std::byte> image) {
    return compute_->import_image(layer, place, id, image);
  }
  void set_state_position(SlotId slot, int32_t position) { compute_->set_state_position(slot, position); }
  /// Once. ResourceExhausted as Executor::start.
  absl::Status start();
  /// Closes the transport and waits until the executor has left the session. Idempotent.
  void stop();
  /// After stop(): as BackendSession::release_cache().
  std::unique_ptr<BackendCache> release_cache() { return compute_->release_cache(); }
  /// After stop(): whether a step has begun, which may have written to the cache.
  bool has_begun_steps() const { return position().step.value != 0; }

  Transport& transport() { return *options_.transport; }
  const Plan& plan() const { return options_.plan; }
  /// Where copies wait for the buddy, which may outlive the session; nullptr where there is none.
  const std::shared_ptr<CopyOutbox>& outbox() const { return outbox_; }
  /// For /status: steps run here, experts served to others (calls), whether the executor still runs it.
  struct Stats {
    uint64_t steps = 0;
    uint64_t expert_calls_served = 0;
    bool running = false;
    bool orphaned = false;  ///< The link with the coordinator broke.
  };
  Stats stats() const;

 private:
  explicit NodeSession(Options options);

  void run(Executor::Task& task);
  /// Handles the next event, waiting until `deadline`.
  absl::Status pump(Deadline deadline);
  void handle(Event event);
  void lose_next_stage(NodeId peer, const absl::Status& why);
  void handle_frame(NodeId from, Frame frame);
  void note_work();
  void run_step(const Frame& frame);
  void tell_kv();
  /// A request for experts or segments that are held here.
  void serve(NodeId from, const Frame& frame);
  absl::Status compute_experts(const Frame& frame, Frame& reply);
  absl::Status compute_segments(const Frame& frame, Frame& reply);
  absl::Status before_layer(LayerId layer);
  ExecutorPosition position() const { return {StepId{step_.load()}, LayerId{layer_.load()}}; }
  /// Tells those who may wait for this node that it computes. From the executor's second thread.
  void beat();
  void fail(StepId step, const absl::Status& status);
  void tell(StepId step, const StepError& error);

  Options options_;
  std::unique_ptr<TaskTransport> transport_;  ///< Options::transport, for what runs on the executor.
  std::unique_ptr<BackendSession> compute_;
  std::unique_ptr<KvTier> kv_tier_;  ///< Of a node that runs layers.
  std::shared_ptr<CopyOutbox> outbox_;
  std::unique_ptr<KvCopier> copier_;  ///< Of one that has a buddy as well.
  std::unique_ptr<StageRunner> runner_;
  std::unique_ptr<PlannedExchange> exchange_;
  std::unique_ptr<MaskInbox> masks_;
  Arena step_arena_;
  Arena serve_arena_;  ///< Requests are served in the middle of a step: its scratch must stay.
  ExpertMessage request_;
  SegmentMessage segment_request_;
  std::deque<Frame> steps_;
  std::atomic<uint64_t> step_{0};  ///< As ExecutorPosition has it; written by the executor.
  std::atomic<int32_t> layer_{-1};
  StepId failed_step_;  ///< Steps from this one on are void; 0 = none failed.
  std::atomic<uint64_t> steps_run_{0};
  std::atomic<uint64_t> calls_served_{0};
  std::atomic<bool> running_{false};
  std::atomic<bool> orphaned_{false};
  std::atomic<bool> stopping_{false};
  std::shared_ptr<const Executor::Task> task_;
};

}  // namespace shoal
