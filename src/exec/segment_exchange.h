// A feed-forward or shared expert whose segments several nodes hold (compute/segments.h), asked of all of them: first for hidden
// values, which this node puts together, then for the outputs of all hidden values. Both halves are one message to each
// holder. A value is computed by the one node that holds its segment, as it would be anywhere: no bit depends on who does.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "base/clock.h"
#include "compute/backend.h"
#include "compute/segments.h"
#include "cpu/arena.h"
#include "exec/awaited_reply.h"
#include "plan/plan.h"
#include "wire/transport.h"

namespace shoal {

enum class SegmentHalf : uint8_t {
  kHidden,  ///< gating(gate x, up x) of rows [T, D].
  kDown,    ///< down of hidden values [T, F].
};

/// A request for the segments of one holder, as it lies in a frame.
struct SegmentMessage {
  uint64_t ticket = 0;
  SegmentHalf half = SegmentHalf::kHidden;
  std::vector<int32_t> segments;  ///< Ascending, below kSegmentsMax.
  SegmentRows rows;               ///< Views into the frame.
};

/// Where a request belongs.
struct SegmentRequestKey {
  Epoch epoch;
  StepId step;
  LayerId layer;
  uint64_t ticket = 0;
  SegmentHalf half = SegmentHalf::kHidden;
};

Frame EncodeSegmentRequest(const SegmentRequestKey& key, const SegmentRows& rows,
                           std::span<const int32_t> segments);
/// Points into `frame`, which must outlive `request`. InvalidArgument names the field; nothing is trusted.
absl::Status DecodeSegmentRequest(const Frame& frame, SegmentMessage& request);

/// What some segments made of the rows of a request, side by side.
struct SegmentAnswer {
  int64_t compute_ns = 0;
  SegmentRows rows = {};
};
Frame EncodeSegmentReply(const FrameHeader& request, uint64_t ticket, const SegmentAnswer& answer);
/// Points into `frame`. InvalidArgument names the field.
absl::StatusOr<SegmentAnswer> DecodeSegmentReply(const Frame& frame);

/// What segments that are held here make of rows, side by side; it lies in `arena`, or in the session until its next call.
/// Errors of BackendSession::run_hidden and run_down. CHECKs that the layer has such segments.
absl::StatusOr<SegmentRows> RunSegments(BackendSession& compute, LayerId layer, SegmentHalf half,
                                        std::span<const int32_t> segments, const SegmentRows& rows,
                                        Arena& arena);

/// The feed-forwards of one step at a time, used by the executor's thread only.
class SegmentExchange {
 public:
  struct Options {
    const Plan* plan = nullptr;
    NodeId self;
    BackendSession* compute = nullptr;  ///< Has the node's own segments.
    Transport* transport = nullptr;
    Duration reply_timeout = std::chrono::seconds(4);  ///< A holder that was silent for so long is given up.
  };
  SegmentExchange(Options options, ReplyWait::Pump pump);

  /// As PlannedExchange::begin_step.
  void begin_step(StepId step, Arena& arena);

  /// As ExpertExchange::feed_forward; y is undefined on an error. A holder that is lost is Unavailable, and loss().
  absl::Status run(LayerId layer, const SegmentRows& rows, MatView<float> y);

  /// A kSegmentReply or kSegmentError frame. One that nobody waits for is dropped.
  void on_reply(NodeId from, Frame frame);
  void on_heartbeat(NodeId from);
  void on_lost(NodeId node, const absl::Status& status);

  const ExchangeLoss& loss() const { return loss_; }
  /// As of PlannedExchange.
  int64_t waited_ns() const { return waited_ns_; }
  int64_t overhead_ns() const { return overhead_ns_; }

 private:
  /// A node with segments of the layer, and what came back of its message.
  struct Holder : AwaitedReply {
    std::vector<int32_t> segments;
  };
  /// Puts what a holder's segments gave where it belongs. InvalidArgument: it does not fit.
  using Place = absl::FunctionRef<absl::Status(std::span<const int32_t> segments, const SegmentRows& part)>;

  absl::Status begin_layer(LayerId layer);
  SegmentRows allocate_hidden(int64_t rows) const;
  absl::Status place_hidden(std::span<const int32_t> segments, const SegmentRows& part,
                            const SegmentRows& whole) const;
  absl::Status place_out(std::span<const int32_t> segments, const SegmentRows& part, MatView<float> y) const;
  /// As run(), of rows that fit one message.
  absl::Status run_rows(const SegmentRows& rows, MatView<float> y);
  absl::Status run_half(SegmentHalf half, const SegmentRows& rows, Place place);
  absl::Status ask(SegmentHalf half, const SegmentRows& rows);
  absl::Status run_own(SegmentHalf half, const SegmentRows& rows, const Holder& own, Place place);
  absl::Status collect(Holder& holder, Place place, int64_t& compute_ns);
  void note_down(NodeId node, const absl::Status& why);
  absl::Status lost(const Holder& holder);

  const Options options_;
  ReplyWait wait_;
  StepId step_;
  Arena* arena_ = nullptr;
  uint64_t next_ticket_ = 1;
  LayerId layer_;
  const SegmentShape* shape_ = nullptr;
  int hidden_group_ = 0;            ///< Under the plan's activations.
  std::vector<Holder> holders_;     ///< The storage is reused; `used_` of them are of the layer.
  size_t used_ = 0;                 ///< None where the step was lost.
  std::vector<absl::Status> down_;  ///< By node: why it is asked nothing any more in this session.
  ExchangeLoss loss_;
  int64_t waited_ns_ = 0;
  int64_t overhead_ns_ = 0;
};

}  // namespace shoal
