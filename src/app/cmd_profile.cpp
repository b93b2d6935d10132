#include <cstdio>
#include <nlohmann/json.hpp>

#include "app/command.h"
#include "app/profile_store.h"
#include "base/status.h"
#include "base/text.h"
#include "cpu/topology.h"

namespace shoal {
namespace {

struct ShowProfileFlags {
  ComputeFlags compute;
  ProfileFlags profile;
  bool refresh = false;
  bool json = false;
};

void PrintText(const KeptProfile& kept, const Topology& now) {
  const MachineProfile& profile = kept.profile;
  const MachineIdentity& machine = profile.machine;
  fmt::print(
      "{}: {} cores{}, {}, CPU quota {}\n", machine.cpu, machine.cores,
      profile.efficiency_cpus > 0 ? fmt::format(", {} CPUs slower by design", profile.efficiency_cpus) : "",
      machine.isa, machine.quota_cpus > 0 ? fmt::format("{:.2f} CPUs", machine.quota_cpus) : "none");
  fmt::print("memory: {}, {} available, {} for weights and cache by default\n", FormatBytes(now.memory_bytes),
             FormatBytes(now.memory_available_bytes), FormatBytes(UsableMemory(now)));
  fmt::print("disk of the cache folder: {}\n\n",
             profile.disk_mbs > 0 ? fmt::format("{:.0f} MB/s read", profile.disk_mbs) : "not measured");
  fmt::print("{:>7}  {:>10}  {:>11}  {:>12}  {:>12}  {:>14}  {:>17}  {:>8}  {:>12}  {:>7}\n", "threads",
             "reads GB/s", "int8 Gop/s", "of few rows", "f32 GFLOP/s", "attention GB/s", "attention GFLOP/s",
             "wake us", "hand-over us", "draw ns");
  for (const ThreadRates& rates : profile.rates) {
    fmt::print(
        "{:>7}  {:>10.1f}  {:>11.0f}  {:>12.0f}  {:>12.0f}  {:>14.1f}  {:>17.0f}  {:>8.1f}  {:>12.0f}  "
        "{:>7.1f}\n",
        rates.threads, rates.read_gbs, rates.int8_gops, rates.int8_few_gops, rates.f32_gflops,
        rates.attention_gbs, rates.attention_gflops, rates.wake_us, rates.handover_us, rates.draw_ns);
  }
  fmt::print("\n{}{}\n", kept.why_new.empty() ? "read from " : "measured now: " + kept.why_new,
             kept.path.empty() ? "" : (kept.why_new.empty() ? "" : "; kept in ") + kept.path);
}

void PrintJson(const KeptProfile& kept, const Topology& now) {
  auto json = nlohmann::ordered_json::parse(ProfileToJson(kept.profile));
  json["memory_available_bytes"] = now.memory_available_bytes;
  json["usable_memory_bytes"] = UsableMemory(now);
  json["file"] = kept.path;
  json["measured_now"] = !kept.why_new.empty();
  fmt::print("{}\n", json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

absl::Status ShowProfile(const ShowProfileFlags& flags) {
  ASSIGN_OR_RETURN(const KeptProfile kept, ProfileThisMachine(flags.compute, flags.profile, flags.refresh));
  const Topology now = ReadTopology();
  if (flags.json) {
    PrintJson(kept, now);
  } else {
    PrintText(kept, now);
  }
  return absl::OkStatus();
}

}  // namespace

Command AddProfileCommand(Flags root) {
  auto flags = std::make_shared<ShowProfileFlags>();
  Flags app = root.add_subcommand("profile", "Measure what this machine reaches, for plans, and keep it");
  app.add_flag("--refresh", flags->refresh, "Measure also where a good profile is kept");
  app.add_flag("--json", flags->json, "For scripts");
  flags->compute.add_machine_flags(app);
  flags->profile.add_to(app);
  return {app, [flags] { return ShowProfile(*flags); }};
}

}  // namespace shoal
