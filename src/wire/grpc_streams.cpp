// The only file that sees gRPC: the generic callback API, one ByteBuffer of slices per frame, no protobuf
// message.
//
// Lifetimes: a reactor keeps itself alive (self_) from its start until gRPC's OnDone. Locks are never held
// while calling into gRPC, which may call back on the same thread; flags (writing_, starting_) keep a call
// that has left the lock from meeting the end of the stream instead.
#include "wire/grpc_streams.h"

#include <grpc/support/log.h>
#include <grpcpp/alarm.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <utility>

#include "base/log.h"
#include "base/status.h"
#include "wire/inbox.h"

namespace shoal {
namespace {

constexpr char kMethod[] = "/shoal.v1.Wire/Frames";

absl::Status FromGrpc(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

grpc::Status ToGrpc(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), Message(status));
}

/// A deadline for gRPC, counted from now by its own clock.
gpr_timespec After(Duration duration) { return gpr_time_from_nanos(duration.count(), GPR_TIMESPAN); }

/// Header and payload as slices of one message. The payload is not copied: its slice keeps the buffer alive.
grpc::ByteBuffer ToByteBuffer(const Frame& frame) {
  const auto header = EncodeHeader(frame.header, frame.payload.bytes());
  grpc::Slice slices[2] = {grpc::Slice(header.data(), header.size())};
  if (frame.payload.empty()) return {slices, 1};
  auto* keep = new Buffer(frame.payload);
  slices[1] = grpc::Slice(
      const_cast<std::byte*>(keep->data()), keep->size(), [](void* p) { delete static_cast<Buffer*>(p); },
      keep);
  return {slices, 2};
}

/// The one copy on the receiving side: from gRPC's slices into aligned memory, after the size is found
/// bearable.
absl::StatusOr<Frame> FromByteBuffer(const grpc::ByteBuffer& message, const FrameLimits& limits) {
  const size_t total = message.Length();
  if (total > kFrameHeaderBytes && total - kFrameHeaderBytes > limits.payload_bytes_max) {
    return ResourceExhausted("frame: a payload of {} bytes is above the limit of {}",
                             total - kFrameHeaderBytes, limits.payload_bytes_max);
  }
  std::vector<grpc::Slice> slices;
  const grpc::Status dumped = message.Dump(&slices);
  if (!dumped.ok()) return Annotate(FromGrpc(dumped), "frame");
  auto block = AllocateWireBytes(total);
  size_t at = 0;
  for (const grpc::Slice& slice : slices) {
    std::memcpy(block.get() + at, slice.begin(), slice.size());
    at += slice.size();
  }
  const std::span<const std::byte> view(block.get(), total);
  return DecodeFrameInPlace(Buffer(std::move(block), view), limits);
}

class OutReactor final : public OutStream,
                         public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                         public std::enable_shared_from_this<OutReactor> {
 public:
  explicit OutReactor(const Config& config)
      : peer_(config.peer),
        text_(fmt::format("{} at {}", PeerText(peer_.node, peer_.name), peer_.address)),
        window_(config.options->window),
        handshake_deadline_(Deadline::after(config.options->handshake_timeout)),
        owner_(config.owner),
        handshake_(config.hello, config.options->key),
        channel_(MakeChannel(*config.options, peer_.address)),
        stub_(channel_) {}

  void start() override {
    self_ = shared_from_this();
    stub_.PrepareBidiStreamingCall(&context_, kMethod, {}, this);
    AddHold();  // Until ending_: send() writes from outside gRPC's reactions.
    std::unique_lock lock(mutex_);
    enqueue(handshake_.hello());
    pump(lock);
    StartRead(&incoming_);
    StartCall();
  }

  absl::Status wait_ready(Deadline deadline) override {
    std::unique_lock lock(mutex_);
    const auto settled = [this] { return state_ == State::kReady || state_ == State::kEnded; };
    if (!changed_.wait_until(lock, Deadline::min(deadline, handshake_deadline_).at, settled)) {
      absl::Status late = DeadlineExceeded("{}: the handshake did not end in time", text_);
      if (!handshake_deadline_.expired()) return late;
      lock.unlock();
      cancel(late);
      return late;
    }
    return state_ == State::kReady ? absl::OkStatus() : error_;
  }

  absl::Status send(Frame frame, Deadline deadline) override {
    const uint64_t bytes = FrameBytes(frame);
    std::unique_lock lock(mutex_);
    const auto settled = [&] { return state_ == State::kEnded || (!ending_ && has_room(bytes)); };
    if (!changed_.wait_until(lock, deadline.at, settled)) {
      return DeadlineExceeded("{} takes nothing in: {} frames, {} bytes wait to be written", text_,
                              unwritten_frames_, unwritten_bytes_);
    }
    if (state_ == State::kEnded) return error_;
    enqueue(std::move(frame));
    pump(lock);
    return absl::OkStatus();
  }

  void cancel(const absl::Status& why) override {
    {
      std::lock_guard lock(mutex_);
      if (local_error_.ok()) local_error_ = why;
    }
    context_.TryCancel();  // The outstanding read fails, which ends the stream.
  }

 private:
  enum class State { kAwaitsAck, kAwaitsReady, kReady, kEnded };

  static std::shared_ptr<grpc::Channel> MakeChannel(const GrpcOptions& options, const std::string& address) {
    using std::chrono::milliseconds;
    grpc::ChannelArguments args;
    args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS,
                static_cast<int>(std::chrono::ceil<milliseconds>(options.keepalive_interval).count()));
    args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                static_cast<int>(std::chrono::ceil<milliseconds>(options.keepalive_timeout).count()));
    args.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);  // 0: as many as needed.
    args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);     // A connection of its own, dialled afresh.
    args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);  // Nodes talk directly, whatever the environment says.
    args.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);     // A retry would buffer frames and send them twice.
    args.SetMaxReceiveMessageSize(static_cast<int>(kFrameHeaderBytes + kHandshakeLimits.payload_bytes_max));
    args.SetMaxSendMessageSize(-1);
    return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), args);
  }

  bool has_room(uint64_t bytes) const {
    if (unwritten_frames_ == 0) return true;  // One frame always fits, however large.
    return unwritten_frames_ < window_.frames_max && unwritten_bytes_ + bytes <= window_.bytes_max;
  }

  void enqueue(Frame frame) {
    unwritten_bytes_ += FrameBytes(frame);
    unwritten_frames_ += 1;
    queue_.push_back(std::move(frame));
  }

  /// Starts the next write unless one is under way. Unlocks.
  void pump(std::unique_lock<std::mutex>& lock) {
    if (writing_ || ending_ || queue_.empty()) {
      lock.unlock();
      return;
    }
    writing_ = true;
    const Frame frame = std::move(queue_.front());
    queue_.pop_front();
    writing_bytes_ = FrameBytes(frame);
    grpc::WriteOptions options;
    if (!queue_.empty())
      options.set_buffer_hint();  // More follows at once: let gRPC put them into one packet.
    lock.unlock();
    outgoing_ = ToByteBuffer(frame);
    StartWrite(&outgoing_, options);
  }

  void OnWriteDone(bool ok) override {
    std::unique_lock lock(mutex_);
    writing_ = false;
    outgoing_.Clear();
    unwritten_bytes_ -= writing_bytes_;
    unwritten_frames_ -= 1;
    if (!ok) ending_ = true;
    changed_.notify_all();
    if (ending_) {
      release(lock);
    } else {
      pump(lock);
    }
  }

  void OnReadDone(bool ok) override {
    if (!ok) return end();
    const absl::Status read = on_message();
    if (read.ok()) return StartRead(&incoming_);
    cancel(Annotate(read, text_));
    end();
  }

  absl::Status on_message() {
    ASSIGN_OR_RETURN(const Frame frame, FromByteBuffer(incoming_, kHandshakeLimits));
    std::unique_lock lock(mutex_);
    switch (state_) {
      case State::kAwaitsAck: {
        ASSIGN_OR_RETURN(Frame proof, handshake_.on_ack(frame));
        state_ = State::kAwaitsReady;
        enqueue(std::move(proof));
        pump(lock);
        return absl::OkStatus();
      }
      case State::kAwaitsReady: {
        RETURN_IF_ERROR(ExpectKind(frame, FrameKind::kReady));
        lock.unlock();
        if (const auto owner = owner_.lock()) owner->out_ready(peer_.node);
        lock.lock();
        state_ = State::kReady;
        changed_.notify_all();
        return absl::OkStatus();
      }
      default:
        return InvalidArgument("expected no frame in this direction, got {}", Describe(frame.header));
    }
  }

  /// No read is outstanding and none will be: the stream ends when its last write is done.
  void end() {
    std::unique_lock lock(mutex_);
    ending_ = true;
    release(lock);
  }

  /// Unlocks.
  void release(std::unique_lock<std::mutex>& lock) {
    const bool now = !writing_ && !released_;
    released_ = released_ || now;
    lock.unlock();
    if (now) RemoveHold();
  }

  void OnDone(const grpc::Status& status) override {
    bool was_ready = false;
    absl::Status error;
    {
      std::lock_guard lock(mutex_);
      was_ready = state_ == State::kReady;
      state_ = State::kEnded;
      queue_.clear();
      if (!local_error_.ok()) {
        error = local_error_;
      } else if (was_ready) {
        error =
            Unavailable("{} ended the stream: {}", text_, status.ok() ? "OK" : ToString(FromGrpc(status)));
      } else if (status.ok()) {
        error = Unavailable("{} ended the stream during the handshake", text_);
      } else {
        error = Annotate(FromGrpc(status), text_);
      }
      error_ = error;
      changed_.notify_all();
    }
    if (const auto owner = owner_.lock()) owner->out_ended(peer_.node, this, error, was_ready);
    self_.reset();
  }

  const PeerAddress peer_;
  const std::string text_;
  const WindowLimits window_;
  const Deadline handshake_deadline_;
  const std::weak_ptr<StreamOwner> owner_;
  DiallerHandshake handshake_;
  const std::shared_ptr<grpc::Channel> channel_;
  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  std::shared_ptr<OutReactor> self_;
  grpc::ByteBuffer incoming_;
  grpc::ByteBuffer outgoing_;  // Belongs to whoever set writing_.

  std::mutex mutex_;
  std::condition_variable changed_;
  State state_ = State::kAwaitsAck;
  std::deque<Frame> queue_;
  uint64_t unwritten_bytes_ = 0;  // Of the queue and of the write under way.
  uint64_t unwritten_frames_ = 0;
  uint64_t writing_bytes_ = 0;
  bool writing_ = false;
  bool ending_ = false;
  bool released_ = false;
  absl::Status local_error_;  // Why we ended it ourselves.
  absl::Status error_;        // Set with kEnded.
};

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

