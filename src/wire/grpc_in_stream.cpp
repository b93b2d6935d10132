// The listening port and the streams that peers dial, through gRPC's generic callback API: one message per
// frame.
//
// Lifetimes: a reactor keeps itself alive (self_) from its start until gRPC's OnDone. Locks are never held
// while calling into gRPC, which may call back on the same thread; starting_ keeps an operation that has left
// the lock from meeting the end of the stream instead.
#include <grpc/grpc.h>
#include <grpc/support/log.h>
#include <grpcpp/alarm.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <mutex>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "base/log.h"
#include "base/status.h"
#include "wire/grpc_message.h"
#include "wire/grpc_streams.h"
#include "wire/inbox.h"

namespace shoal {
namespace {

class InReactor final : public InStream,
                        public grpc::ServerGenericBidiReactor,
                        public std::enable_shared_from_this<InReactor> {
 public:
  InReactor(const GrpcOptions& options, std::shared_ptr<StreamAcceptor> acceptor)
      : limits_(options.limits), key_(options.key), acceptor_(std::move(acceptor)) {}

  void start(Duration handshake_timeout) {
    self_ = shared_from_this();
    // Weak: the alarm keeps this function as long as it lives, and we keep the alarm.
    alarm_.Set(After(handshake_timeout), [weak = weak_from_this()](bool fired) {
      const auto self = weak.lock();
      if (fired && self != nullptr) self->on_handshake_timeout();
    });
    StartRead(&incoming_);
  }

  void proceed(std::shared_ptr<StreamOwner> owner) override {
    absl::Status answered = answer_hello(std::move(owner));
    if (!answered.ok()) return finish(answered);
    read();
  }

  void resume() override {
    {
      std::lock_guard lock(mutex_);
      if (!std::exchange(paused_, false)) {
        resume_early_ = true;  // The pause that this answers is about to begin.
        return;
      }
    }
    read();
  }

  void finish(const absl::Status& status) override {
    std::unique_lock lock(mutex_);
    if (finishing_) return;
    finishing_ = true;
    finish_status_ = status;
    const bool was_open = state_ == State::kOpen;
    lock.unlock();
    alarm_.Cancel();
    if (was_open) owner_->in_ended(peer_, this, status);
    lock.lock();
    finish_when_idle(lock);
  }

 private:
  enum class State { kAwaitsHello, kParked, kAwaitsProof, kOpen };

  absl::Status answer_hello(std::shared_ptr<StreamOwner> owner) {
    ASSIGN_OR_RETURN(Hello ours, owner->hello(peer_));
    AcceptorHandshake handshake(std::move(ours), key_);
    ASSIGN_OR_RETURN(const Frame ack, handshake.on_hello(hello_));
    {
      std::lock_guard lock(mutex_);
      owner_ = std::move(owner);
      handshake_ = std::move(handshake);
      state_ = State::kAwaitsProof;
    }
    write(ack);
    return absl::OkStatus();
  }

  /// Runs `start` (which begins an operation of gRPC) unless the stream is finishing; a finish() meanwhile
  /// comes after it.
  template <typename Start>
  void begin(Start start) {
    std::unique_lock lock(mutex_);
    if (finishing_) return;
    starting_ += 1;
    lock.unlock();
    start();
    lock.lock();
    starting_ -= 1;
    finish_when_idle(lock);
  }

  /// Calls Finish, once, when no thread is about to begin an operation. Unlocks.
  void finish_when_idle(std::unique_lock<std::mutex>& lock) {
    const bool now = finishing_ && starting_ == 0 && !finished_;
    finished_ = finished_ || now;
    lock.unlock();
    if (now) Finish(ToGrpc(finish_status_));
  }

  void read() {
    begin([this] { StartRead(&incoming_); });
  }

  void write(const Frame& frame) {
    {
      std::lock_guard lock(mutex_);
      if (writing_) {  // gRPC takes one at a time; the answer to an ack may overtake the ack's completion.
        next_write_ = frame;
        return;
      }
      writing_ = true;
    }
    outgoing_ = ToByteBuffer(frame);
    begin([this] { StartWrite(&outgoing_); });
  }

  void OnWriteDone(bool ok) override {
    std::optional<Frame> next;
    {
      std::lock_guard lock(mutex_);
      writing_ = false;
      if (ok && !finishing_) next = std::exchange(next_write_, std::nullopt);
    }
    if (next) write(*next);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return finish(Unavailable("{} ended the stream", peer_text_));
    State state;
    {
      std::lock_guard lock(mutex_);
      state = state_;
    }
    absl::Status handled;
    switch (state) {
      case State::kAwaitsHello:
        handled = on_hello();
        break;
      case State::kAwaitsProof:
        handled = on_proof();
        break;
      case State::kOpen:
        handled = on_frame();
        break;
      case State::kParked:
        handled = Internal("read while parked");
        break;
    }
    if (!handled.ok()) finish(Annotate(handled, fmt::format("from {}", peer_text_)));
  }

  absl::Status on_hello() {
    ASSIGN_OR_RETURN(hello_, FromByteBuffer(incoming_, kHandshakeLimits));
    ASSIGN_OR_RETURN(const Hello hello, ParseHello(hello_));
    peer_ = hello.from;
    peer_text_ = PeerText(hello.from, hello.from_name);
    {
      std::lock_guard lock(mutex_);
      state_ = State::kParked;
    }
    acceptor_->admit(shared_from_this(), hello);
    return absl::OkStatus();
  }

  absl::Status on_proof() {
    ASSIGN_OR_RETURN(const Frame proof, FromByteBuffer(incoming_, kHandshakeLimits));
    ASSIGN_OR_RETURN(const Frame ready, handshake_->on_proof(proof));
    alarm_.Cancel();
    {
      std::lock_guard lock(mutex_);
      if (finishing_) return absl::OkStatus();
      state_ = State::kOpen;
    }
    owner_->in_ready(peer_, shared_from_this());
    write(ready);
    read();
    return absl::OkStatus();
  }

  absl::Status on_frame() {
    ASSIGN_OR_RETURN(Frame frame, FromByteBuffer(incoming_, limits_));
    incoming_.Clear();
    if (frame.header.sender != peer_) {
      return InvalidArgument("frame: {} says that it is from node {}", Describe(frame.header),
                             frame.header.sender);
    }
    if (!owner_->deliver(peer_, this, std::move(frame))) {
      std::lock_guard lock(mutex_);
      if (!std::exchange(resume_early_, false)) {
        paused_ = true;
        return absl::OkStatus();
      }
    }
    read();
    return absl::OkStatus();
  }

  void on_handshake_timeout() {
    bool parked = false;
    {
      std::lock_guard lock(mutex_);
      if (state_ == State::kOpen) return;
      parked = state_ == State::kParked;
    }
    if (parked) {
      // Unavailable: it may open later, and connect() tries again.
      finish(Unavailable("the session that {} asks for was not opened here in time", peer_text_));
    } else {
      finish(DeadlineExceeded("the handshake with {} did not end in time", peer_text_));
    }
  }

  void OnCancel() override { finish(Unavailable("{} ended the stream", peer_text_)); }

  void OnDone() override { self_.reset(); }

  const FrameLimits limits_;
  const std::optional<KeyAuth> key_;
  const std::shared_ptr<StreamAcceptor> acceptor_;
  std::shared_ptr<InReactor> self_;
  grpc::Alarm alarm_;
  grpc::ByteBuffer incoming_;
  grpc::ByteBuffer outgoing_;
  Frame hello_;
  NodeId peer_{-1};
  std::string peer_text_ = "a stranger";
  std::shared_ptr<StreamOwner> owner_;
  std::optional<AcceptorHandshake> handshake_;

  std::mutex mutex_;
  State state_ = State::kAwaitsHello;
  std::optional<Frame> next_write_;
  bool writing_ = false;
  int starting_ = 0;  // Threads between leaving the lock and having begun an operation.
  bool paused_ = false;
  bool resume_early_ = false;
  bool finishing_ = false;
  bool finished_ = false;
  absl::Status finish_status_;  // Set with finishing_.
};

/// Whatever gRPC has to say reaches people as our own errors, its text helps only who debugs; but for its
/// last words.
void LogForGrpc(gpr_log_func_args* args) {
  const bool fatal = std::string_view(args->message).find("ssertion failed") != std::string_view::npos ||
                     std::string_view(args->message).find("ASSERTION FAILED") != std::string_view::npos;
  Log(fatal ? LogLevel::kError : LogLevel::kDebug, "gRPC: {}:{}: {}", args->file, args->line, args->message);
}

/// Once per process.
void PrepareLibrary() {
  static std::once_flag once;
  std::call_once(once, [] {
    // Never undone: when its last object dies, gRPC stops its threads and may wait 10 s for one that polls a
    // dead peer.
    grpc_init();
    // Some distributions build abseil with the search for deadlocks that is meant for debugging: each of
    // gRPC's locks would look through a graph of all locks.
    absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
    gpr_set_log_function(LogForGrpc);
  });
}

class GrpcFrameServer final : public FrameServer, private grpc::CallbackGenericService {
 public:
  GrpcFrameServer(const GrpcOptions& options, std::shared_ptr<StreamAcceptor> acceptor)
      : options_(options), acceptor_(std::move(acceptor)) {}

