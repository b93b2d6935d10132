#include "wire/inproc.h"

#include <mutex>

#include "base/check.h"
#include "base/status.h"
#include "wire/inbox.h"

namespace shoal {
namespace {

struct Link {
  bool broken = false;
  bool hung = false;
  bool corrupt_next = false;
  LinkStats sent;
};

InprocOptions DefaultOptions(int nodes) {
  InprocOptions options;
  for (int i = 0; i < nodes; ++i) options.names.push_back(fmt::format("node-{}", i));
  return options;
}

}  // namespace

struct InprocNetwork::Hub {
  explicit Hub(InprocOptions o) : options(std::move(o)), count(options.names.size()), links(count * count) {
    for (size_t i = 0; i < count; ++i) inboxes.push_back(std::make_unique<Inbox>(options.window));
    opened.resize(count);
    closed.resize(count);
  }

  size_t index(NodeId node) const {
    SHOAL_CHECK_GE(node.value, 0);
    SHOAL_CHECK_LT(static_cast<size_t>(node.value), count);
    return static_cast<size_t>(node.value);
  }
  Link& link(NodeId from, NodeId to) { return links[index(from) * count + index(to)]; }
  Inbox& inbox(NodeId node) { return *inboxes[index(node)]; }
  std::string text(NodeId node) const { return PeerText(node, options.names[index(node)]); }

  absl::Status check_link(NodeId from, NodeId to) {
    std::lock_guard lock(mutex);
    return check_link_locked(from, to);
  }
  absl::Status check_link_locked(NodeId from, NodeId to) {
    if (closed[index(from)]) return Cancelled("send to {}: the session is closed here", text(to));
    if (closed[index(to)]) return Unavailable("send to {}: it closed the session", text(to));
    if (link(from, to).broken) return Unavailable("send to {}: the link is down", text(to));
    return absl::OkStatus();
  }

  /// Passes one encoded frame through the link's faults into the inbox of `to`. Decodes without the lock.
  absl::Status deliver(NodeId from, NodeId to, const Buffer& encoded) {
    if (take_corruption(from, to)) {
      // EncodeFrame made these bytes for us alone.
      const_cast<std::byte&>(encoded.bytes().back()) ^= std::byte{0x10};
    }
    auto frame = DecodeFrameInPlace(encoded, options.limits);
    std::lock_guard lock(
        mutex);  // Held over the push: nothing comes after a kPeerDown, or before an earlier frame.
    RETURN_IF_ERROR(check_link_locked(from, to));
    Link& way = link(from, to);
    way.sent.frames_sent += 1;
    way.sent.bytes_sent += encoded.size();
    if (!frame.ok()) {
      inbox(to).push(Event::peer_down(from, Annotate(frame.status(), fmt::format("from {}", text(from)))));
      inbox(from).push(
          Event::peer_down(to, Unavailable("{} ended the stream: {}", text(to), ToString(frame.status()))));
      return absl::OkStatus();
    }
    const Clock::time_point ready = way.hung ? Clock::time_point::max() : Clock::time_point{};
    Event event;
    event.kind = Event::Kind::kFrame;
    event.from = from;
    event.frame = *std::move(frame);
    inbox(to).push(std::move(event), ready);
    return absl::OkStatus();
  }

  bool take_corruption(NodeId from, NodeId to) {
    std::lock_guard lock(mutex);
    return std::exchange(link(from, to).corrupt_next, false);
  }

  /// `node` is gone: every other open node learns it.
  void close(NodeId node) {
    std::lock_guard lock(mutex);
    if (closed[index(node)]) return;
    closed[index(node)] = true;
    inbox(node).close(Cancelled("{}: the session was closed here", text(node)));
    for (size_t i = 0; i < count; ++i) {
      const NodeId other{static_cast<int32_t>(i)};
      inboxes[i]->release_sender(node);
      if (other == node || closed[i] || link(node, other).broken) continue;
      inboxes[i]->push(Event::peer_down(node, Unavailable("{} closed the session", text(node))));
    }
  }

  const InprocOptions options;
  const size_t count;
  std::mutex mutex;  // Guards links, opened and closed.
  std::vector<Link> links;
  std::vector<std::unique_ptr<Inbox>> inboxes;
  std::vector<bool> opened;
  std::vector<bool> closed;
};

class InprocNetwork::Endpoint : public Transport {
 public:
  Endpoint(std::shared_ptr<Hub> hub, NodeId self) : hub_(std::move(hub)), self_(self) {}
  ~Endpoint() override { hub_->close(self_); }

