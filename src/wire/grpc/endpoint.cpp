#include "wire/grpc/endpoint.h"

#include <algorithm>
#include <list>
#include <map>
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

/// The sessions of an endpoint, one for each (session, node), and streams that wait for theirs.
class Sessions final : public StreamAcceptor {
 public:
  void admit(std::shared_ptr<InStream> stream, const Hello& hello) override {
    const Key key{hello.session, hello.to};
    std::shared_ptr<GrpcSession> session;
    absl::Status refusal;
    {
      std::lock_guard lock(mutex_);
      std::erase_if(parked_, [](const Parked& parked) { return parked.stream.expired(); });
      const auto open = open_.find(key);
      if (open != open_.end() && !open->second->closed()) {
        session = open->second;
      } else if (known_.contains(key)) {
        refusal = FailedPrecondition("session {:016x} has ended here", hello.session);
      } else if (parked_.size() >= kParkedMax) {
        refusal = ResourceExhausted("{} streams wait here for sessions that are not open", parked_.size());
      } else {
        parked_.push_back({key, stream});
      }
    }
    if (session != nullptr) stream->proceed(session);
    if (!refusal.ok()) stream->finish(refusal);
  }

  absl::Status open(const std::shared_ptr<GrpcSession>& session) {
    const Key key{session->id(), session->self()};
    std::vector<std::shared_ptr<InStream>> waiting;
    {
      std::lock_guard lock(mutex_);
      if (!known_.insert(key).second) {
        return FailedPrecondition("session {:016x} was opened here before", session->id());
      }
      std::erase_if(open_, [](const auto& entry) { return entry.second->closed(); });
      open_[key] = session;
      for (const Parked& parked : parked_) {
        if (parked.key != key) continue;
        if (auto stream = parked.stream.lock()) waiting.push_back(std::move(stream));
      }
      std::erase_if(parked_, [&](const Parked& parked) { return parked.key == key; });
    }
    for (const auto& stream : waiting) stream->proceed(session);
    return absl::OkStatus();
  }

  void shut_down() {
    std::map<Key, std::shared_ptr<GrpcSession>> sessions;
    {
      std::lock_guard lock(mutex_);
      sessions.swap(open_);
    }
    for (const auto& [key, session] : sessions) session->close(Cancelled("the endpoint was shut down"));
  }

 private:
  using Key = std::pair<uint64_t, NodeId>;
  struct Parked {
    Key key;
    std::weak_ptr<InStream> stream;
  };
  std::mutex mutex_;
  std::map<Key, std::shared_ptr<GrpcSession>> open_;  // Those that have ended stay until the next one opens.
  std::set<Key> known_;                               // All that were ever opened here.
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
  absl::StatusOr<std::optional<Event>> take() override { return session_->take(); }
  void share(std::shared_ptr<Wakeup> wakeup) override { session_->share(std::move(wakeup)); }
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
