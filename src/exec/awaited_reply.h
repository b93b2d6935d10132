// What exchanges with other nodes have in common: requests that are out, what came of each, and the wait for it, in which
// other events of the node are handled (I13).
#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/ids.h"
#include "exec/liveness.h"
#include "wire/frame.h"
#include "wire/transport.h"

namespace shoal {

/// Of a request. A healthy link's window holds many of them: this never elapses in health.
inline constexpr int64_t kRequestSendMs = 2000;

/// Why an owner of experts, or a holder of segments, could not answer. ticket 0: it could not read which request.
struct ExpertError {
  uint64_t ticket = 0;
  absl::Status status;
};
/// A kSegmentError frame for a kSegmentRequest, else a kExpertError frame.
Frame EncodeExpertError(const FrameHeader& request, const ExpertError& error);
/// InvalidArgument names the field.
absl::StatusOr<ExpertError> DecodeExpertError(const Frame& frame);

/// A frame in answer to a request.
struct NodeAnswer {
  uint64_t ticket = 0;  ///< Of the request; 0: an error does not say.
  absl::Status error;   ///< Why there is no reply; OK: there is one.
  Frame reply;
};
/// Of an error frame, or of a reply, which begins with its ticket. InvalidArgument: it has none.
absl::StatusOr<NodeAnswer> ReadAnswer(Frame frame);

/// A request to another node, and what came of it.
struct AwaitedReply {
  NodeId node;
  uint64_t ticket = 0;
  Duration heard{};  ///< By ReplyWait::now(): of the node, at the earliest when it was begun to wait.
  Frame reply;
  bool answered = false;
  absl::Status failed;    ///< The node is given up.
  absl::Status bad_rows;  ///< It answered that the rows hold what it can't compute.

  /// A new request, of which nothing has come.
  void begin(NodeId to, uint64_t as);
  /// Whether something may still come of it.
  bool open() const { return !answered && failed.ok() && bad_rows.ok(); }
  /// Whether the answer is to this request, which then has it.
  bool take(NodeId from, NodeAnswer& answer);
  /// The link with `lost` broke.
  void lose(NodeId lost, const absl::Status& why);
};

/// Waits for replies.
class ReplyWait {
 public:
  /// Handles one event of the node's inbox, waiting until `deadline` for it: what comes for an AwaitedReply is put there.
  /// DeadlineExceeded if nothing came.
  using Pump = std::function<absl::Status(Deadline deadline)>;

  /// A node that is waited for and was silent for `timeout` is given up.
  ReplyWait(Duration timeout, Pump pump);

  /// Time as it passes for one who looks now and then (WatchedTime). A look.
  Duration now() { return time_.look(Clock::now()); }
  /// Sends the request's frame. While the peer's window is full, or its link opens, events are handled, replies and requests
  /// of others among them: two nodes that are full of each other's messages get on. Why it could not be sent is the request's
  /// `failed`, also where the node is lost meanwhile. The error of the pump.
  absl::Status send(Transport& transport, AwaitedReply& request, const Frame& frame);
  /// Until the request is not open() any more. The error of the pump.
  absl::Status wait_for(AwaitedReply& awaited);

 private:
  const Duration timeout_;
  const Pump pump_;
  WatchedTime time_;
};

/// The node that a step was lost with, and how: OK and -1 while there is none.
struct ExchangeLoss {
  absl::Status status;
  NodeId owner{-1};
};

}  // namespace shoal
