// The Engine over a plan: steps go to the first stage, results come back from the last one, and a node that
// shows no progress is told from one that is merely slow.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "exec/engine.h"
#include "exec/liveness.h"
#include "plan/plan.h"
#include "wire/transport.h"

namespace shoal {

/// What node 0's executor hands to the coordinator. Called from the executor's thread only.
class CoordinatorSink {
 public:
  virtual ~CoordinatorSink() = default;
  /// kStepResult, kStepError, kPosition and kKvDisk frames.
  virtual void on_frame(NodeId from, const Frame& frame) = 0;
  virtual void on_peer_down(NodeId peer, const absl::Status& status) = 0;
  /// Called at least every quarter of a second: time to look for missing heartbeats.
  virtual void tick() = 0;
};

/// Bytes that a probe asks a node to send back: where its executor stands.
struct ExecutorPosition {
  StepId step;        ///< Last step begun here, 0 before the first.
  LayerId layer{-1};  ///< Layer begun last.
};
Frame EncodeProbe(Epoch epoch);
Frame EncodeExecutorPosition(Epoch epoch, const ExecutorPosition& position);
bool IsProbe(const Frame& frame);

class PipelineEngine final : public Engine, public CoordinatorSink {
 public:
  explicit PipelineEngine(LivenessLimits limits = {});
  ~PipelineEngine() override;

  /// A session is up on every node of `plan`: steps may go. `transport` is node 0's and outlives the session.
  /// keeps_caches, missing: as of State.
  void open(const Plan& plan, Transport* transport, const EngineLimits& limits,
            KeptCaches keeps_caches = KeptCaches::kNone, std::vector<uint64_t> missing = {});

  /// Ends the session: steps out fail with `why` (not OK), and so does whatever is submitted until the next
  /// open(). No call on the session's transport is made after it returns.
  void close(const absl::Status& why);

  /// Why no session is open now, where that is another reason than the last session's end: from now on it is
  /// the state. Ignored while one is open, and where `why` is OK.
  void report_down(const absl::Status& why);

  /// Stages are to copy all that is cached again: some have another buddy (Engine::State::copy_rounds).
  void copy_again();

  State state() const override;
  void submit(uint64_t generation, Step step, StepDone done) override;
  void send_masks(uint64_t generation, StepId step, std::span<const TokenMask> masks) override;
  void give_up(uint64_t generation, const absl::Status& why) override;
  void set_state_listener(std::function<void()> listener) override;
  void set_kv_listener(KvListener listener) override;
  void want_caches(uint64_t generation, std::vector<CachedPlace> places, Duration worth) override;

  struct Wanted {
    std::vector<CachedPlace> places;
    Duration worth{};
  };
  /// What is wanted of the last session, which has ended; nothing where nobody says so until `deadline`.
  std::optional<Wanted> wanted(Deadline deadline);

  void on_frame(NodeId from, const Frame& frame) override;
  void on_peer_down(NodeId peer, const absl::Status& status) override;
  void tick() override;

  /// The node suspected of the last failure; -1 where none. For /cluster/status.
  NodeId suspected() const;
  /// When the last session, which has ended, heard of this node of its plan for the last time; when it ended, where
  /// nothing was out.
  Clock::time_point last_heard(NodeId node) const;

  /// Nodes that the session goes on without, in the order in which they were lost: others have all that they held.
  struct Lost {
    NodeId node;
    absl::Status why;
  };
  std::vector<Lost> lost() const;

 private:
  struct InFlight {
    StepId id;
    StepDone done;
  };
  absl::Status check_submit(uint64_t generation, StepId step) const;
  absl::Status check_result(const absl::StatusOr<StepResult>& result) const;
  void fail(const absl::Status& why, NodeId suspected, std::optional<uint64_t> generation = {});
  void on_error(NodeId from, const Frame& frame);
  void on_result(NodeId from, const Frame& frame);
  void on_position(NodeId from, const Frame& frame);
  void on_kv_report(NodeId from, const Frame& frame);
  void ask_disks();
  void probe_all();
  bool anything_is_out() const { return !in_flight_.empty() || restores_out_ > 0; }
  void lose(NodeId node, const absl::Status& why, uint64_t generation);
  std::string describe(NodeId node, StepId step) const;

  mutable std::mutex mutex_;
  LivenessWatch liveness_;
  State state_;
  Plan plan_;
  Transport* transport_ = nullptr;
  std::deque<InFlight> in_flight_;
  std::vector<ExecutorPosition> positions_;    ///< By node, as last reported.
  std::vector<Clock::time_point> last_heard_;  ///< By node, of a session that has ended.
  StepId next_id_{1};
  NodeId suspected_{-1};
  std::vector<Lost> lost_;
  std::function<void()> listener_;
  KvListener kv_listener_;
  std::condition_variable told_;
  std::optional<Wanted> wanted_;  ///< Of the generation that has ended.
  int64_t restores_out_ = 0;      ///< That stages have not told the end of: as steps, they need heartbeats.
};

}  // namespace shoal
