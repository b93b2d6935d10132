#include "plan/machine_profile.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "base/check.h"
#include "base/random.h"
#include "plan/config_value.h"

namespace shoal {
namespace {

constexpr std::string_view kFormat = "shoal-profile-3";
constexpr int64_t kTextMax = 64 << 10;
constexpr int32_t kThreadsMax = 4096;
constexpr int64_t kBytesMax = int64_t{1} << 50;
constexpr double kRateMax = 1e9;  // In 1e9 a second; and microseconds of a wake-up.

using Json = nlohmann::ordered_json;

absl::StatusOr<double> ReadNumber(const ConfigCursor& map, std::string_view key, double low, double high) {
  ASSIGN_OR_RETURN(const ConfigCursor value, map.at(key));
  return value.number(low, high);
}

absl::StatusOr<int64_t> ReadInteger(const ConfigCursor& map, std::string_view key, int64_t low,
                                    int64_t high) {
  ASSIGN_OR_RETURN(const ConfigCursor value, map.at(key));
  return value.integer(low, high);
}

absl::StatusOr<std::string> ReadText(const ConfigCursor& map, std::string_view key) {
  ASSIGN_OR_RETURN(const ConfigCursor value, map.at(key));
  return value.text();
}

absl::StatusOr<MachineIdentity> ReadMachine(const ConfigCursor& map) {
  RETURN_IF_ERROR(
      map.expect_keys({"cpu", "cores", "threads", "cpus", "memory_bytes", "quota_cpus", "isa", "version"}));
  MachineIdentity machine;
  ASSIGN_OR_RETURN(machine.cpu, ReadText(map, "cpu"));
  ASSIGN_OR_RETURN(const int64_t cores, ReadInteger(map, "cores", 1, kThreadsMax));
  ASSIGN_OR_RETURN(const int64_t threads, ReadInteger(map, "threads", 1, kThreadsMax));
  machine.cores = static_cast<int32_t>(cores);
  machine.threads = static_cast<int32_t>(threads);
  ASSIGN_OR_RETURN(machine.cpus, ReadText(map, "cpus"));
  ASSIGN_OR_RETURN(machine.memory_bytes, ReadInteger(map, "memory_bytes", 0, kBytesMax));
  ASSIGN_OR_RETURN(machine.quota_cpus, ReadNumber(map, "quota_cpus", 0, kThreadsMax));
  ASSIGN_OR_RETURN(machine.isa, ReadText(map, "isa"));
  ASSIGN_OR_RETURN(machine.version, ReadText(map, "version"));
  return machine;
}

absl::StatusOr<ThreadRates> ReadRates(const ConfigCursor& map) {
  RETURN_IF_ERROR(
      map.expect_keys({"threads", "read_gbs", "int8_gops", "f32_gflops", "wake_us", "attention_gbs",
                       "attention_gflops", "handover_us", "draw_ns", "int8_few_gops"}));
  constexpr double kLeast = 1e-6;  // A rate of 0 would be divided by.
  ThreadRates rates;
  ASSIGN_OR_RETURN(const int64_t threads, ReadInteger(map, "threads", 1, kThreadsMax));
  rates.threads = static_cast<int32_t>(threads);
  ASSIGN_OR_RETURN(rates.read_gbs, ReadNumber(map, "read_gbs", kLeast, kRateMax));
  ASSIGN_OR_RETURN(rates.int8_gops, ReadNumber(map, "int8_gops", kLeast, kRateMax));
  ASSIGN_OR_RETURN(rates.f32_gflops, ReadNumber(map, "f32_gflops", kLeast, kRateMax));
  ASSIGN_OR_RETURN(rates.wake_us, ReadNumber(map, "wake_us", 0, kRateMax));
  ASSIGN_OR_RETURN(rates.attention_gbs, ReadNumber(map, "attention_gbs", 0, kRateMax));
  ASSIGN_OR_RETURN(rates.attention_gflops, ReadNumber(map, "attention_gflops", 0, kRateMax));
  ASSIGN_OR_RETURN(rates.handover_us, ReadNumber(map, "handover_us", 0, kRateMax));
  ASSIGN_OR_RETURN(rates.draw_ns, ReadNumber(map, "draw_ns", 0, kRateMax));
  ASSIGN_OR_RETURN(rates.int8_few_gops, ReadNumber(map, "int8_few_gops", 0, kRateMax));
  return rates;
}

double Between(double a, double b, double share) { return a + share * (b - a); }

}  // namespace

std::string MachineIdentity::hash() const {
  const std::string text = fmt::format("{}|{}|{}|{}|{}|{}|{}|{}", cpu, cores, threads, cpus, memory_bytes,
                                       quota_cpus, isa, version);
  uint64_t hash = 0;
  for (const char c : text) hash = Mix64(hash ^ static_cast<unsigned char>(c));
  return fmt::format("{:016x}", hash);
}

ThreadRates MachineProfile::rates_of(int threads) const {
  SHOAL_CHECK(!rates.empty());
  const auto above = std::ranges::find_if(rates, [&](const ThreadRates& r) { return r.threads >= threads; });
  ThreadRates found = above == rates.end() ? rates.back() : *above;
  if (above != rates.end() && above != rates.begin() && above->threads > threads) {
    const ThreadRates& low = *(above - 1);
    const double share = static_cast<double>(threads - low.threads) / (above->threads - low.threads);
    found = {.read_gbs = Between(low.read_gbs, above->read_gbs, share),
             .int8_gops = Between(low.int8_gops, above->int8_gops, share),
             .f32_gflops = Between(low.f32_gflops, above->f32_gflops, share),
             .wake_us = Between(low.wake_us, above->wake_us, share),
             .attention_gbs = Between(low.attention_gbs, above->attention_gbs, share),
             .attention_gflops = Between(low.attention_gflops, above->attention_gflops, share),
             .handover_us = Between(low.handover_us, above->handover_us, share),
             .draw_ns = Between(low.draw_ns, above->draw_ns, share),
             .int8_few_gops = Between(low.int8_few_gops, above->int8_few_gops, share)};
  }
  found.threads = threads;
  return found;
}

void Reconcile(std::vector<ThreadRates>& rates) {
  const std::vector<ThreadRates> measured = rates;
  for (ThreadRates& own : rates) {
    for (const ThreadRates& other : measured) {
      const double share = std::min(1.0, static_cast<double>(own.threads) / other.threads);
      own.read_gbs = std::max(own.read_gbs, share * other.read_gbs);
      own.int8_gops = std::max(own.int8_gops, share * other.int8_gops);
      own.f32_gflops = std::max(own.f32_gflops, share * other.f32_gflops);
      own.attention_gbs = std::max(own.attention_gbs, share * other.attention_gbs);
      own.attention_gflops = std::max(own.attention_gflops, share * other.attention_gflops);
      own.int8_few_gops = std::max(own.int8_few_gops, share * other.int8_few_gops);
    }
  }
}

std::string WhyStale(const MachineProfile& profile, const MachineIdentity& machine, int64_t now_unix_s) {
  if (profile.machine != machine) return "it is of another machine, or of other threads, limits or version";
  const int64_t age_s = now_unix_s - profile.measured_at;
  if (age_s < 0) return "it is from the future";
  if (age_s > kProfileMaxAgeS) return fmt::format("it is {} days old", age_s / (24 * 3600));
  return "";
}

std::string ProfileToJson(const MachineProfile& profile) {
  const MachineIdentity& machine = profile.machine;
  Json rates = Json::array();
  for (const ThreadRates& r : profile.rates) {
    rates.push_back({{"threads", r.threads},
                     {"read_gbs", r.read_gbs},
                     {"int8_gops", r.int8_gops},
                     {"f32_gflops", r.f32_gflops},
                     {"wake_us", r.wake_us},
                     {"attention_gbs", r.attention_gbs},
                     {"attention_gflops", r.attention_gflops},
                     {"handover_us", r.handover_us},
                     {"draw_ns", r.draw_ns},
                     {"int8_few_gops", r.int8_few_gops}});
  }
  const Json json = {{"format", kFormat},
                     {"machine_hash", machine.hash()},
                     {"measured_at", profile.measured_at},
                     {"machine",
                      {{"cpu", machine.cpu},
                       {"cores", machine.cores},
                       {"threads", machine.threads},
                       {"cpus", machine.cpus},
                       {"memory_bytes", machine.memory_bytes},
                       {"quota_cpus", machine.quota_cpus},
                       {"isa", machine.isa},
                       {"version", machine.version}}},
                     {"efficiency_cpus", profile.efficiency_cpus},
                     {"disk_mbs", profile.disk_mbs},
                     {"rates", rates}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<MachineProfile> ProfileFromJson(std::string_view text) {
  auto value = ParseJsonConfig(text, {.bytes = kTextMax, .values = 1 << 12, .depth = 4});
  if (!value.ok()) return Annotate(value.status(), "profile");
  const ConfigCursor root(*value);
  RETURN_IF_ERROR(root.expect_keys(
      {"format", "machine_hash", "measured_at", "machine", "efficiency_cpus", "disk_mbs", "rates"}));
  ASSIGN_OR_RETURN(const std::string format, ReadText(root, "format"));
  if (format != kFormat)
    return InvalidArgument("profile: expected format \"{}\", got \"{}\"", kFormat, format);
  MachineProfile profile;
  ASSIGN_OR_RETURN(const ConfigCursor machine, root.at("machine"));
  ASSIGN_OR_RETURN(profile.machine, ReadMachine(machine));
  ASSIGN_OR_RETURN(profile.measured_at, ReadInteger(root, "measured_at", 0, int64_t{1} << 40));
  ASSIGN_OR_RETURN(const int64_t slower, ReadInteger(root, "efficiency_cpus", 0, kThreadsMax));
  profile.efficiency_cpus = static_cast<int32_t>(slower);
  ASSIGN_OR_RETURN(profile.disk_mbs, ReadNumber(root, "disk_mbs", 0, kRateMax));
  ASSIGN_OR_RETURN(const ConfigCursor rates, root.at("rates"));
  ASSIGN_OR_RETURN(const std::vector<ConfigCursor> list, rates.list());
  for (const ConfigCursor& entry : list) {
    ASSIGN_OR_RETURN(const ThreadRates read, ReadRates(entry));
    if (!profile.rates.empty() && read.threads <= profile.rates.back().threads) {
      return entry.error("expected more threads than in the entry before it");
    }
    profile.rates.push_back(read);
  }
  if (profile.rates.empty())
    return rates.error("expected the rates of one number of threads at least, got none");
  return profile;
}

std::vector<int> ThreadCountsToMeasure(int threads) {
  constexpr int kEach = 4;
  std::set<int> counts = {std::max(1, threads)};
  for (int n = 1; n < threads; n = n < kEach ? n + 1 : n + std::max(1, n / 4)) counts.insert(n);
  // A large machine: only doublings, so that all of it stays within seconds.
  constexpr size_t kCountsMax = 10;
  if (counts.size() > kCountsMax) {
    counts = {threads};
    for (int n = 1; n < threads; n *= 2) counts.insert(n);
  }
  return {counts.begin(), counts.end()};
}

absl::Status CheckRates(const ThreadRates& rates) {
  const auto good = [](double value) { return std::isfinite(value) && value > 0 && value <= kRateMax; };
  const auto good_or_0 = [&](double value) { return value == 0 || good(value); };
  if (good(rates.read_gbs) && good(rates.int8_gops) && good(rates.f32_gflops) && good_or_0(rates.wake_us) &&
      good_or_0(rates.attention_gbs) && good_or_0(rates.attention_gflops) && good_or_0(rates.handover_us) &&
      good_or_0(rates.draw_ns) && good_or_0(rates.int8_few_gops) && rates.threads >= 1 &&
      rates.threads <= kThreadsMax) {
    return absl::OkStatus();
  }
  return InvalidArgument(
      "rates of {} threads: {} GB/s, {} Gop/s, {} GFLOP/s, {} us, attention {} GB/s and {} GFLOP/s, {} us, "
      "{} ns, of few rows {} Gop/s: "
      "expected numbers above 0 and up to {}",
      rates.threads, rates.read_gbs, rates.int8_gops, rates.f32_gflops, rates.wake_us, rates.attention_gbs,
      rates.attention_gflops, rates.handover_us, rates.draw_ns, rates.int8_few_gops, kRateMax);
}

}  // namespace shoal