  NodeId self() const override { return self_; }

  absl::Status connect(Deadline) override {
    for (size_t i = 0; i < hub_->count; ++i) {
      const NodeId peer{static_cast<int32_t>(i)};
      if (peer != self_) RETURN_IF_ERROR(hub_->check_link(self_, peer));
    }
    return absl::OkStatus();
  }

  absl::Status send(NodeId to, Frame frame, Deadline deadline) override {
    if (to.value < 0 || static_cast<size_t>(to.value) >= hub_->count) {
      return InvalidArgument("send to node {}: the session has nodes 0 to {}", to, hub_->count - 1);
    }
    frame.header.sender = self_;
    RETURN_IF_ERROR(CheckSendable(frame, hub_->options.limits, hub_->text(to)));
    RETURN_IF_ERROR(hub_->check_link(self_, to));
    if (to != self_) {  // A node that waited for itself would wait for ever.
      const absl::Status room = hub_->inbox(to).wait_for_room(self_, deadline);
      if (absl::IsCancelled(room)) return Unavailable("send to {}: it closed the session", hub_->text(to));
      if (!room.ok()) return Annotate(room, fmt::format("send to {}: it takes nothing in", hub_->text(to)));
    }
    return hub_->deliver(self_, to, EncodeFrame(frame));
  }

  absl::StatusOr<Event> receive(Deadline deadline) override { return hub_->inbox(self_).receive(deadline); }
  absl::StatusOr<std::optional<Event>> take() override { return hub_->inbox(self_).take(); }
  void share(std::shared_ptr<Wakeup> wakeup) override { hub_->inbox(self_).share(std::move(wakeup)); }
  void wake() override { hub_->inbox(self_).wake(); }

  TransportStats stats() const override {
    TransportStats stats{hub_->inbox(self_).received()};
    std::lock_guard lock(hub_->mutex);
    for (size_t i = 0; i < hub_->count; ++i) {
      const NodeId peer{static_cast<int32_t>(i)};
      const LinkStats& sent = hub_->link(self_, peer).sent;
      stats.peers[peer].frames_sent = sent.frames_sent;
      stats.peers[peer].bytes_sent = sent.bytes_sent;
      stats.peers[peer].bytes_waiting = hub_->inbox(peer).bytes_waiting(self_);
    }
    return stats;
  }

  void close() override { hub_->close(self_); }

 private:
  const std::shared_ptr<Hub> hub_;
  const NodeId self_;
};

InprocNetwork::InprocNetwork(InprocOptions options) : hub_(std::make_shared<Hub>(std::move(options))) {}
InprocNetwork::InprocNetwork(int nodes) : InprocNetwork(DefaultOptions(nodes)) {}
InprocNetwork::~InprocNetwork() = default;

std::unique_ptr<Transport> InprocNetwork::open(NodeId node) {
  std::lock_guard lock(hub_->mutex);
  SHOAL_CHECK(!hub_->opened[hub_->index(node)]);
  hub_->opened[hub_->index(node)] = true;
  return std::make_unique<Endpoint>(hub_, node);
}

void InprocNetwork::break_link(NodeId a, NodeId b) {
  std::lock_guard lock(hub_->mutex);
  for (const auto& [from, to] : {std::pair(a, b), std::pair(b, a)}) {
    hub_->link(from, to).broken = true;
    hub_->inbox(to).discard_delayed(from);
    hub_->inbox(to).push(Event::peer_down(from, Unavailable("{}: the link is down", hub_->text(from))));
  }
}

void InprocNetwork::hang_link(NodeId from, NodeId to) {
  std::lock_guard lock(hub_->mutex);
  hub_->link(from, to).hung = true;
}

void InprocNetwork::corrupt_next(NodeId from, NodeId to) {
  std::lock_guard lock(hub_->mutex);
  hub_->link(from, to).corrupt_next = true;
}

void InprocNetwork::heal_link(NodeId from, NodeId to) {
  std::lock_guard lock(hub_->mutex);
  Link& way = hub_->link(from, to);
  way.broken = way.hung = false;
  hub_->inbox(to).discard_delayed(from);
}

}  // namespace shoal
