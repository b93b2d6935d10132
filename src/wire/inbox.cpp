#include "wire/inbox.h"

#include <algorithm>
#include <utility>

#include "base/busy_poll.h"
#include "base/status.h"

namespace shoal {
namespace {

// How long an executor that had an event spins for the next one. Longer than what lies between two
// requests for experts of one step (the asker's own experts, then attention and router: 0.5 to 1 ms on one
// thread at Qwen3-30B-A3B's widths), since a node that blocks costs its asker 35 us more in
// sending and both 50 us of waiting; and far shorter than the time between two requests of a user: a node
// that rests costs nothing.
constexpr int64_t kPollNs = 2'000'000;

// How long to sleep before polling is tried again where another thread does it, which pushes what comes.
constexpr Duration kTakenPause = std::chrono::milliseconds(5);

}  // namespace

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
  announce();
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

absl::StatusOr<Event> Inbox::receive(Deadline deadline) {
  std::unique_lock lock(mutex_);
  for (bool polled = source_ == nullptr;;) {
    if (!closed_.ok()) return closed_;
    promote_due();
    if (!queue_.empty()) break;
    if (std::exchange(woken_, false)) return Event{};
    if (!std::exchange(polled, true)) {
      poll_source(lock);
      continue;
    }
    if (deadline.expired()) return DeadlineExceeded("receive: nothing came from any peer");
    const auto until = delayed_.empty() ? deadline.at : std::min(deadline.at, delayed_.begin()->first);
    wait_for_announcement(lock, until);
  }
  poll_next_ = true;
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

void Inbox::announce() {
  announced_.fetch_add(1, std::memory_order_release);
  arrived_.notify_one();
  if (std::exchange(blocked_, false)) source_->interrupt();
}

void Inbox::wait_for_announcement(std::unique_lock<std::mutex>& lock, Clock::time_point until) {
  const uint64_t seen = announced_.load(std::memory_order_relaxed);
  const auto announced = [&] { return announced_.load(std::memory_order_acquire) != seen; };
  if (std::exchange(poll_next_, false)) {
    BusyPoll poll(std::min(Duration(until.time_since_epoch()).count(), NowNs() + kPollNs));
    lock.unlock();
    while (!announced() && poll.pause()) {
      if (source_ != nullptr) (void)source_->poll(Deadline{}, announced);
    }
    lock.lock();
  }
  if (source_ == nullptr) {
    arrived_.wait_until(lock, until, announced);
  } else {
    sleep(lock, until, announced);
  }
}

void Inbox::sleep(std::unique_lock<std::mutex>& lock, Clock::time_point until,
                  absl::FunctionRef<bool()> announced) {
  while (!announced() && Clock::now() < until) {
    blocked_ = true;
    lock.unlock();
    const InboxSource::Polled polled = source_->poll(Deadline{until}, announced);
    lock.lock();
    blocked_ = false;
    if (polled == InboxSource::Polled::kTaken) {
      arrived_.wait_until(lock, std::min(until, Clock::now() + kTakenPause), announced);
    }
  }
}

void Inbox::poll_source(std::unique_lock<std::mutex>& lock) {
  const uint64_t seen = announced_.load(std::memory_order_relaxed);
  const auto announced = [&] { return announced_.load(std::memory_order_acquire) != seen; };
  lock.unlock();
  while (source_->poll(Deadline{}, announced) == InboxSource::Polled::kHandled) {
  }
  lock.lock();
}

void Inbox::wake() {
  std::lock_guard lock(mutex_);
  woken_ = true;
  announce();
}

void Inbox::close(absl::Status reason) {
  std::lock_guard lock(mutex_);
  if (!closed_.ok()) return;
  closed_ = std::move(reason);
  queue_.clear();
  delayed_.clear();
  announce();
  room_.notify_all();
}

std::map<NodeId, LinkStats> Inbox::received() const {
  std::lock_guard lock(mutex_);
  std::map<NodeId, LinkStats> result;
  for (const auto& [node, peer] : peers_) result[node] = peer.stats;
  return result;
}

LinkStats TransportStats::total() const {
  LinkStats sum;
  for (const auto& [node, link] : peers) {
    sum.frames_sent += link.frames_sent;
    sum.bytes_sent += link.bytes_sent;
    sum.frames_received += link.frames_received;
    sum.bytes_received += link.bytes_received;
  }
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
