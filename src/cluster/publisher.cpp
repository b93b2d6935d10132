#include "cluster/publisher.h"

#include <utility>

#include "base/log.h"
#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

constexpr Duration kPublishTimeout = std::chrono::seconds(2);
constexpr Duration kWithdrawTimeout = std::chrono::seconds(1);

}  // namespace

Publisher::Publisher(std::unique_ptr<Registry> registry, std::function<Rendezvous()> self)
    : registry_(std::move(registry)),
      self_(std::move(self)),
      repeater_("publisher", Duration::zero(), [this] {
        publish();
        return Registry::kRepublish;
      }) {}

Publisher::~Publisher() {
  repeater_.stop();
  registry_->withdraw(Deadline::after(kWithdrawTimeout));
}

void Publisher::publish() {
  const Rendezvous self = self_();
  const absl::Status status = registry_->publish(self, Deadline::after(kPublishTimeout));
  if (status == told_) return;
  told_ = status;
  if (status.ok()) {
    LogInfo("workers find '{}' by {}", self.name, registry_->what());
  } else {
    LogWarning("workers don't find '{}' by {}, tries again: {}", self.name, registry_->what(),
               Message(status));
  }
}

}  // namespace shoal
