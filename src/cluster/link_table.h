// What messages between the members of a cluster take, as they measured it themselves.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "cluster/member.h"
#include "plan/facts.h"

namespace shoal {

/// Keeps the links of a coordinator's members by pair. Safe from any thread.
class LinkTable {
 public:
  /// Measures the links that are not known, or that were measured more than kKeep ago: from here to each worker, one after
  /// the other, and then from each worker to those behind it, all workers at once, each with one peer at a time. A link
  /// that can't be measured (a member that does not answer, or a build that does not probe) stays as it was, and so does
  /// one that the deadline leaves no time for. For each peer of a member it takes some round trips, and 8 MiB or a quarter
  /// of a second; nothing where all are known. What was known of links of others is forgotten.
  void measure(const Members& members, Deadline deadline);

  /// Pairs that are kept.
  size_t size() const;
  /// All that are known, by the members' names now.
  std::vector<LinkFacts> links(const Members& members) const;

  static constexpr Duration kKeep = std::chrono::minutes(10);
  /// With more members only links with the coordinator are measured.
  static constexpr size_t kAllPairsMax = 24;

 private:
  using Pair =
      std::pair<std::string, std::string>;  ///< Addresses; "" is the coordinator's, which comes first.
  struct Entry {
    double rtt_us = 0;
    double mbs = 0;
    Clock::time_point at;
  };
  /// Members come and go, at new addresses.
  void forget_others(const Members& members);
  void keep(const Pair& pair, const PeerResult& result, Deadline deadline);
  bool known(const Pair& pair) const;
  void measure_peers(const MemberList& workers, size_t index, Deadline deadline);

  mutable std::mutex mutex_;
  std::map<Pair, Entry> entries_;
};

}  // namespace shoal
