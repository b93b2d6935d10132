// Rows to the experts of a plan and back: own experts run here, others get one message per (layer, owner)
// with the distinct rows they need, and answer with one pre-summed fixed-point row each. Which experts sit
// where cannot change a bit, so the rows of an owner that is lost go to another holder of the same experts.
// Where the plan has rows rounded on their way it can: then only owners are asked, so that the plan alone decides.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/clock.h"
#include "compute/backend.h"
#include "compute/expert_exchange.h"
#include "cpu/arena.h"
#include "exec/awaited_reply.h"
#include "exec/expert_use.h"
#include "exec/segment_exchange.h"
#include "numeric/row_format.h"
#include "plan/holder_choice.h"
#include "plan/plan.h"
#include "wire/transport.h"

namespace shoal {

/// A request for the experts of one owner, as it lies in a frame.
struct ExpertMessage {
  uint64_t ticket = 0;
  ExpertRows rows;  ///< Views into the frame (and `quantized`).
  QuantizedRows quantized;
  std::vector<float> decoded;     ///< What `rows` views where they came in another format than f32.
  std::vector<ExpertCall> calls;  ///< Row indices are of `rows`.
};

/// Where a request belongs, and how its rows travel, if not as codes.
struct ExpertRequestKey {
  Epoch epoch;
  StepId step;
  LayerId layer;
  uint64_t ticket = 0;
  RowFormat format = RowFormat::kExact;
};

/// rows: what the owner needs, [R, D]; quantized rows travel as codes, scales and sums, else in the key's format, which
/// needs RowsFit if it is not exact.
Frame EncodeExpertRequest(const ExpertRequestKey& key, const ExpertRows& rows,
                          std::span<const ExpertCall> calls);
/// Points into `frame`, which must outlive `request`. format: of rows that do not come as codes.
/// InvalidArgument names the field; nothing is trusted.
absl::Status DecodeExpertRequest(const Frame& frame, ExpertMessage& request,
                                 RowFormat format = RowFormat::kExact);

/// acc: [R, D] sums of one owner. Exact: lossless, 4 to 8 bytes an element; otherwise the sums are rounded to f32, and
/// then to the format. compute_ns: what its experts took.
Frame EncodeExpertReply(const FrameHeader& request, uint64_t ticket, int64_t compute_ns,
                        MatView<const int64_t> acc, RowFormat format = RowFormat::kExact);
/// Adds the reply's rows to acc[targets[r], :] and gives its compute_ns. InvalidArgument names the field.
absl::StatusOr<int64_t> AddExpertReply(const Frame& frame, std::span<const int32_t> targets, Arena& scratch,
                                       MatView<int64_t> acc, RowFormat format = RowFormat::kExact);

/// The exchange of one step at a time, used by the executor's thread only.
class PlannedExchange final : public ExpertExchange {
 public:
  struct Options {
    const Plan* plan = nullptr;
    NodeId self;
    BackendSession* compute = nullptr;  ///< Has the node's own experts.
    Transport* transport = nullptr;
    /// An owner that is waited for and was silent for so long is given up.
    Duration reply_timeout = std::chrono::seconds(4);
    ExpertUse* use = nullptr;  ///< Counts what rows are routed to; nullptr: nobody does.
  };
  /// pump: what it handles comes back through on_reply(), on_segment_reply(), on_heartbeat() and on_lost().
  PlannedExchange(Options options, ReplyWait::Pump pump);
  ~PlannedExchange() override;

  /// Names what follows: requests carry this step's id, and scratch comes from `arena`, which must live until
  /// the step ends.
  void begin_step(StepId step, Arena& arena);

  absl::StatusOr<Ticket> dispatch(LayerId layer, const ExpertRows& rows, const Routing& routing) override;
  absl::Status combine(Ticket ticket, MatView<float> y) override;
  absl::Status feed_forward(LayerId layer, const SegmentRows& rows, MatView<float> y) override {
    return segments_.run(layer, rows, y);
  }

