#include "cluster/roster.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/status.h"

namespace shoal {

void Roster::reserve(std::map<std::string, std::string> addresses) {
  const std::lock_guard lock(mutex_);
  for (auto& [name, address] : addresses) reserved_[name] = std::move(address);
}

std::optional<std::string> Roster::renew(const JoinOffer& offer, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  const auto found = members_.find(offer.name);
  if (found == members_.end() || found->second.instance != offer.instance) return std::nullopt;
  JoinedMember& member = found->second;
  if (std::ranges::find(offer.addresses, member.address) == offer.addresses.end()) return std::nullopt;
  member.heard = now;
  member.rank = offer.rank;
  return member.address;
}

absl::Status Roster::may_join(const JoinOffer& offer, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  if (const auto taken = reserved_.find(offer.name); taken != reserved_.end()) {
    return FailedPrecondition(
        "'{}' is the name of the {} already. Give this worker another one: --name", offer.name,
        taken->second.empty() ? std::string("coordinator") : fmt::format("worker at {}", taken->second));
  }
  if (members_.contains(offer.name)) return absl::OkStatus();
  if (members_.size() >= rules_.members_max) (void)forget_locked(now);
  if (members_.size() < rules_.members_max) return absl::OkStatus();
  return ResourceExhausted("the coordinator has {} members that joined, the most allowed", members_.size());
}

absl::Status Roster::may_be_certified(const std::string& name) const {
  const auto lower = [](std::string text) {
    for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    return text;
  };
  const std::lock_guard lock(mutex_);
  const auto taken = [&](const auto& entry) {
    return entry.first != name && lower(entry.first) == lower(name);
  };
  if (std::ranges::none_of(reserved_, taken) && std::ranges::none_of(members_, taken))
    return absl::OkStatus();
  return FailedPrecondition(
      "'{}' is the name of a member already, but for upper and lower case. Give this worker another one: "
      "--name",
      name);
}

void Roster::admit(const JoinOffer& offer, const std::string& address, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  members_[offer.name] = {offer.name, address, offer.instance, offer.rank, now};
}

bool Roster::leave(const std::string& name, uint64_t instance) {
  const std::lock_guard lock(mutex_);
  const auto found = members_.find(name);
  if (found == members_.end() || found->second.instance != instance) return false;
  members_.erase(found);
  return true;
}

void Roster::answered(const std::string& name, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  if (const auto found = members_.find(name); found != members_.end()) found->second.heard = now;
}

std::vector<std::string> Roster::forget(Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  return forget_locked(now);
}

std::vector<std::string> Roster::forget_locked(Clock::time_point now) {
  std::vector<std::string> names;
  std::erase_if(members_, [&](const auto& entry) {
    if (now - entry.second.heard < rules_.forgotten_after) return false;
    names.push_back(entry.first);
    return true;
  });
  return names;
}

std::optional<JoinedMember> Roster::find(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto found = members_.find(name);
  return found == members_.end() ? std::nullopt : std::optional(found->second);
}

std::vector<JoinedMember> Roster::members() const {
  std::vector<JoinedMember> list;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, member] : members_) list.push_back(member);
  }
  std::ranges::stable_sort(list, {}, [](const JoinedMember& member) {
    return member.rank.value_or(std::numeric_limits<int32_t>::max());
  });
  return list;
}

}  // namespace shoal
