#include "wire/grpc/endpoint.h"

#include <algorithm>
#include <list>
#include <mutex>
#include <set>
#include <utility>

#include "base/status.h"
#include "base/text.h"
#include "wire/grpc/session.h"
#include "wire/grpc/streams.h"

namespace shoal {
namespace {

constexpr size_t kParkedMax = 64;
constexpr uint64_t kPayloadBytesLimit = uint64_t{1} << 30;  // gRPC counts a message's bytes in an int.

/// The current session of an endpoint, and streams that wait for the next one.
class Sessions final : public StreamAcceptor {
 public:
  void admit(std::shared_ptr<InStream> stream, const Hello& hello) override {
    std::shared_ptr<GrpcSession> session;
    absl::Status refusal;
    {
      std::lock_guard lock(mutex_);
      std::erase_if(parked_, [](const Parked& parked) { return parked.stream.expired(); });
      if (current_ != nullptr && current_->id() == hello.session && !current_->closed()) {
        session = current_;
      } else if (ended_.contains(hello.session)) {
        refusal = FailedPrecondition("session {:016x} has ended here", hello.session);
      } else if (parked_.size() >= kParkedMax) {
        refusal = ResourceExhausted("{} streams wait here for sessions that are not open", parked_.size());
      } else {
        parked_.push_back({hello.session, stream});
      }
    }
    if (session != nullptr) stream->proceed(session);
    if (!refusal.ok()) stream->finish(refusal);
  }

  absl::Status open(const std::shared_ptr<GrpcSession>& session) {
    std::shared_ptr<GrpcSession> previous;
    std::vector<std::shared_ptr<InStream>> waiting;
    {
      std::lock_guard lock(mutex_);
      if (!ended_.insert(session->id()).second) {
        return FailedPrecondition("session {:016x} was opened here before", session->id());
      }
      previous = std::exchange(current_, session);
      for (const Parked& parked : parked_) {
        if (parked.session != session->id()) continue;
        if (auto stream = parked.stream.lock()) waiting.push_back(std::move(stream));
      }
      std::erase_if(parked_, [&](const Parked& parked) { return parked.session == session->id(); });
    }
    if (previous != nullptr) previous->close(Cancelled("session {:016x} replaced this one", session->id()));
    for (const auto& stream : waiting) stream->proceed(session);
    return absl::OkStatus();
  }

  void shut_down() {
    std::shared_ptr<GrpcSession> session;
    {
      std::lock_guard lock(mutex_);
      session = std::exchange(current_, nullptr);
    }
    if (session != nullptr) session->close(Cancelled("the endpoint was shut down"));
  }

 private:
  struct Parked {
    uint64_t session;
    std::weak_ptr<InStream> stream;
  };
  std::mutex mutex_;
  std::shared_ptr<GrpcSession> current_;
  std::set<uint64_t> ended_;  // Every session that was ever opened here; all but the current one are over.
  std::list<Parked> parked_;
};

/// What open_session() hands out.
class SessionTransport final : public Transport {
 public:
  explicit SessionTransport(std::shared_ptr<GrpcSession> session) : session_(std::move(session)) {}
  ~SessionTransport() override { close(); }

  NodeId self() const override { return session_->self(); }
  absl::Status connect(Deadline deadline) override { return session_->connect(deadline); }
  absl::Status send(NodeId to, Frame frame, Deadline deadline) override {
    return session_->send(to, std::move(frame), deadline);
  }
  absl::StatusOr<Event> receive(Deadline deadline) override { return session_->receive(deadline); }
  void wake() override { session_->wake(); }
  TransportStats stats() const override { return session_->stats(); }
  void close() override { session_->close(Cancelled("the session was closed here")); }

 private:
  const std::shared_ptr<GrpcSession> session_;
};

absl::Status CheckSession(const SessionOptions& session) {
  std::set<NodeId> nodes;
  for (const PeerAddress& peer : session.peers) {
    if (!nodes.insert(peer.node).second) {
      return InvalidArgument("session {:016x}: node {} is listed twice", session.session, peer.node);
    }
    if (peer.node == session.self) continue;
    const auto address = ParseHostPort(peer.address);
    if (!address.ok()) return Annotate(address.status(), PeerText(peer.node, peer.name));
  }
  return absl::OkStatus();
}

}  // namespace

class GrpcEndpoint::Impl {
 public:
  explicit Impl(GrpcOptions o) : options(std::move(o)), sessions(std::make_shared<Sessions>()) {}

  const GrpcOptions options;
  const std::shared_ptr<Sessions> sessions;
  std::unique_ptr<FrameServer> server;
};

GrpcEndpoint::GrpcEndpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

GrpcEndpoint::~GrpcEndpoint() {
  impl_->sessions->shut_down();
  impl_->server = nullptr;
}

absl::StatusOr<std::unique_ptr<GrpcEndpoint>> GrpcEndpoint::start(GrpcOptions options) {
  const auto address = ParseHostPort(options.listen);
  if (!address.ok()) return Annotate(address.status(), "listen");
  if (options.limits.payload_bytes_max > kPayloadBytesLimit) {
    return InvalidArgument("frame limit: expected at most {} payload bytes, got {}", kPayloadBytesLimit,
                           options.limits.payload_bytes_max);
  }
  auto impl = std::make_unique<Impl>(std::move(options));
  ASSIGN_OR_RETURN(impl->server, FrameServer::start(impl->options, impl->sessions));
  return std::unique_ptr<GrpcEndpoint>(new GrpcEndpoint(std::move(impl)));
}

int GrpcEndpoint::port() const { return impl_->server->port(); }

absl::StatusOr<std::unique_ptr<Transport>> GrpcEndpoint::open_session(SessionOptions options) {
  RETURN_IF_ERROR(CheckSession(options));
  auto session = std::make_shared<GrpcSession>(std::move(options), impl_->options, impl_->server->loop());
  RETURN_IF_ERROR(impl_->sessions->open(session));
  return std::unique_ptr<Transport>(std::make_unique<SessionTransport>(std::move(session)));
}

}  // namespace shoal
