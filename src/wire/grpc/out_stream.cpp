// A stream that we dial, through gRPC's generic asynchronous API: one message per frame.
//
// Lifetimes: an operation in flight keeps its stream alive. Operations end in GrpcLoop::poll() and never
// while they begin, so the lock is held when they do.
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <utility>

#include "base/status.h"
#include "wire/grpc/credentials.h"
#include "wire/grpc/loop.h"
#include "wire/grpc/message.h"
#include "wire/grpc/streams.h"
#include "wire/inbox.h"

namespace shoal {
namespace {

class OutCall final : public OutStream, public std::enable_shared_from_this<OutCall> {
 public:
  explicit OutCall(const Config& config)
      : peer_(config.peer),
        text_(fmt::format("{} at {}", PeerText(peer_.node, peer_.name), peer_.address)),
        window_(config.options->window),
        handshake_deadline_(Deadline::after(config.options->handshake_timeout)),
        owner_(config.owner),
        loop_(config.loop),
        handshake_(config.hello, config.options->key.shared),
        channel_(MakeChannel(*config.options, peer_)),
        stub_(channel_) {}

  void start() override {
    if (!loop_->enter()) return on_ended();  // The endpoint is going away: the status is still OK, "ended".
    const std::lock_guard lock(mutex_);
    call_ = stub_.PrepareCall(&context_, kFramesMethod, loop_->queue());
    call_->StartCall(started_.begin(shared_from_this()));
  }

