// A worker's side of a join: offers itself to a coordinator until it is taken, again and again as long as it is there, and
// says goodbye.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/repeater.h"
#include "cluster/control.h"

namespace shoal {

class Announcer {
 public:
  struct Options {
    /// Addresses of the coordinator; the first that answers is it. Asked until one takes the worker, and again where that
    /// one is away.
    std::function<absl::StatusOr<std::vector<std::string>>(Deadline deadline)> find;
    ClusterKey key;
    /// What to offer. Asked each time, as addresses change.
    std::function<JoinOffer(const std::string& coordinator)> offer;
  };
  /// Begins to offer, on a thread of its own.
  explicit Announcer(Options options);
  ~Announcer();

  /// Says goodbye where it was taken, and ends. Takes until `deadline` at most.
  void leave(Deadline deadline);

 private:
  /// One offer: to the coordinator that took the last, else to each address until one answers. The pause until the next.
  Duration announce();
  absl::StatusOr<JoinAnswer> offer_to(const std::string& address);
  /// Of the address; Cancelled once it is to end.
  absl::StatusOr<std::shared_ptr<JoinClient>> client_of(const std::string& address);
  /// Says what has changed since the last time.
  void note(const absl::Status& status, const JoinOffer& offer, const JoinAnswer& answer);

  const Options options_;
  // Of the thread alone.
  absl::Status told_ = absl::UnknownError("not asked yet");
  std::string told_address_;
  Duration pause_{};
  std::mutex mutex_;  ///< Guards what follows.
  bool leaves_ = false;
  std::shared_ptr<JoinClient> client_;  ///< Of the last call.
  std::string client_address_;
  std::string joined_;  ///< The address of the coordinator that took it; "": none did.
  JoinOffer last_;
  Repeater repeater_;
};

}  // namespace shoal
