// Internal to the gRPC transport: the completion queue of an endpoint, and who polls it. gRPC's asynchronous
// API gives every operation back through a queue; the thread that polls the queue is also the one that reads
// the sockets. So an executor that waits for a frame takes it from the socket itself, and no thread has to be
// woken (docs/decisions/0009).
#pragma once

#include <grpcpp/completion_queue.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "wire/wakeup.h"

namespace shoal {

/// What gRPC is asked to do, over and over: read, write, ... While it is in flight it keeps alive what it
/// belongs to.
class Operation {
 public:
  /// `done` is called when it is over, once per begin(), by whoever polls; `ok` as gRPC defines it.
  explicit Operation(std::function<void(bool ok)> done) : done_(std::move(done)) {}
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;

  /// The tag for gRPC. Not while it is in flight.
  void* begin(std::shared_ptr<const void> owner) {
    owner_ = std::move(owner);
    return this;
  }
  /// It will never end.
  void abandon() { owner_ = nullptr; }
  static void End(void* tag, bool ok) {
    auto* operation = static_cast<Operation*>(tag);
    const auto owner = std::exchange(operation->owner_, nullptr);
    operation->done_(ok);
  }

 private:
  const std::function<void(bool ok)> done_;
  std::shared_ptr<const void> owner_;
};

/// Operations end one at a time, on the thread of whoever calls poll(). Where nobody does for a while, a
/// thread of its own does: pings are answered and control calls taken while an executor computes.
class GrpcLoop final : public InboxSource {
 public:
  explicit GrpcLoop(std::unique_ptr<grpc::ServerCompletionQueue> queue);
  /// After close().
  ~GrpcLoop() override;

  grpc::ServerCompletionQueue* queue() { return queue_.get(); }

  /// Somebody is about to begin operations, until as many calls of leave(). False once close() was called.
  bool enter();
  void leave();

  /// Has the next poll() call `begin` first. For what is begun at the end of an operation, and can wait until
  /// somebody waits again. Only where an operation ends.
  void later(std::function<void()> begin) { later_.push_back(std::move(begin)); }

  Polled poll(Deadline deadline, absl::FunctionRef<bool()> enough) override;
  void interrupt() override;

  /// Ends what has come to its end already, unless another thread is at it.
  void drain();

  /// Waits for `settled`, which `changed` tells of and which ended operations may bring about: they are ended
  /// here meanwhile. `lock` is held when it is called. False at the deadline.
  bool wait(std::unique_lock<std::mutex>& lock, std::condition_variable& changed, Deadline deadline,
            absl::FunctionRef<bool()> settled);

  /// Lets nobody enter any more, and waits until all have left.
  void close(Deadline deadline);

 private:
  Polled poll_queue(Deadline deadline, absl::FunctionRef<bool()> enough);
  void keep();

  std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  std::atomic<bool> polled_{false};  // One thread at a time: an interrupt() must reach the one that waits.
  std::atomic<int64_t> attended_ns_{0};  // When poll() was last called; the end of time during a long one.
  std::vector<std::function<void()>> later_;  // Of the thread that polls.
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t inside_ = 0;
  bool closing_ = false;
  bool drained_ = false;  // The queue is shut down and empty, or given up.
  std::thread keeper_;
};

}  // namespace shoal
