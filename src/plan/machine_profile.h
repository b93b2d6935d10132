// What `shoal profile` measured of a machine, as a value and as the text of the file that keeps it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "plan/facts.h"

namespace shoal {

/// What the rates of a machine depend on. Rates are kept for a machine until one of these changes.
struct MachineIdentity {
  std::string cpu;
  int32_t cores = 1;
  int32_t threads = 1;  ///< The most that were measured.
  std::string cpus;     ///< The list that they stay on; empty: wherever the system puts them.
  int64_t memory_bytes = 0;
  double quota_cpus = 0;  ///< 0: none.
  std::string isa;
  std::string version;  ///< Of the program.
  bool operator==(const MachineIdentity&) const = default;

  /// 16 hex digits of all of the above.
  std::string hash() const;
};

struct MachineProfile {
  MachineIdentity machine;
  int64_t measured_at = 0;         ///< Unix seconds.
  int32_t efficiency_cpus = 0;     ///< Slower by design.
  double disk_mbs = 0;             ///< Read from the cache folder's disk; 0: not known.
  std::vector<ThreadRates> rates;  ///< By ascending threads; not empty.
  bool operator==(const MachineProfile&) const = default;

  /// The rates of so many threads. Between numbers that were measured they are interpolated; beyond the last they are the
  /// last's.
  ThreadRates rates_of(int threads) const;
};

/// Raises rates that are too low to be right, of entries by ascending threads: more threads reach at least what fewer did,
/// and fewer at least their part of what more did. Who was lower was disturbed.
void Reconcile(std::vector<ThreadRates>& rates);

/// How long kept rates are used.
inline constexpr int64_t kProfileMaxAgeS = int64_t{14} * 24 * 3600;

/// Why the profile has to be measured anew for this machine; empty: it is good.
std::string WhyStale(const MachineProfile& profile, const MachineIdentity& machine, int64_t now_unix_s);

/// The text of the file.
std::string ProfileToJson(const MachineProfile& profile);

/// Reads that text, of at most 64 KiB. InvalidArgument names the place, what was expected and what was found.
absl::StatusOr<MachineProfile> ProfileFromJson(std::string_view text);

/// Numbers of threads to measure: every one up to four, then about four for each doubling, and `threads` itself. So many
/// more would tell little more and take longer.
std::vector<int> ThreadCountsToMeasure(int threads);

/// That rates are finite, not below zero and not beyond what any machine reaches: those that a peer says of itself.
absl::Status CheckRates(const ThreadRates& rates);

}  // namespace shoal
