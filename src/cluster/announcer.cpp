#include "cluster/announcer.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/status.h"

namespace shoal {
namespace {

/// Longer than a coordinator looks into an offer.
constexpr Duration kJoinTimeout = std::chrono::seconds(8);
constexpr Duration kFindTimeout = std::chrono::seconds(3);
constexpr Duration kPauseFirst = std::chrono::milliseconds(250);
constexpr Duration kPauseMax = std::chrono::seconds(3);
constexpr int kOffersPerLease = 3;

}  // namespace

Announcer::Announcer(Options options)
    : options_(std::move(options)), repeater_("announcer", Duration::zero(), [this] { return announce(); }) {}

Announcer::~Announcer() { leave({Clock::now()}); }

void Announcer::leave(Deadline deadline) {
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(leaves_, true)) return;
    if (client_ != nullptr) client_->cancel();
  }
  repeater_.stop();
  if (joined_.empty() || deadline.expired()) return;
  // On a client of its own: the other is cancelled.
  const absl::Status left = JoinClient(joined_, options_.key).leave(last_.name, last_.instance, deadline);
  if (!left.ok()) LogInfo("could not say goodbye: {}", Message(left));
}

absl::StatusOr<std::shared_ptr<JoinClient>> Announcer::client_of(const std::string& address) {
  const std::lock_guard lock(mutex_);
  if (leaves_) return Cancelled("the worker ends");
  if (client_ == nullptr || client_address_ != address) {
    client_ = std::make_shared<JoinClient>(address, options_.key);
    client_address_ = address;
  }
  return client_;
}

absl::StatusOr<JoinAnswer> Announcer::offer_to(const std::string& address) {
  JoinOffer offer = options_.offer(address);
  ASSIGN_OR_RETURN(const std::shared_ptr<JoinClient> client, client_of(address));
  ASSIGN_OR_RETURN(JoinAnswer answer, client->join(offer, Deadline::after(kJoinTimeout)));
  note(absl::OkStatus(), offer, answer);
  pause_ = kPauseFirst;
  const std::lock_guard lock(mutex_);
  joined_ = address;
  last_ = std::move(offer);
  return answer;
}

Duration Announcer::announce() {
  absl::Status error;
  const auto tell = [&](const absl::Status& status) {
    // A coordinator that answers says more than one that does not.
    if (error.ok() || absl::IsUnavailable(error)) error = status;
  };
  std::string joined;
  {
    const std::lock_guard lock(mutex_);
    joined = joined_;
  }
  if (!joined.empty()) {
    const auto answer = offer_to(joined);
    if (answer.ok()) return answer->lease / kOffersPerLease;
    tell(answer.status());
  }
  const auto found = options_.find(Deadline::after(kFindTimeout));
  if (!found.ok()) tell(found.status());
  for (const std::string& address : found.value_or(std::vector<std::string>())) {
    if (address == joined) continue;
    const auto answer = offer_to(address);
    if (answer.ok()) return answer->lease / kOffersPerLease;
    tell(answer.status());
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