  absl::Status wait_ready(Deadline deadline) override {
    std::unique_lock lock(mutex_);
    const auto settled = [this] { return state_ == State::kReady || state_ == State::kEnded; };
    if (!loop_->wait(lock, changed_, Deadline::min(deadline, handshake_deadline_), settled)) {
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
    if (!loop_->wait(lock, changed_, deadline, settled)) {
      return DeadlineExceeded("{} takes nothing in: {} frames, {} bytes wait to be written", text_,
                              unwritten_frames_, unwritten_bytes_);
    }
    if (state_ == State::kEnded) return error_;
    enqueue(std::move(frame));
    pump();
    if (queue_.empty()) return absl::OkStatus();
    // It waits for a write that may have ended long ago, if only somebody looked.
    lock.unlock();
    loop_->drain();
    return absl::OkStatus();
  }

  void cancel(const absl::Status& why) override {
    {
      const std::lock_guard lock(mutex_);
      if (local_error_.ok()) local_error_ = why;
    }
    context_.TryCancel();  // The outstanding read fails, which ends the stream.
  }

  uint64_t bytes_waiting() const override {
    const std::lock_guard lock(mutex_);
    return unwritten_bytes_;
  }

 private:
  enum class State { kAwaitsAck, kAwaitsReady, kReady, kEnded };

  static std::shared_ptr<grpc::Channel> MakeChannel(const GrpcOptions& options, const PeerAddress& peer) {
    grpc::ChannelArguments args;
    args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, WholeMs(options.keepalive_interval));
    args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, WholeMs(options.keepalive_timeout));
    args.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);  // 0: as many as needed.
    args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);     // A connection of its own, dialled afresh.
    args.SetInt(GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS,
                500);                            // Else 30 s, though each stream has a channel.
    args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);  // Nodes talk directly, whatever the environment says.
    args.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);     // A retry would buffer frames and send them twice.
    args.SetMaxReceiveMessageSize(static_cast<int>(kFrameHeaderBytes + kHandshakeLimits.payload_bytes_max));
    args.SetMaxSendMessageSize(-1);
    return ChannelTo(peer.address, options.key, peer.name, std::move(args));
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

  /// Starts the next write unless one is in flight.
  void pump() {
    if (writing_ || ending_ || queue_.empty()) return;
    writing_ = true;
    const Frame frame = std::move(queue_.front());
    queue_.pop_front();
    writing_bytes_ = FrameBytes(frame);
    grpc::WriteOptions options;
    if (!queue_.empty())
      options.set_buffer_hint();  // More follows at once: let gRPC put them into one packet.
    call_->Write(ToByteBuffer(frame), options, written_.begin(shared_from_this()));
  }

  void read() {
    reading_ = true;
    call_->Read(&incoming_, read_.begin(shared_from_this()));
  }

  void on_started(bool ok) {
    const std::lock_guard lock(mutex_);
    if (!ok) return end();
    enqueue(handshake_.hello());
    pump();
    read();
  }

  void on_written(bool ok) {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    unwritten_bytes_ -= writing_bytes_;
    unwritten_frames_ -= 1;
    changed_.notify_all();
    if (!ok || ending_) return end();
    pump();
  }

  void on_read(bool ok) {
    const absl::Status handled = ok ? on_message() : absl::OkStatus();
    if (!handled.ok()) cancel(Annotate(handled, text_));
    const std::lock_guard lock(mutex_);
    reading_ = false;
    if (ok && handled.ok()) {
      read();
    } else {
      end();
    }
  }

  absl::Status on_message() {
    ASSIGN_OR_RETURN(const Frame frame, FromByteBuffer(incoming_, kHandshakeLimits));
    std::unique_lock lock(mutex_);
    switch (state_) {
      case State::kAwaitsAck: {
        ASSIGN_OR_RETURN(Frame proof, handshake_.on_ack(frame));
        state_ = State::kAwaitsReady;
        enqueue(std::move(proof));
        pump();
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

  /// The stream is over: asks for its status, once, when neither a read nor a write is in flight.
  void end() {
    ending_ = true;
    if (writing_ || reading_ || std::exchange(finishing_, true)) return;
    call_->Finish(&status_, finished_.begin(shared_from_this()));
  }

  void on_ended() {
    bool was_ready = false;
    absl::Status error;
    {
      const std::lock_guard lock(mutex_);
      was_ready = state_ == State::kReady;
      state_ = State::kEnded;
      queue_.clear();
      if (!local_error_.ok()) {
        error = local_error_;
      } else if (was_ready) {
        error =
            Unavailable("{} ended the stream: {}", text_, status_.ok() ? "OK" : ToString(FromGrpc(status_)));
      } else if (status_.ok()) {
        error = Unavailable("{} ended the stream during the handshake", text_);
      } else {
        error = Annotate(FromGrpc(status_), text_);
      }
      error_ = error;
      changed_.notify_all();
    }
    if (const auto owner = owner_.lock()) owner->out_ended(peer_.node, this, error, was_ready);
  }

  const PeerAddress peer_;
  const std::string text_;
  const WindowLimits window_;
  const Deadline handshake_deadline_;
  const std::weak_ptr<StreamOwner> owner_;
  const std::shared_ptr<GrpcLoop> loop_;
  InitiatorHandshake handshake_;
  const std::shared_ptr<grpc::Channel> channel_;
  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
  grpc::ByteBuffer incoming_;
  grpc::Status status_;
  Operation started_{[this](bool ok) { on_started(ok); }};
  Operation read_{[this](bool ok) { on_read(ok); }};
  Operation written_{[this](bool ok) { on_written(ok); }};
  Operation finished_{[this](bool) {
    on_ended();
    loop_->leave();
  }};

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  State state_ = State::kAwaitsAck;
  std::deque<Frame> queue_;
  uint64_t unwritten_bytes_ = 0;  // Of the queue and of the write in flight.
  uint64_t unwritten_frames_ = 0;
  uint64_t writing_bytes_ = 0;
  bool writing_ = false;
  bool reading_ = false;
  bool ending_ = false;
  bool finishing_ = false;
  absl::Status local_error_;  // Why we ended it ourselves.
  absl::Status error_;        // Set with kEnded.
};

}  // namespace

std::shared_ptr<OutStream> OutStream::make(const Config& config) { return std::make_shared<OutCall>(config); }

}  // namespace shoal
