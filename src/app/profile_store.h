// The profile of this machine: read from the user's cache folder, or measured and kept there.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "app/command.h"
#include "plan/machine_profile.h"

namespace shoal {

struct KeptProfile {
  MachineProfile profile;
  std::string path;     ///< Where it is kept; empty: nowhere.
  std::string why_new;  ///< Why it was measured now; empty: it was read.
};

/// The kept profile of this machine, for these flags; measured, in less than three seconds, where there is none, where it is
/// stale, or with `refresh`. One process measures at a time; others wait for what it found.
absl::StatusOr<KeptProfile> ProfileThisMachine(const ComputeFlags& compute, const ProfileFlags& flags,
                                               bool refresh);

/// The rates of the threads that `compute` chooses here. Nothing with --profile off, or where they can't be measured, which
/// is a line in the log: plans then divide by what is declared, as they do without rates.
std::optional<ThreadRates> RatesOfThisMachine(const ComputeFlags& compute, const ProfileFlags& flags);

}  // namespace shoal
