// The events of one node: filled by the threads of a transport, emptied by the node's executor.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "wire/transport.h"
#include "wire/wakeup.h"

namespace shoal {

/// Keeps a window per peer, so that a node that stops receiving stops its senders rather than growing.
/// Thread-safe.
class Inbox {
 public:
  /// source: polled by whoever waits for events; nullptr: other threads push.
  explicit Inbox(WindowLimits window, std::shared_ptr<InboxSource> source = nullptr);
  ~Inbox();
  Inbox(const Inbox&) = delete;

  /// Called without locks when a peer whose window was full has room again. Set before the first push.
  void on_room(std::function<void(NodeId)> callback) { on_room_ = std::move(callback); }

  /// Adds an event, to be handed out from `ready` on. Never blocks; false where the window of `event.from` is
  /// full now, which calls for a pause. Dropped after close().
  bool push(Event event, Clock::time_point ready = {});

  /// Forgets the events of `from` that are not ready yet: a link that breaks loses what is on its way.
  void discard_delayed(NodeId from);

  /// No sender shall wait on behalf of `from` any more: it has closed.
  void release_sender(NodeId from);

  /// Waits until the window of `from` has room, or it was released. DeadlineExceeded, or the reason of
  /// close().
  absl::Status wait_for_room(NodeId from, Deadline deadline);

  /// From now on `wakeup`, which other inboxes may share, is told of events, and polls the source. Before the
  /// first event is taken.
  void share(std::shared_ptr<Wakeup> wakeup);

  /// The next event that is ready, without polling; nothing where none is. Or the reason of close(), which comes
  /// before events.
  absl::StatusOr<std::optional<Event>> take();
  /// Waits for the next event. As take(), or DeadlineExceeded.
  absl::StatusOr<Event> receive(Deadline deadline);

  void wake();
  void close(absl::Status reason);

  /// Frames and bytes received from each peer so far.
  std::map<NodeId, LinkStats> received() const;
  /// Of those of one peer, which nobody has taken out.
  uint64_t bytes_waiting(NodeId from) const;

 private:
  struct Peer {
    uint64_t bytes_waiting = 0;
    uint64_t frames_waiting = 0;
    bool told_full = false;
    bool released = false;
    LinkStats stats;
  };
  bool full(const Peer& peer) const {
    return peer.bytes_waiting >= window_.bytes_max || peer.frames_waiting >= window_.frames_max;
  }
  /// Moves delayed events that are due into the queue.
  void promote_due();
  Event pop_front(bool& has_room, NodeId& from);
  /// When to look again: at the deadline, or when a delayed event is ready.
  Clock::time_point until(Deadline deadline) const;
  /// Gives the source up for good. Call with the lock held.
  void leave_source();

  const WindowLimits window_;
  std::shared_ptr<InboxSource> source_;
  std::shared_ptr<Wakeup> wakeup_;  // Told with the lock held.
  std::function<void(NodeId)> on_room_;
  mutable std::mutex mutex_;
  std::condition_variable room_;
  std::deque<Event> queue_;
  std::multimap<Clock::time_point, Event> delayed_;
  std::map<NodeId, Peer> peers_;
  bool woken_ = false;
  absl::Status closed_;
};

/// "node 2 'mini2'", as every message of a transport names a peer.
std::string PeerText(NodeId node, const std::string& name);

/// What a frame weighs in windows and counters: header and payload.
inline uint64_t FrameBytes(const Frame& frame) { return kFrameHeaderBytes + frame.payload.size(); }

/// The check that every transport makes on the sending side.
absl::Status CheckSendable(const Frame& frame, const FrameLimits& limits, const std::string& peer_text);

}  // namespace shoal
