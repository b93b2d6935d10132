// A transport as a task of an executor sees it: where another thread would block, the executor's other tasks go
// on.
#pragma once

#include <memory>

#include "exec/executor.h"
#include "wire/transport.h"

namespace shoal {

/// All calls but close(), wake() and stats() come from the task.
class TaskTransport final : public Transport {
 public:
  /// Shares the executor's wakeup. `inner` outlives this.
  TaskTransport(Transport& inner, Executor& executor) : inner_(inner), wakeup_(executor.wakeup()) {
    inner_.share(wakeup_);
  }
  /// The task that calls from now on.
  void bind(Executor::Task& task) { task_ = &task; }

  NodeId self() const override { return inner_.self(); }
  absl::Status connect(Deadline deadline) override { return inner_.connect(deadline); }
  absl::Status send(NodeId to, Frame frame, Deadline deadline) override;
  absl::StatusOr<Event> receive(Deadline deadline) override;
  absl::StatusOr<std::optional<Event>> take() override { return inner_.take(); }
  void share(std::shared_ptr<Wakeup> wakeup) override { inner_.share(std::move(wakeup)); }
  void wake() override { inner_.wake(); }
  TransportStats stats() const override { return inner_.stats(); }
  void close() override { inner_.close(); }

 private:
  Transport& inner_;
  const std::shared_ptr<Wakeup> wakeup_;
  Executor::Task* task_ = nullptr;
};

}  // namespace shoal
