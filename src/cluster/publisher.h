// Keeps a coordinator in a registry for as long as it is there.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "base/repeater.h"
#include "cluster/registry.h"

namespace shoal {

class Publisher {
 public:
  /// Publishes what `self` says, again and again, on a thread of its own. An error is a line in the log.
  Publisher(std::unique_ptr<Registry> registry, std::function<Rendezvous()> self);
  /// Withdraws it.
  ~Publisher();

 private:
  void publish();

  const std::unique_ptr<Registry> registry_;
  const std::function<Rendezvous()> self_;
  absl::Status told_ = absl::UnknownError("nothing was published so far");
  Repeater repeater_;
};

}  // namespace shoal
