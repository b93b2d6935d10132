// The seam between exec and the network: moves frames between named nodes, in order, with deadlines. Knows no
// tensors.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/ids.h"
#include "wire/frame.h"

namespace shoal {

class Wakeup;

/// What receive() returns.
struct Event {
  enum class Kind : uint8_t {
    kFrame,     ///< `frame` arrived from `from`.
    kPeerDown,  ///< The link with `from` ended; `status` says why and names the peer. Told once per break.
    kWake,      ///< Somebody called wake(); several calls may give one event.
  };
  Kind kind = Kind::kWake;
  NodeId from{-1};
  Frame frame;
  absl::Status status;

  static Event peer_down(NodeId from, absl::Status why) {
    Event event;
    event.kind = Kind::kPeerDown;
    event.from = from;
    event.status = std::move(why);
    return event;
  }
};

struct LinkStats {
  uint64_t frames_sent = 0;
  uint64_t bytes_sent = 0;  ///< Headers and payloads handed to the link.
  uint64_t frames_received = 0;
  uint64_t bytes_received = 0;  ///< Headers and payloads put into the inbox.
  uint64_t bytes_waiting = 0;  ///< Of those sent: they wait for the network, or for the peer to take them in.

  LinkStats& operator+=(const LinkStats& more) {
    frames_sent += more.frames_sent;
    bytes_sent += more.bytes_sent;
    frames_received += more.frames_received;
    bytes_received += more.bytes_received;
    bytes_waiting += more.bytes_waiting;
    return *this;
  }
};
struct TransportStats {
  std::map<NodeId, LinkStats> peers;  ///< Self included, once it has sent to itself.
  LinkStats total() const;
};

/// How many bytes may wait on the way to or from one peer before its sender blocks.
struct WindowLimits {
  uint64_t bytes_max = uint64_t{64} << 20;
  uint64_t frames_max = 256;
};

/// One node's end of a session (one plan in force: a new epoch may keep the session or open another). send(),
/// wake(), stats() and close() are safe from any thread; receive() and take() have one caller at a time, the
/// node's executor.
class Transport {
 public:
  virtual ~Transport() = default;

  virtual NodeId self() const = 0;

  /// Opens the links to all peers, so that the first frame does not pay for it; trying again until the
  /// deadline where a peer is not up yet. Errors as send().
  virtual absl::Status connect(Deadline deadline) = 0;

  /// Queues `frame` for `to`; frames from one node to another arrive in the order of their send() calls. `to`
  /// may be self(). Returns when the frame is queued, not when it has arrived; a link that breaks later is
  /// told by kPeerDown. Blocks at most until the deadline while the link opens or its window is full.
  /// Unavailable: the peer is down (an attempt after a short pause dials again). DeadlineExceeded: it takes
  /// nothing in. InvalidArgument: no such peer, payload above the limit. FailedPrecondition: the peer is of
  /// another session, protocol version, numerics class, model or KV dtype. Unauthenticated: keys do not match.
  /// Cancelled: closed here. Every message names the peer.
  virtual absl::Status send(NodeId to, Frame frame, Deadline deadline) = 0;

  /// The next event of any peer. Frames that arrived before a break are handed out before its kPeerDown.
  /// DeadlineExceeded: nothing came. Cancelled: closed here, or replaced by a newer session.
  virtual absl::StatusOr<Event> receive(Deadline deadline) = 0;

  /// As receive(), of what has been read already: nothing where there is nothing. For a thread that serves
  /// several transports, which share() one Wakeup, and reads through that.
  virtual absl::StatusOr<std::optional<Event>> take() = 0;
  /// From now on whoever waits for `wakeup` waits for this transport, too. Before the first receive() or take().
  virtual void share(std::shared_ptr<Wakeup> wakeup) = 0;

  /// Ends the current receive(), or the next one, with kWake.
  virtual void wake() = 0;

  virtual TransportStats stats() const = 0;

  /// Ends the session here: waiting calls return Cancelled, peers see kPeerDown. Idempotent.
  virtual void close() = 0;
};

}  // namespace shoal
