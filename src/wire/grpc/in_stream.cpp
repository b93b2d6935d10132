// The listening port and the streams that peers dial, through gRPC's generic asynchronous API: one message
// per frame.
//
// Lifetimes: an operation in flight keeps its stream alive. Operations end in GrpcLoop::poll() and never
// while they begin, so the lock is held when they do.
#include <grpc/grpc.h>
#include <grpc/support/log.h>
#include <grpcpp/alarm.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "base/log.h"
#include "base/process.h"
#include "base/status.h"
#include "wire/grpc/credentials.h"
#include "wire/grpc/listener.h"
#include "wire/grpc/loop.h"
#include "wire/grpc/message.h"
#include "wire/grpc/streams.h"
#include "wire/inbox.h"

namespace shoal {
namespace {

constexpr Duration kDrainTimeout = std::chrono::seconds(5);
/// A connection without a call. A coordinator that had nothing to say for so long dials again.
constexpr Duration kIdleMax = std::chrono::minutes(5);

/// What all streams of a listening port share.
struct Acceptance {
  GrpcOptions options;
  std::shared_ptr<StreamAcceptor> acceptor;
  std::shared_ptr<GrpcLoop> loop;
  grpc::AsyncGenericService service;
};

class InCall final : public InStream, public std::enable_shared_from_this<InCall> {
 public:
  explicit InCall(std::shared_ptr<Acceptance> shared) : shared_(std::move(shared)) {}

  /// Waits for the next call of anybody.
  static void accept(const std::shared_ptr<Acceptance>& shared) {
    if (!shared->loop->enter()) return;
    const auto call = std::make_shared<InCall>(shared);
    call->context_.AsyncNotifyWhenDone(call->over_.begin(call));
    grpc::ServerCompletionQueue* queue = shared->loop->queue();
    shared->service.RequestCall(&call->context_, &call->call_, queue, queue, call->accepted_.begin(call));
  }

  ~InCall() override { shared_->loop->leave(); }

  void proceed(std::shared_ptr<StreamOwner> owner) override {
    const absl::Status answered = answer_hello(std::move(owner));
    if (!answered.ok()) return finish(answered);
    const std::lock_guard lock(mutex_);
    read();
  }

  void resume() override {
    const std::lock_guard lock(mutex_);
    if (std::exchange(paused_, false)) {
      read();
    } else {
      resume_early_ = true;  // The pause that this answers is about to begin.
    }
  }

  void finish(const absl::Status& status) override {
    std::unique_lock lock(mutex_);
    if (std::exchange(finishing_, true)) return;
    finish_status_ = status;
    const bool was_open = state_ == State::kOpen;
    lock.unlock();
    alarm_.Cancel();
    if (was_open) owner_->in_ended(peer_, this, status);
    lock.lock();
    finish_when_idle();
  }

 private:
  enum class State { kAwaitsHello, kParked, kAwaitsProof, kOpen };

  void on_accepted(bool ok) {
    if (!ok) return over_.abandon();  // The port is being closed: no call came, so none will be over.
    accept(shared_);
    if (context_.method() != kFramesMethod) {
      const std::lock_guard lock(mutex_);
      finishing_ = true;
      finish_status_ = absl::UnimplementedError("");
      return finish_when_idle();
    }
    alarm_.Set(shared_->loop->queue(), After(shared_->options.handshake_timeout),
               timed_out_.begin(shared_from_this()));
    const std::lock_guard lock(mutex_);
    read();
  }

  absl::Status answer_hello(std::shared_ptr<StreamOwner> owner) {
    ASSIGN_OR_RETURN(Hello ours, owner->hello(peer_));
    RETURN_IF_ERROR(CheckCaller(*context_.auth_context(), shared_->options.key, owner->name_of(peer_)));
    ResponderHandshake handshake(std::move(ours), shared_->options.key.shared);
    ASSIGN_OR_RETURN(Frame ack, handshake.on_hello(hello_));
    const std::lock_guard lock(mutex_);
    owner_ = std::move(owner);
    handshake_ = std::move(handshake);
    state_ = State::kAwaitsProof;
    write(std::move(ack));
    return absl::OkStatus();
  }

  // The next three with the lock held.

  /// Nothing is written any more: ends the call, once.
  void finish_when_idle() {
    if (!finishing_ || writing_ || std::exchange(finished_, true)) return;
    call_.Finish(ToGrpc(finish_status_), ended_.begin(shared_from_this()));
  }

  void read() {
    if (!finishing_) call_.Read(&incoming_, read_.begin(shared_from_this()));
  }

  void write(Frame frame) {
    if (finishing_) return;
    if (writing_) {  // gRPC takes one at a time; the answer to an ack may overtake the ack's completion.
      next_write_ = std::move(frame);
      return;
    }
    writing_ = true;
    call_.Write(ToByteBuffer(frame), written_.begin(shared_from_this()));
  }

  void on_written(bool ok) {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    if (std::optional<Frame> next = std::exchange(next_write_, std::nullopt); ok && next)
      write(*std::move(next));
    finish_when_idle();
  }

  void on_read(bool ok) {
    if (!ok) return finish(Unavailable("{} ended the stream", peer_text_));
    State state;
    {
      const std::lock_guard lock(mutex_);
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
      const std::lock_guard lock(mutex_);
      state_ = State::kParked;
    }
    shared_->acceptor->admit(shared_from_this(), hello);
    return absl::OkStatus();
  }

