// The events of one node: filled by the threads of a transport, emptied by the node's executor.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "wire/transport.h"

namespace shoal {

/// What fills an inbox from the thread that waits for it.
class InboxSource {
 public:
  virtual ~InboxSource() = default;

  enum class Polled : uint8_t {
    kNothing,  ///< Nothing came until the deadline, an interrupt() or `enough`.
    kHandled,  ///< Something did, and may have been pushed.
    kTaken,    ///< Another thread is polling: returned at once.
  };
  /// Handles one thing that has arrived, waiting until the deadline for it; or nothing where `enough()`
  /// holds, which is asked once, when no interrupt() can be missed any more.
  virtual Polled poll(Deadline deadline, absl::FunctionRef<bool()> enough) = 0;
  /// Ends a poll() that waits. From any thread.
  virtual void interrupt() = 0;
};

/// Keeps a window per peer, so that a node that stops receiving stops its senders rather than growing.
/// Thread-safe.
class Inbox {
 public:
  /// source: polled by receive(); nullptr: other threads push. It outlives the inbox.
  explicit Inbox(WindowLimits window, InboxSource* source = nullptr) : window_(window), source_(source) {}

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

  /// The next event that is ready. DeadlineExceeded, or the reason of close(), which comes before events.
  absl::StatusOr<Event> receive(Deadline deadline);

  void wake();
  void close(absl::Status reason);

  /// Frames and bytes received from each peer so far.
  std::map<NodeId, LinkStats> received() const;

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
  /// Tells receive() that there is something to look at. Call with the lock held.
  void announce();
  /// Waits, unlocked, until announce() was called or `until`: spins, then blocks.
  void wait_for_announcement(std::unique_lock<std::mutex>& lock, Clock::time_point until);
  void sleep(std::unique_lock<std::mutex>& lock, Clock::time_point until,
             absl::FunctionRef<bool()> announced);
  /// Takes from the source, unlocked, what is there already.
  void poll_source(std::unique_lock<std::mutex>& lock);

  const WindowLimits window_;
  InboxSource* const source_;
  std::function<void(NodeId)> on_room_;
  mutable std::mutex mutex_;
  std::condition_variable arrived_;
  std::condition_variable room_;
  std::deque<Event> queue_;
  std::multimap<Clock::time_point, Event> delayed_;
  std::map<NodeId, Peer> peers_;
  bool woken_ = false;
  std::atomic<uint64_t> announced_{0};  // Counts announce(). Written with the lock held.
  bool poll_next_ = false;              // An event was received, and no wait since was long.
  bool blocked_ = false;                // In the source, which an announcement must interrupt.
  absl::Status closed_;
};

/// "node 2 'mini2'", as every message of a transport names a peer.
std::string PeerText(NodeId node, const std::string& name);

/// What a frame weighs in windows and counters: header and payload.
inline uint64_t FrameBytes(const Frame& frame) { return kFrameHeaderBytes + frame.payload.size(); }

/// The check that every transport makes on the sending side.
absl::Status CheckSendable(const Frame& frame, const FrameLimits& limits, const std::string& peer_text);

}  // namespace shoal
