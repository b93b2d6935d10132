#include "app/profile_store.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "base/file_handle.h"
#include "base/file_lock.h"
#include "base/log.h"
#include "base/status.h"
#include "cpu/topology.h"
#include "measure/kernel_rates.h"

namespace shoal {
namespace {

constexpr char kNoProfile[] = "off";
constexpr int64_t kFileMax = 64 << 10;

struct Machine {
  Topology topology;
  MachineIdentity identity;
  Isa isa = Isa::kReference;
  std::vector<int> cpus;
};

absl::StatusOr<Machine> ThisMachine(const ComputeFlags& compute) {
  Machine machine;
  machine.topology = ReadTopology();
  ASSIGN_OR_RETURN(machine.isa, compute.chosen_isa());
  ASSIGN_OR_RETURN(machine.cpus, compute.chosen_cpus());
  const int threads = machine.cpus.empty() ? std::max(machine.topology.cores, compute.chosen_threads())
                                           : compute.chosen_threads();
  machine.identity = {.cpu = machine.topology.cpu_name,
                      .cores = machine.topology.cores,
                      .threads = threads,
                      .cpus = compute.cpus,
                      .memory_bytes = machine.topology.memory_bytes,
                      .quota_cpus = machine.topology.quota_cpus,
                      .isa = std::string(IsaName(machine.isa)),
                      .version = kShoalVersion};
  return machine;
}

absl::StatusOr<MachineProfile> Measure(const Machine& machine, const std::string& folder) {
  constexpr int64_t kWeightsMin = int64_t{64} << 20;
  constexpr int64_t kWeightsMax = int64_t{512} << 20;
  constexpr double kBudgetsPerCount = 5.75;
  const std::vector<int> counts = ThreadCountsToMeasure(machine.identity.threads);
  const double budget_s =
      std::clamp(1.6 / (kBudgetsPerCount * static_cast<double>(counts.size())), 0.03, 0.12);
  const int64_t weights = std::min(std::clamp(3 * machine.topology.l3_bytes, kWeightsMin, kWeightsMax),
                                   machine.topology.memory_available_bytes / 8);
  ASSIGN_OR_RETURN(const KernelMeter meter, KernelMeter::Create(machine.identity.threads,
                                                                {.isa = machine.isa,
                                                                 .cpus = machine.cpus,
                                                                 .weight_bytes = weights,
                                                                 .budget = FromSeconds(budget_s),
                                                                 .quota_cpus = machine.topology.quota_cpus}));
  MachineProfile profile{.machine = machine.identity,
                         .measured_at = UnixSeconds(),
                         .efficiency_cpus = machine.topology.efficiency_cpus};
  for (const int threads : counts) profile.rates.push_back(meter.measure(threads));
  Reconcile(profile.rates);
  for (const ThreadRates& rates : profile.rates) RETURN_IF_ERROR(CheckRates(rates));
  profile.disk_mbs = folder.empty() ? 0 : MeasureDiskRead(folder);
  return profile;
}

/// Why the file at `path` is of no use; empty: `profile` is what it holds.
std::string WhyNotKept(const std::string& path, const MachineIdentity& machine, MachineProfile& profile) {
  const absl::StatusOr<std::string> text = ReadTextFile(path, kFileMax);
  if (!text.ok()) return "there was none";
  absl::StatusOr<MachineProfile> read = ProfileFromJson(*text);
  if (!read.ok()) return Message(read.status());
  profile = *std::move(read);
  return WhyStale(profile, machine, UnixSeconds());
}

/// Deletes profiles but those that were written last: each version, set of CPUs and quota has one of its own.
void DropOldest(const std::string& folder) {
  constexpr size_t kKept = 16;
  std::vector<std::pair<std::filesystem::file_time_type, std::filesystem::path>> profiles;
  std::error_code error;
  for (const auto& file : std::filesystem::directory_iterator(folder, error)) {
    if (file.path().extension() != ".json" || !file.is_regular_file(error)) continue;
    profiles.emplace_back(file.last_write_time(error), file.path());
  }
  std::ranges::sort(profiles, std::greater());
  for (size_t i = kKept; i < profiles.size(); ++i) std::filesystem::remove(profiles[i].second, error);
}

/// Holds the lock of whoever measures on this machine, or none after a few seconds: two that measure at once are only slow.
FileHandle WaitForTurn(const std::string& folder) {
  const Deadline end = Deadline::after(std::chrono::seconds(6));
  while (true) {
    absl::StatusOr<FileLock> lock = TryLockFile(folder + "/.measuring");
    if (!lock.ok()) return FileHandle();
    if (lock->held || end.expired()) return std::move(lock->file);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

}  // namespace

void ProfileFlags::add_to(Flags app) {
  app.add_option("--profile", where,
                 "Folder that keeps what this machine was measured to reach, for plans, or off (default: "
                 "shoal/profiles in the user's cache folder)")
      .envname("SHOAL_PROFILE");
}

absl::StatusOr<KeptProfile> ProfileThisMachine(const ComputeFlags& compute, const ProfileFlags& flags,
                                               bool refresh) {
  ASSIGN_OR_RETURN(const Machine machine, ThisMachine(compute));
  std::string folder = flags.where;
  if (folder == kNoProfile)
    folder.clear();
  else if (folder.empty() && !UserCacheFolder().empty())
    folder = UserCacheFolder() + "/profiles";
  KeptProfile kept;
  if (folder.empty()) {
    ASSIGN_OR_RETURN(kept.profile, Measure(machine, ""));
    kept.why_new = "none is kept";
    return kept;
  }
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  kept.path = fmt::format("{}/{}.json", folder, machine.identity.hash());
  const std::string why = WhyNotKept(kept.path, machine.identity, kept.profile);
  if (why.empty() && !refresh) return kept;
  const FileHandle turn = WaitForTurn(folder);
  // Another process may have measured meanwhile.
  if (!refresh && WhyNotKept(kept.path, machine.identity, kept.profile).empty()) return kept;
  kept.why_new = refresh && why.empty() ? "as asked" : why;
  ASSIGN_OR_RETURN(kept.profile, Measure(machine, folder));
  const absl::Status written = WriteTextFile(kept.path, ProfileToJson(kept.profile));
  if (!written.ok()) {
    LogWarning("profile: not kept: {}", Message(written));
    kept.path.clear();
  }
  DropOldest(folder);
  return kept;
}

std::optional<ThreadRates> RatesOfThisMachine(const ComputeFlags& compute, const ProfileFlags& flags) {
  if (flags.where == kNoProfile) return std::nullopt;
  const absl::StatusOr<KeptProfile> kept = ProfileThisMachine(compute, flags, false);
  if (!kept.ok()) {
    LogWarning("this machine can't be measured, plans do without: {}", Message(kept.status()));
    return std::nullopt;
  }
  if (!kept->why_new.empty()) LogInfo("measured this machine ({}); `shoal profile` shows it", kept->why_new);
  return kept->profile.rates_of(compute.chosen_threads());
}

}  // namespace shoal
