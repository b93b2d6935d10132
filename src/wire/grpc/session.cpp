#include "wire/grpc/session.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/status.h"
#include "wire/grpc/loop.h"

namespace shoal {
namespace {

constexpr Duration kBackoffFirst = std::chrono::milliseconds(50);
constexpr Duration kBackoffMax = std::chrono::seconds(1);

/// Whether dialling again may help: the peer is not up yet, or was slow.
bool MayPass(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
}

void Count(LinkStats& sent, uint64_t bytes) {
  sent.frames_sent += 1;
  sent.bytes_sent += bytes;
}

}  // namespace

GrpcSession::GrpcSession(SessionOptions session, GrpcOptions options, std::shared_ptr<GrpcLoop> loop)
    : session_(std::move(session)),
      options_(std::move(options)),
      loop_(std::move(loop)),
      inbox_(options_.window, loop_) {
  for (const PeerAddress& peer : session_.peers) {
    if (peer.node != session_.self) peers_[peer.node].address = peer;
  }
  inbox_.on_room([this](NodeId from) { resume(from); });
}

bool GrpcSession::closed() const {
  std::lock_guard lock(mutex_);
  return closed_;
}

std::string GrpcSession::text(NodeId node) const {
  const auto it = peers_.find(node);
  return it == peers_.end() ? PeerText(node, "") : PeerText(node, it->second.address.name);
}

absl::Status GrpcSession::closed_error(NodeId to) const {
  return Cancelled("{}: the session is closed here", text(to));
}

std::string GrpcSession::name_of(NodeId node) const {
  const auto it = peers_.find(node);
  return it == peers_.end() ? "" : it->second.address.name;
}

absl::StatusOr<Hello> GrpcSession::hello(NodeId to) const {
  if (!peers_.contains(to)) {
    return FailedPrecondition("session {:016x} of {} has no node {}", id(), PeerText(self(), options_.name),
                              to);
  }
  Hello hello;
  hello.session = id();
  hello.from = self();
  hello.to = to;
  hello.from_name = options_.name;
  hello.identity = session_.identity;
  hello.nonce = RandomNonce();
  return hello;
}

absl::StatusOr<std::shared_ptr<OutStream>> GrpcSession::link(NodeId to) {
  std::shared_ptr<OutStream> stream;
  {
    std::lock_guard lock(mutex_);
    if (closed_) return closed_error(to);
    Peer& peer = peers_.at(to);
    if (peer.out != nullptr) return peer.out;
    if (Clock::now() < peer.retry_at) return peer.last_error;
    ASSIGN_OR_RETURN(Hello ours, hello(to));
    stream = peer.out = OutStream::make({.peer = peer.address,
                                         .hello = std::move(ours),
                                         .options = &options_,
                                         .owner = weak_from_this(),
                                         .loop = loop_});
  }
  stream->start();
  return stream;
}

absl::Status GrpcSession::send(NodeId to, Frame frame, Deadline deadline) {
  frame.header.sender = self();
  const uint64_t bytes = FrameBytes(frame);
  RETURN_IF_ERROR(CheckSendable(frame, options_.limits, text(to)));
  if (to == self()) {
    {
      std::lock_guard lock(mutex_);
      if (closed_) return closed_error(to);
      Count(sent_to_self_, bytes);
    }
    frame.header.length = frame.payload.size();
    Event event;
    event.kind = Event::Kind::kFrame;
    event.from = self();
    event.frame = std::move(frame);
    inbox_.push(std::move(event));
    return absl::OkStatus();
  }
  if (!peers_.contains(to)) return InvalidArgument("send to {}: the session has no such node", text(to));
  const auto dialled = link(to);
  if (!dialled.ok()) return Annotate(dialled.status(), "send");
  const auto& stream = *dialled;
  RETURN_IF_ERROR(Annotate(stream->wait_ready(deadline), "send"));
  RETURN_IF_ERROR(Annotate(stream->send(std::move(frame), deadline), "send"));
  std::lock_guard lock(mutex_);
  Count(peers_.at(to).sent, bytes);
  return absl::OkStatus();
}

absl::Status GrpcSession::connect(Deadline deadline) {
  for (const auto& [node, peer] : peers_) {
    const auto dialled = link(node);  // All at once; connect_to() waits for each and sees what failed.
    if (absl::IsCancelled(dialled.status())) return dialled.status();
  }
  for (const auto& [node, peer] : peers_) RETURN_IF_ERROR(connect_to(node, deadline));
  return absl::OkStatus();
}

absl::Status GrpcSession::connect_to(NodeId to, Deadline deadline) {
  absl::Status reason;
  while (true) {
    const auto stream = link(to);
    absl::Status status = stream.ok() ? (*stream)->wait_ready(deadline) : stream.status();
    if (status.ok() || !MayPass(status)) return Annotate(status, "connect");
    // The reason of an earlier attempt says more than that the last one had no time left.
    if (absl::IsUnavailable(status) || reason.ok()) reason = std::move(status);
    if (deadline.expired()) return Annotate(reason, "connect");
    std::unique_lock lock(mutex_);
    const auto until = std::min(deadline.at, std::max(peers_.at(to).retry_at, Clock::now() + kBackoffFirst));
    if (closing_.wait_until(lock, until, [this] { return closed_; })) return closed_error(to);
  }
}

TransportStats GrpcSession::stats() const {
  TransportStats stats{inbox_.received()};
  const auto add = [&](NodeId node, const LinkStats& sent) {
    stats.peers[node].frames_sent = sent.frames_sent;
    stats.peers[node].bytes_sent = sent.bytes_sent;
  };
  std::lock_guard lock(mutex_);
  for (const auto& [node, peer] : peers_) {
    add(node, peer.sent);
    if (peer.out != nullptr) stats.peers[node].bytes_waiting = peer.out->bytes_waiting();
  }
  add(self(), sent_to_self_);
  return stats;
}

void GrpcSession::close(const absl::Status& reason) {
  std::vector<std::shared_ptr<OutStream>> outs;
  std::vector<std::shared_ptr<InStream>> ins;
  {
    std::lock_guard lock(mutex_);
    if (std::exchange(closed_, true)) return;
    for (auto& [node, peer] : peers_) {
      if (peer.out != nullptr) outs.push_back(peer.out);
      if (peer.in != nullptr) ins.push_back(std::exchange(peer.in, nullptr));
    }
    closing_.notify_all();
  }
  inbox_.close(reason);
  for (const auto& stream : outs) stream->cancel(reason);
  for (const auto& stream : ins) {
    stream->finish(Unavailable("{} closed the session", PeerText(self(), options_.name)));
  }
}

void GrpcSession::tell_down(NodeId node, Peer& peer, const absl::Status& error) {
  if (closed_ || std::exchange(peer.told_down, true)) return;
  inbox_.push(Event::peer_down(node, error));
}

void GrpcSession::out_ready(NodeId to) {
  std::lock_guard lock(mutex_);
  Peer& peer = peers_.at(to);
  peer.told_down = false;
  peer.backoff = Duration::zero();
}

void GrpcSession::out_ended(NodeId to, const OutStream* stream, const absl::Status& error, bool was_ready) {
  std::lock_guard lock(mutex_);
  Peer& peer = peers_.at(to);
  if (peer.out.get() != stream) return;
  peer.out = nullptr;
  peer.last_error = error;
  peer.backoff = std::clamp(2 * peer.backoff, kBackoffFirst, kBackoffMax);
  peer.retry_at = Clock::now() + peer.backoff;
  if (was_ready) tell_down(to, peer, error);
}

void GrpcSession::in_ready(NodeId from, std::shared_ptr<InStream> stream) {
  std::shared_ptr<InStream> replaced;
  bool late = false;
  {
    std::lock_guard lock(mutex_);
    Peer& peer = peers_.at(from);
    late = closed_;
    if (late) {
      replaced = stream;
    } else {
      replaced = std::exchange(peer.in, std::move(stream));
      peer.told_down = false;
    }
  }
  if (replaced == nullptr) return;
  replaced->finish(late ? Unavailable("{} closed the session", PeerText(self(), options_.name))
                        : Unavailable("{} dialled again", text(from)));
}

bool GrpcSession::deliver(NodeId from, const InStream* stream, Frame frame) {
  std::lock_guard lock(mutex_);  // Held over the push: no frame comes after its stream's kPeerDown.
  if (peers_.at(from).in.get() != stream) return true;
  Event event;
  event.kind = Event::Kind::kFrame;
  event.from = from;
  event.frame = std::move(frame);
  return inbox_.push(std::move(event));
}

void GrpcSession::in_ended(NodeId from, const InStream* stream, const absl::Status& error) {
  std::lock_guard lock(mutex_);
  Peer& peer = peers_.at(from);
  if (peer.in.get() != stream) return;
  peer.in = nullptr;
  tell_down(from, peer, error);
}

void GrpcSession::resume(NodeId from) {
  std::shared_ptr<InStream> stream;
  {
    std::lock_guard lock(mutex_);
    const auto it = peers_.find(from);
    if (it != peers_.end()) stream = it->second.in;
  }
  if (stream != nullptr) stream->resume();
}

}  // namespace shoal
