#include "exec/task_transport.h"

#include <utility>

#include "base/status.h"

namespace shoal {
namespace {

// How often a send to a peer whose window is full, or whose link opens, is tried again: nothing announces room.
constexpr Duration kSendAgain = std::chrono::milliseconds(1);

}  // namespace

absl::Status TaskTransport::send(NodeId to, Frame frame, Deadline deadline) {
  while (true) {
    absl::Status sent = inner_.send(to, frame, Deadline{});
    if (!absl::IsDeadlineExceeded(sent) || deadline.expired()) return sent;
    task_->wait(wakeup_->announced(), Deadline::min(deadline, Deadline::after(kSendAgain)));
  }
}

absl::StatusOr<Event> TaskTransport::receive(Deadline deadline) {
  for (bool looked = task_->let_others();; looked = true) {
    const uint64_t seen = wakeup_->announced();
    ASSIGN_OR_RETURN(std::optional<Event> event, inner_.take());
    if (event.has_value()) return *std::move(event);
    if (looked && deadline.expired()) return DeadlineExceeded("receive: nothing came from any peer");
    task_->wait(seen, deadline);
  }
}

}  // namespace shoal