  /// A kSegmentReply or kSegmentError frame: for feed_forward().
  void on_segment_reply(NodeId from, Frame frame) { segments_.on_reply(from, std::move(frame)); }
  /// A kExpertReply or kExpertError frame from an owner. One that nobody waits for is dropped.
  void on_reply(NodeId from, Frame frame);
  /// A heartbeat from a node: an owner that is slow, as it computes for others or its own layers, is waited for.
  void on_heartbeat(NodeId from);
  /// A node's link broke: from now on it is asked nothing, and what it owes is asked of others.
  void on_lost(NodeId node, const absl::Status& status);

  /// The owner that this step was lost with, as no other node holds what it was asked for.
  const ExchangeLoss& loss() const { return loss_.status.ok() ? segments_.loss() : loss_; }

  /// Nanoseconds spent waiting for owners since begin_step, serving others meanwhile included.
  int64_t waited_ns() const { return waited_ns_ + segments_.waited_ns(); }
  /// Nanoseconds since begin_step that exchanges with owners took beyond what computing alone would have: the
  /// longest of what own experts (and the shared one, but for waits for its segments) and each owner's took. Gathering, frames, the way there
  /// and back, an owner that was not free at once, adding up.
  int64_t overhead_ns() const { return overhead_ns_ + segments_.overhead_ns(); }

 private:
  /// One message to an owner, and what came back. It has a ticket of its own where rows are sent again: an owner may
  /// then have two.
  struct Remote : AwaitedReply {
    std::vector<ExpertCall> calls;  ///< Row indices of the message.
    std::vector<int32_t> rows;      ///< Distinct rows of the batch, ascending.
    bool elsewhere = false;         ///< Its calls have gone to others: the owner failed.
  };
  struct Pending {
    uint64_t ticket = 0;
    LayerId layer;
    ExpertRows rows;
    std::vector<ExpertCall> own;
    std::vector<Remote> remotes;  ///< One per message; the vector's storage is reused.
    size_t asked = 0;
    int64_t begin_ns = 0;  ///< dispatch() was called, and returned, by NowNs().
    int64_t dispatched_ns = 0;
    int64_t segments_waited_ns = 0;  ///< waited_ns() of the segments when it returned.
  };

  absl::Status assign(const Routing& routing);
  /// Chooses a holder for each expert (ChooseHolders) that `experts` visits, once for each of its rows. The error where all
  /// that hold one are lost.
  template <typename Experts>
  absl::Status choose_holders(const Experts& experts);
  /// Gives a call on row `row` of the batch to the holder chosen for its expert: this node, or a message from the
  /// `first`-th on.
  void give(int32_t row, const ExpertCall& call, size_t first);
  void count_use(const Routing& routing);
  Remote& remote_of(NodeId owner, size_t first);
  /// The messages from the `first`-th on, those included that are added on the way.
  absl::Status send_from(size_t first);
  /// From now on the answers to the messages from the `first`-th on are waited for.
  void begin_wait(size_t first);
  /// Adds what the message's owner answers, or asks others for it.
  absl::Status collect(size_t index, MatView<int64_t> acc, int64_t& compute_ns);
  /// Makes messages to other holders of what the message asked for, and gives its owner up.
  absl::Status go_elsewhere(size_t index);
  void note_down(NodeId node, const absl::Status& why);
  absl::Status lost(ExpertId expert);

  const Options options_;
  const RowFormat format_;  ///< Of rows and sums that travel.
  ReplyWait wait_;
  StepId step_;
  Arena* arena_ = nullptr;
  uint64_t next_ticket_ = 1;
  Pending pending_;
  std::vector<int32_t> rows_of_;    ///< [E] of the layer: rows that need the expert.
  std::vector<NodeId> holder_of_;   ///< [E]: where they go.
  std::vector<AskedExpert> asked_;  ///< Those with rows.
  std::vector<int64_t> load_;       ///< [nodes]: rows by holder.
  std::vector<bool> leaves_;        ///< [rows of the batch]: some of its experts are elsewhere.
  std::vector<absl::Status> down_;  ///< By node: why it is asked nothing any more in this session.
  std::vector<NodeId> fallen_;      ///< Those, in the order in which they went down.
  ExchangeLoss loss_;
  SegmentExchange segments_;
  int64_t waited_ns_ = 0;
  int64_t overhead_ns_ = 0;
};

}  // namespace shoal