  ~GrpcFrameServer() override {
    if (server_ != nullptr) server_->Shutdown(After(Duration::zero()));
  }

  absl::Status listen() {
    using std::chrono::milliseconds;
    PrepareLibrary();
    grpc::ServerBuilder builder;
    builder.AddListeningPort(options_.listen, grpc::InsecureServerCredentials(), &port_);
    builder.RegisterCallbackGenericService(this);
    for (grpc::Service* service : options_.services) builder.RegisterService(service);
    // A little above the limit, so that FromByteBuffer refuses what is just too long, with numbers.
    builder.SetMaxReceiveMessageSize(static_cast<int>(options_.limits.payload_bytes_max + (1 << 20)));
    builder.SetMaxSendMessageSize(-1);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT,
                               0);  // Two workers on one port is an error, not a lottery.
    builder.AddChannelArgument(
        GRPC_ARG_KEEPALIVE_TIME_MS,
        static_cast<int>(std::chrono::ceil<milliseconds>(options_.keepalive_interval).count()));
    builder.AddChannelArgument(
        GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
        static_cast<int>(std::chrono::ceil<milliseconds>(options_.keepalive_timeout).count()));
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES,
                               0);  // Diallers ping as often as they were told to.
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) {
      return Unavailable("cannot listen on {}: the port is in use, or the host is not this machine",
                         options_.listen);
    }
    return absl::OkStatus();
  }

  int port() const override { return port_; }

 private:
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override {
    if (context->method() != kFramesMethod) return grpc::CallbackGenericService::CreateReactor(context);
    const auto reactor = std::make_shared<InReactor>(options_, acceptor_);
    reactor->start(options_.handshake_timeout);
    return reactor.get();
  }

  const GrpcOptions options_;
  const std::shared_ptr<StreamAcceptor> acceptor_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<FrameServer>> FrameServer::start(const GrpcOptions& options,
                                                                std::shared_ptr<StreamAcceptor> acceptor) {
  auto server = std::make_unique<GrpcFrameServer>(options, std::move(acceptor));
  RETURN_IF_ERROR(server->listen());
  return std::unique_ptr<FrameServer>(std::move(server));
}

}  // namespace shoal
