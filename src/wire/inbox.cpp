#include "wire/inbox.h"

#include <algorithm>
#include <utility>

#include "base/status.h"

namespace shoal {

Inbox::Inbox(WindowLimits window, std::shared_ptr<InboxSource> source)
    : window_(window), source_(std::move(source)), wakeup_(std::make_shared<Wakeup>()) {
  if (source_ != nullptr) wakeup_->attach(source_);
}

Inbox::~Inbox() {
  const std::lock_guard lock(mutex_);
  leave_source();
}

void Inbox::leave_source() {
  if (source_ != nullptr) wakeup_->detach(source_.get());
  source_ = nullptr;
}

void Inbox::share(std::shared_ptr<Wakeup> wakeup) {
  const std::lock_guard lock(mutex_);
  if (source_ != nullptr) {
    wakeup->attach(source_);
    wakeup_->detach(source_.get());
  }
  wakeup_ = std::move(wakeup);
  wakeup_->announce();  // What came before was told to nobody.
}

bool Inbox::push(Event event, Clock::time_point ready) {
  std::lock_guard lock(mutex_);
  if (!closed_.ok()) return true;
  bool has_room = true;
  if (event.kind == Event::Kind::kFrame) {
    Peer& peer = peers_[event.from];
    const uint64_t bytes = FrameBytes(event.frame);
    peer.bytes_waiting += bytes;
    peer.frames_waiting += 1;
    peer.stats.bytes_received += bytes;
    peer.stats.frames_received += 1;
    has_room = !full(peer);
    peer.told_full = peer.told_full || !has_room;
  }
  promote_due();  // Keeps the order of a link whose earlier frames were delayed.
  if (ready > Clock::now()) {
    delayed_.emplace(ready, std::move(event));
  } else {
    queue_.push_back(std::move(event));
  }
  wakeup_->announce();
  return has_room;
}

void Inbox::release_sender(NodeId from) {
  std::lock_guard lock(mutex_);
  peers_[from].released = true;
  room_.notify_all();
}

absl::Status Inbox::wait_for_room(NodeId from, Deadline deadline) {
  std::unique_lock lock(mutex_);
  const auto has_room = [&] { return !closed_.ok() || peers_[from].released || !full(peers_[from]); };
  if (!room_.wait_until(lock, deadline.at, has_room)) {
    const Peer& peer = peers_[from];
    return DeadlineExceeded("{} frames, {} bytes wait there already", peer.frames_waiting,
                            peer.bytes_waiting);
  }
  return closed_;
}

void Inbox::discard_delayed(NodeId from) {
  std::lock_guard lock(mutex_);
  promote_due();
  Peer& peer = peers_[from];
  for (auto it = delayed_.begin(); it != delayed_.end();) {
    if (it->second.from != from) {
      ++it;
      continue;
    }
    peer.bytes_waiting -= FrameBytes(it->second.frame);
    peer.frames_waiting -= 1;
    it = delayed_.erase(it);
  }
  room_.notify_all();
}

void Inbox::promote_due() {
  if (delayed_.empty()) return;
  const auto due = delayed_.upper_bound(Clock::now());
  for (auto it = delayed_.begin(); it != due; ++it) queue_.push_back(std::move(it->second));
  delayed_.erase(delayed_.begin(), due);
}

Event Inbox::pop_front(bool& has_room, NodeId& from) {
  Event event = std::move(queue_.front());
  queue_.pop_front();
  has_room = false;
  if (event.kind != Event::Kind::kFrame) return event;
  Peer& peer = peers_[event.from];
  peer.bytes_waiting -= FrameBytes(event.frame);
  peer.frames_waiting -= 1;
  // Half empty rather than one frame: a paused link is worth waking up for a batch.
  if (peer.told_full && peer.bytes_waiting <= window_.bytes_max / 2 &&
      peer.frames_waiting <= window_.frames_max / 2) {
    peer.told_full = false;
    has_room = true;
    from = event.from;
  }
  return event;
}

absl::StatusOr<std::optional<Event>> Inbox::take() {
  std::unique_lock lock(mutex_);
  if (!closed_.ok()) return closed_;
  promote_due();
  if (queue_.empty()) return std::exchange(woken_, false) ? std::optional(Event{}) : std::nullopt;
  wakeup_->handed_out();
  bool has_room = false;
  NodeId from;
  Event event = pop_front(has_room, from);
  lock.unlock();
  if (has_room) {
    room_.notify_all();
    if (on_room_) on_room_(from);
  }
  return event;
}

absl::StatusOr<Event> Inbox::receive(Deadline deadline) {
  for (bool polled = false;; polled = true) {
    const uint64_t seen = wakeup_->announced();
    ASSIGN_OR_RETURN(std::optional<Event> event, take());
    if (event.has_value()) return *std::move(event);
    if (!polled) {
      wakeup_->poll();
      continue;
    }
    if (deadline.expired()) return DeadlineExceeded("receive: nothing came from any peer");
    wakeup_->wait(seen, until(deadline));
  }
}

Clock::time_point Inbox::until(Deadline deadline) const {
  const std::lock_guard lock(mutex_);
  return delayed_.empty() ? deadline.at : std::min(deadline.at, delayed_.begin()->first);
}

void Inbox::wake() {
  std::lock_guard lock(mutex_);
  woken_ = true;
  wakeup_->announce();
}

void Inbox::close(absl::Status reason) {
  std::lock_guard lock(mutex_);
  if (!closed_.ok()) return;
  closed_ = std::move(reason);
  queue_.clear();
  delayed_.clear();
  wakeup_->announce();
  leave_source();  // It may end next, and then waits for nothing.
  room_.notify_all();
}

std::map<NodeId, LinkStats> Inbox::received() const {
  std::lock_guard lock(mutex_);
  std::map<NodeId, LinkStats> result;
  for (const auto& [node, peer] : peers_) result[node] = peer.stats;
  return result;
}

uint64_t Inbox::bytes_waiting(NodeId from) const {
  const std::lock_guard lock(mutex_);
  const auto peer = peers_.find(from);
  return peer == peers_.end() ? 0 : peer->second.bytes_waiting;
}

LinkStats TransportStats::total() const {
  LinkStats sum;
  for (const auto& [node, link] : peers) sum += link;
  return sum;
}

std::string PeerText(NodeId node, const std::string& name) {
  return name.empty() ? fmt::format("node {}", node) : fmt::format("node {} '{}'", node, name);
}

absl::Status CheckSendable(const Frame& frame, const FrameLimits& limits, const std::string& peer_text) {
  if (frame.payload.size() > limits.payload_bytes_max) {
    return InvalidArgument("send to {}: a payload of {} bytes is above the limit of {}", peer_text,
                           frame.payload.size(), limits.payload_bytes_max);
  }
  return absl::OkStatus();
}

}  // namespace shoal
