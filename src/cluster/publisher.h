// Keeps a coordinator in a registry for as long as it is there.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "cluster/registry.h"

namespace shoal {

class Publisher {
 public:
  /// Publishes what `self` says, again and again, on a thread of its own. An error is a line in the log.
  Publisher(std::unique_ptr<Registry> registry, std::function<Rendezvous()> self);
  /// Withdraws it.
  ~Publisher();

 private:
  void run();

  const std::unique_ptr<Registry> registry_;
  const std::function<Rendezvous()> self_;
  std::mutex mutex_;  ///< Guards what follows.
  std::condition_variable changed_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace shoal