class GrpcFrameServer final : public FrameServer, private grpc::CallbackGenericService {
 public:
  GrpcFrameServer(const GrpcOptions& options, std::shared_ptr<StreamAcceptor> acceptor)
      : options_(options), acceptor_(std::move(acceptor)) {}

  ~GrpcFrameServer() override {
    if (server_ != nullptr) server_->Shutdown(After(Duration::zero()));
  }

  absl::Status listen() {
    using std::chrono::milliseconds;
    // Whatever gRPC has to say reaches people as our own errors; its text helps only who debugs.
    gpr_set_log_function([](gpr_log_func_args* args) { LogDebug("gRPC: {}", args->message); });
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
    if (context->method() != kMethod) return grpc::CallbackGenericService::CreateReactor(context);
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

std::shared_ptr<OutStream> OutStream::make(const Config& config) {
  return std::make_shared<OutReactor>(config);
}

absl::StatusOr<std::unique_ptr<FrameServer>> FrameServer::start(const GrpcOptions& options,
                                                                std::shared_ptr<StreamAcceptor> acceptor) {
  auto server = std::make_unique<GrpcFrameServer>(options, std::move(acceptor));
  RETURN_IF_ERROR(server->listen());
  return std::unique_ptr<FrameServer>(std::move(server));
}

}  // namespace shoal
