#include "wire/echo.h"

#include <utility>

#include "base/status.h"

namespace shoal {
namespace {

constexpr int64_t kTimeoutMs = 10'000;

void Echo(Transport& node) {
  while (true) {
    absl::StatusOr<Event> event = node.receive(Deadline::after_ms(kTimeoutMs));
    if (absl::IsDeadlineExceeded(event.status())) continue;
    if (!event.ok()) return;
    if (event->kind != Event::Kind::kFrame) continue;
    // A frame that cannot be sent back is missed by whoever waits for it, with a deadline.
    (void)node.send(event->from, std::move(event->frame), Deadline::after_ms(kTimeoutMs));
  }
}

}  // namespace

EchoNode::EchoNode(Transport& node, std::function<void()> begin)
    : node_(node), thread_([&node, begin = std::move(begin)] {
        if (begin) begin();
        Echo(node);
      }) {}

EchoNode::~EchoNode() {
  node_.close();
  thread_.join();
}

absl::Status RoundTrip(Transport& node, NodeId echo, const Frame& frame, Deadline deadline) {
  RETURN_IF_ERROR(node.send(echo, frame, deadline));
  while (true) {
    ASSIGN_OR_RETURN(const Event event, node.receive(deadline));
    if (event.kind == Event::Kind::kPeerDown) return event.status;
    if (event.kind == Event::Kind::kFrame && event.from == echo) return absl::OkStatus();
  }
}

}  // namespace shoal