  absl::Status on_proof() {
    ASSIGN_OR_RETURN(const Frame proof, FromByteBuffer(incoming_, kHandshakeLimits));
    ASSIGN_OR_RETURN(Frame ready, handshake_->on_proof(proof));
    alarm_.Cancel();
    {
      const std::lock_guard lock(mutex_);
      if (finishing_) return absl::OkStatus();
      state_ = State::kOpen;
    }
    owner_->in_ready(peer_, shared_from_this());
    const std::lock_guard lock(mutex_);
    write(std::move(ready));
    read();
    return absl::OkStatus();
  }

  absl::Status on_frame() {
    ASSIGN_OR_RETURN(Frame frame, FromByteBuffer(incoming_, shared_->options.limits));
    incoming_.Clear();
    if (frame.header.sender != peer_) {
      return InvalidArgument("frame: {} says that it is from node {}", Describe(frame.header),
                             frame.header.sender);
    }
    const bool more = owner_->deliver(peer_, this, std::move(frame));
    const std::lock_guard lock(mutex_);
    if (more || std::exchange(resume_early_, false)) {
      // Asking for the next frame tells the peer that there is room for it, which takes as long as a send:
      // the one who waits for this frame has it first.
      shared_->loop->later([self = shared_from_this()] {
        const std::lock_guard locked(self->mutex_);
        self->read();
      });
    } else {
      paused_ = true;
    }
    return absl::OkStatus();
  }

  void on_handshake_timeout() {
    bool parked = false;
    {
      const std::lock_guard lock(mutex_);
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

  void on_over() {
    if (context_.IsCancelled()) finish(Unavailable("{} ended the stream", peer_text_));
  }

  const std::shared_ptr<Acceptance> shared_;
  grpc::GenericServerContext context_;
  grpc::GenericServerAsyncReaderWriter call_{&context_};
  grpc::Alarm alarm_;
  grpc::ByteBuffer incoming_;
  Frame hello_;
  NodeId peer_{-1};
  std::string peer_text_ = "a stranger";
  std::shared_ptr<StreamOwner> owner_;
  std::optional<ResponderHandshake> handshake_;
  Operation accepted_{[this](bool ok) { on_accepted(ok); }};
  Operation read_{[this](bool ok) { on_read(ok); }};
  Operation written_{[this](bool ok) { on_written(ok); }};
  Operation ended_{[](bool) {}};
  Operation over_{[this](bool) { on_over(); }};
  Operation timed_out_{[this](bool fired) {
    if (fired) on_handshake_timeout();
  }};

  std::mutex mutex_;
  State state_ = State::kAwaitsHello;
  std::optional<Frame> next_write_;
  bool writing_ = false;
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

class GrpcFrameServer final : public FrameServer {
 public:
  GrpcFrameServer(const GrpcOptions& options, std::shared_ptr<StreamAcceptor> acceptor)
      : shared_(std::make_shared<Acceptance>()) {
    shared_->options = options;
    shared_->acceptor = std::move(acceptor);
  }

  ~GrpcFrameServer() override {
    listener_ = nullptr;  // First: gRPC forgets to close a connection that it is handed later.
    if (server_ != nullptr) server_->Shutdown(After(Duration::zero()));
    if (shared_->loop != nullptr) shared_->loop->close(Deadline::after(kDrainTimeout));
  }

  absl::Status listen() {
    PrepareLibrary();
    const GrpcOptions& options = shared_->options;
    // Of a connection, before its first call; a stream has its own besides.
    const Duration beginning = std::max<Duration>(options.handshake_timeout, std::chrono::seconds(1));
    const int connections_max =
        static_cast<int>(std::min<int64_t>(options.connections_max, DescriptorLimit() / 2));
    ASSIGN_OR_RETURN(listener_,
                     Listener::Bind({.address = options.listen,
                                     .preface_timeout = beginning,
                                     .tls = options.key.tls != nullptr,
                                     .connections_max = connections_max,
                                     .per_address_max = std::min(options.connections_per_address_max,
                                                                 connections_max * 3 / 4)}));
    grpc::ServerBuilder builder;
    using Experimental = grpc::ServerBuilder::experimental_type;
    acceptor_ = builder.experimental().AddExternalConnectionAcceptor(
        Experimental::ExternalConnectionType::FROM_FD,
        ServerCredentialsOf(options.key, options.enrols ? Callers::kAll : Callers::kCertified));
    builder.RegisterAsyncGenericService(&shared_->service);
    // With it, the threads of other services of the port leave its sockets to the loop, too.
    shared_->loop = std::make_shared<GrpcLoop>(builder.AddCompletionQueue());
    for (grpc::Service* service : options.services) builder.RegisterService(service);
    // A little above the limit, so that FromByteBuffer refuses what is just too long, with numbers.
    builder.SetMaxReceiveMessageSize(static_cast<int>(options.limits.payload_bytes_max + (1 << 20)));
    builder.SetMaxSendMessageSize(-1);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, WholeMs(options.keepalive_interval));
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, WholeMs(options.keepalive_timeout));
    // Also where no call is open: a peer that gave up behind a black hole has closed its end, unheard.
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    // For strangers who begin well and then say nothing, or call nothing.
    builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, WholeMs(beginning));
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, WholeMs(kIdleMax));
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES,
                               0);  // Initiators ping as often as they were told to.
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) return Internal("gRPC does not start a server for {}", shared_->options.listen);
    InCall::accept(shared_);
    listener_->start([this](int fd) {
      grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
      connection.fd = fd;
      acceptor_->HandleNewConnection(&connection);
    });
    return absl::OkStatus();
  }

  int port() const override { return listener_->port(); }
  std::shared_ptr<GrpcLoop> loop() const override { return shared_->loop; }

 private:
  const std::shared_ptr<Acceptance> shared_;
  std::unique_ptr<Listener> listener_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor_;
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
