#include "cluster/link_table.h"

#include <algorithm>
#include <set>

#include "base/log.h"
#include "base/status.h"

namespace shoal {
namespace {

/// At most, on a fast link; a slow one is told by less (ProbePeer).
constexpr int64_t kProbeBytes = int64_t{8} << 20;
/// For one link: a few round trips and the bytes. What is slower than that is no link for layers.
constexpr Duration kProbeMax = std::chrono::seconds(2);
/// What fails with less time left says nothing of its link.
constexpr Duration kTooLittle = std::chrono::milliseconds(10);

}  // namespace

void LinkTable::keep(const Pair& pair, const PeerResult& result, Deadline deadline) {
  const double trip_s = SecondsOf(result.round_trip);
  if (!result.status.ok() || trip_s <= 0) {
    if (deadline.remaining() < kTooLittle) return;  // It was cut short.
    // Not asked again and again: it stays what it was.
    const std::lock_guard lock(mutex_);
    entries_[pair].at = Clock::now();
    return;
  }
  const std::lock_guard lock(mutex_);
  entries_[pair] = {.rtt_us = 1e6 * trip_s,
                    .mbs = 1e-6 * static_cast<double>(std::max<int64_t>(result.bytes_per_second, 0)),
                    .at = Clock::now()};
}

bool LinkTable::known(const Pair& pair) const {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(pair);
  return found != entries_.end() && Clock::now() - found->second.at < kKeep;
}

size_t LinkTable::size() const {
  const std::lock_guard lock(mutex_);
  return entries_.size();
}

void LinkTable::forget_others(const Members& members) {
  std::set<std::string> addresses;
  for (const std::shared_ptr<Member>& member : members.all())
    addresses.insert(member->is_self() ? "" : member->address());
  const std::lock_guard lock(mutex_);
  std::erase_if(entries_, [&](const auto& entry) {
    return !addresses.contains(entry.first.first) || !addresses.contains(entry.first.second);
  });
}

void LinkTable::measure(const Members& members, Deadline deadline) {
  forget_others(members);
  MemberList workers;
  for (const std::shared_ptr<Member>& member : members.all()) {
    if (member->is_self()) continue;
    const MemberStatus status = member->status();
    if (status.facts.has_value() && status.state != MemberState::kLost) workers.push_back(member);
  }
  // One after the other: at the same time they would share this machine's link.
  for (const std::shared_ptr<Member>& member : workers) {
    const Pair pair{"", member->address()};
    if (deadline.expired()) return;
    if (known(pair)) continue;
    keep(pair, member->probe(kProbeBytes, Deadline::min(deadline, Deadline::after(kProbeMax))), deadline);
  }
  if (workers.size() > kAllPairsMax) return;
  ForEachMember(workers, [&](size_t index, Member&) {
    measure_peers(workers, index, deadline);
    return absl::OkStatus();
  });
}

/// From one worker to those behind it, one after the other: at the same time they would share its link.
void LinkTable::measure_peers(const MemberList& workers, size_t index, Deadline deadline) {
  const Member& member = *workers[index];
  for (size_t other = index + 1; other < workers.size() && !deadline.expired(); ++other) {
    const Pair pair{member.address(), workers[other]->address()};
    if (known(pair)) continue;
    const auto results = member.client()->check_peers({.peers = {{workers[other]->name(), pair.second}},
                                                       .probe_bytes = kProbeBytes,
                                                       .timeout = std::min(kProbeMax, deadline.remaining())});
    if (!results.ok() || results->size() != 1) {
      LogDebug("link of {} to {}: {}", member.name(), workers[other]->name(), Message(results.status()));
      keep(pair, {.status = Unavailable("not measured")}, deadline);
      continue;
    }
    keep(pair, results->front(), deadline);
  }
}

std::vector<LinkFacts> LinkTable::links(const Members& members) const {
  std::map<std::string, std::string> names;
  for (const std::shared_ptr<Member>& member : members.all()) {
    names[member->is_self() ? "" : member->address()] = member->name();
  }
  std::vector<LinkFacts> links;
  const std::lock_guard lock(mutex_);
  for (const auto& [pair, entry] : entries_) {
    const auto a = names.find(pair.first);
    const auto b = names.find(pair.second);
    if (a == names.end() || b == names.end() || entry.rtt_us <= 0) continue;
    links.push_back({a->second, b->second, entry.rtt_us, entry.mbs});
  }
  return links;
}

}  // namespace shoal
