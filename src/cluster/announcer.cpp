#include "cluster/announcer.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/process.h"
#include "base/status.h"

namespace shoal {
namespace {

/// Longer than a coordinator looks into an offer.
constexpr Duration kJoinTimeout = std::chrono::seconds(8);
constexpr Duration kPauseFirst = std::chrono::milliseconds(250);
constexpr Duration kPauseMax = std::chrono::seconds(3);
constexpr int kOffersPerLease = 3;

}  // namespace

Announcer::Announcer(Options options) : options_(std::move(options)) {
  for (const std::string& address : options_.coordinators)
    clients_.push_back(std::make_unique<JoinClient>(address, options_.key));
  thread_ = std::thread([this] { run(); });
}

Announcer::~Announcer() { leave({Clock::now()}); }

void Announcer::leave(Deadline deadline) {
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(stopping_, true)) return;
    changed_.notify_all();
  }
  for (const auto& client : clients_) client->cancel();
  thread_.join();
  if (joined_ == nullptr || deadline.expired()) return;
  // On a client of its own: the others are cancelled.
  const auto joined =
      std::ranges::find_if(clients_, [this](const auto& one) { return one.get() == joined_; });
  const std::string& address = options_.coordinators[static_cast<size_t>(joined - clients_.begin())];
  const absl::Status left = JoinClient(address, options_.key).leave(last_.name, last_.instance, deadline);
  if (!left.ok()) LogInfo("could not say goodbye: {}", Message(left));
}

void Announcer::run() {
  NameThread("announcer");
  while (true) {
    const Duration pause = announce();
    std::unique_lock lock(mutex_);
    if (changed_.wait_for(lock, pause, [this] { return stopping_; })) return;
  }
}

Duration Announcer::announce() {
  absl::Status error;
  for (size_t i = 0; i < clients_.size(); ++i) {
    JoinOffer offer = options_.offer(options_.coordinators[i]);
    const auto answer = clients_[i]->join(offer, Deadline::after(kJoinTimeout));
    if (answer.ok()) {
      note(absl::OkStatus(), offer, *answer);
      pause_ = kPauseFirst;
      const std::lock_guard lock(mutex_);
      joined_ = clients_[i].get();
      last_ = std::move(offer);
      return answer->lease / kOffersPerLease;
    }
    // A coordinator that answers says more than one that does not.
    if (error.ok() || absl::IsUnavailable(error)) error = answer.status();
  }
  note(error, {}, {});
  pause_ = std::clamp(pause_ + pause_ / 2, kPauseFirst, kPauseMax);
  return pause_;
}

void Announcer::note(const absl::Status& status, const JoinOffer& offer, const JoinAnswer& answer) {
  if (absl::IsCancelled(status)) return;
  if (status.ok() && (!told_.ok() || told_address_ != answer.address)) {
    LogInfo("joined the coordinator '{}' as '{}', reached at {}", answer.coordinator, offer.name,
            answer.address);
    told_address_ = answer.address;
  } else if (!status.ok() && told_ != status) {
    LogWarning("not joined yet, tries again: {}", Message(status));
  }
  told_ = status;
}

}  // namespace shoal
