#include "cluster/publisher.h"

#include <utility>

#include "base/log.h"
#include "base/process.h"
#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

constexpr Duration kPublishTimeout = std::chrono::seconds(2);
constexpr Duration kWithdrawTimeout = std::chrono::seconds(1);

}  // namespace

Publisher::Publisher(std::unique_ptr<Registry> registry, std::function<Rendezvous()> self)
    : registry_(std::move(registry)), self_(std::move(self)), thread_([this] { run(); }) {}

Publisher::~Publisher() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  thread_.join();
  registry_->withdraw(Deadline::after(kWithdrawTimeout));
}

void Publisher::run() {
  NameThread("publisher");
  absl::Status told = absl::UnknownError("nothing was published so far");
  while (true) {
    const Rendezvous self = self_();
    const absl::Status status = registry_->publish(self, Deadline::after(kPublishTimeout));
    if (status != told) {
      if (status.ok()) {
        LogInfo("workers find '{}' by {}", self.name, registry_->what());
      } else {
        LogWarning("workers don't find '{}' by {}, tries again: {}", self.name, registry_->what(),
                   Message(status));
      }
    }
    told = status;
    std::unique_lock lock(mutex_);
    if (changed_.wait_for(lock, Registry::kRepublish, [this] { return stopping_; })) return;
  }
}

}  // namespace shoal
