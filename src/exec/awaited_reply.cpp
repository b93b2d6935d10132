#include "exec/awaited_reply.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "exec/result_codec.h"
#include "wire/payload.h"

namespace shoal {
namespace {

// How long one wait lasts before the time is looked at again.
constexpr Duration kPumpMax = std::chrono::milliseconds(250);
// How often a request to a peer whose window is full is tried again: nothing announces room.
constexpr Duration kRequestAgain = std::chrono::milliseconds(1);

}  // namespace

Frame EncodeExpertError(const FrameHeader& request, const ExpertError& error) {
  SHOAL_CHECK(!error.status.ok());
  PayloadWriter out;
  out.u64(error.ticket);
  WriteStatus(out, error.status);
  Frame frame;
  frame.header.kind =
      request.kind == FrameKind::kSegmentRequest ? FrameKind::kSegmentError : FrameKind::kExpertError;
  frame.header.epoch = request.epoch;
  frame.header.step = request.step;
  frame.header.layer = request.layer;
  frame.payload = out.finish();
  return frame;
}

absl::StatusOr<ExpertError> DecodeExpertError(const Frame& frame) {
  PayloadReader in(frame.payload);
  ExpertError error;
  ASSIGN_OR_RETURN(error.ticket, in.u64("expert_error.ticket"));
  RETURN_IF_ERROR(ReadStatus(in, "expert_error.status", error.status));
  RETURN_IF_ERROR(in.finish("expert_error"));
  if (error.status.ok()) return InvalidArgument("expert_error.status: expected an error, got OK");
  return error;
}

absl::StatusOr<NodeAnswer> ReadAnswer(Frame frame) {
  NodeAnswer answer;
  const FrameKind kind = frame.header.kind;
  if (kind == FrameKind::kExpertError || kind == FrameKind::kSegmentError) {
    const absl::StatusOr<ExpertError> error = DecodeExpertError(frame);
    if (error.ok()) answer.ticket = error->ticket;
    answer.error = error.ok() ? error->status : error.status();
    return answer;
  }
  ASSIGN_OR_RETURN(answer.ticket, PayloadReader(frame.payload).u64("reply.ticket"));
  answer.reply = std::move(frame);
  return answer;
}

void AwaitedReply::begin(NodeId to, uint64_t as) {
  *this = AwaitedReply();
  node = to;
  ticket = as;
}

bool AwaitedReply::take(NodeId from, NodeAnswer& answer) {
  if (node != from || !open()) return false;
  const bool is_error = !answer.error.ok();
  // Otherwise of a request that was given up, as its step failed or its layer is run again. An error without a
  // ticket is of the oldest request.
  if (answer.ticket != ticket && !(is_error && answer.ticket == 0)) return false;
  if (is_error) {
    (answer.error.code() == absl::StatusCode::kOutOfRange ? bad_rows : failed) = answer.error;
  } else {
    reply = std::move(answer.reply);
    answered = true;
  }
  return true;
}

void AwaitedReply::lose(NodeId lost, const absl::Status& why) {
  if (node == lost && !answered && failed.ok()) failed = why;
}

ReplyWait::ReplyWait(Duration timeout, Pump pump)
    : timeout_(timeout), pump_(std::move(pump)), time_(timeout) {}

absl::Status ReplyWait::send(Transport& transport, AwaitedReply& request, const Frame& frame) {
  const Deadline deadline = Deadline::after_ms(kRequestSendMs);
  while (request.failed.ok()) {
    absl::Status sent = transport.send(request.node, frame, Deadline{});
    if (!absl::IsDeadlineExceeded(sent) || deadline.expired()) {
      request.failed = std::move(sent);
      break;
    }
    const absl::Status pumped = pump_(Deadline::min(deadline, Deadline::after(kRequestAgain)));
    if (!pumped.ok() && !absl::IsDeadlineExceeded(pumped)) return pumped;
  }
  return absl::OkStatus();
}

// Ends also where the node failed.
absl::Status ReplyWait::wait_for(AwaitedReply& awaited) {
  const Deadline longest = Deadline::after(std::max(kLocalTimeout, timeout_));
  while (awaited.open()) {
    const Duration left = awaited.heard + timeout_ - now();
    if (left <= Duration::zero()) {
      awaited.failed = Unavailable("no answer and no heartbeat for {:.1f} s", SecondsOf(timeout_));
    } else if (longest.expired()) {  // It computes, but not this.
      awaited.failed = Unavailable("no answer for {:.0f} s", SecondsOf(kLocalTimeout));
    } else {
      const absl::Status pumped = pump_(Deadline::after(std::min<Duration>(left, kPumpMax)));
      if (!pumped.ok() && pumped.code() != absl::StatusCode::kDeadlineExceeded) return pumped;
    }
  }
  return absl::OkStatus();
}

}  // namespace shoal
