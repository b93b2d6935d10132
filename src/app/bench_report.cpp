#include "app/bench_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "base/check.h"
#include "base/text.h"

namespace shoal {
namespace {

using Json = nlohmann::ordered_json;

/// Reading as it was in the seconds of the result: what a shared machine's memory gives changes from minute
/// to minute. Its arithmetic does not.
MachineRates RatesOf(const BenchReport& report, const BenchResult& result) {
  const Roofline& bounds = report.bounds.at(result.bound_threads);
  const bool tiles = report.isa == "amx" && bounds.amx_gops.has_value();
  return {result.read_bound_gbs, tiles ? *bounds.amx_gops : bounds.vnni_gops, bounds.fma_gflops};
}

RooflineTime BoundOf(const BenchReport& report, const BenchResult& result) {
  return RooflineTimeOf(result.work, RatesOf(report, result));
}

double ShareOfBound(const BenchReport& report, const BenchResult& result) {
  return BoundOf(report, result).seconds / result.median_s();
}

double ShareOfBoundPerPhase(const BenchReport& report, const BenchResult& result) {
  return RooflineTimePerPhase(result.work_per_phase, RatesOf(report, result)).seconds / result.median_s();
}

/// Of attention alone, on one node: what it must read of the cache, or multiply, over the time it took.
std::optional<double> AttentionShare(const BenchReport& report, const BenchResult& result) {
  if (result.nodes.size() != 1) return std::nullopt;
  const MachineRates rates = RatesOf(report, result);
  const double bound_s =
      1e-9 * std::max(result.work.kv_bytes / rates.read_gbs, result.work.attention_ops / rates.f32_gflops);
  const auto one_phase_ns = result.nodes[0].phase_ns[static_cast<size_t>(StepPhase::kAttention)];
  const double taken_s = 1e-9 * static_cast<double>(one_phase_ns) / result.tokens_per_s.runs;
  return taken_s > 0 ? std::optional(bound_s / taken_s) : std::nullopt;
}

double PerToken(const BenchResult& result, double of_a_run) {
  return of_a_run / static_cast<double>(result.tokens);
}

double ReadGbs(const BenchResult& result) { return 1e-9 * result.work.bytes() / result.median_s(); }

int64_t Sum(const StepPhaseNs& parts) { return std::accumulate(parts.begin(), parts.end(), int64_t{0}); }

Json SpreadJson(const Spread& spread) {
  return {{"median", spread.median}, {"min", spread.min}, {"max", spread.max}, {"runs", spread.runs}};
}

Json BoundsJson(const std::map<int, Roofline>& all) {
  Json out = {{"read_gbs", Json::object()},  {"vnni_gops", Json::object()}, {"scaled_gops", Json::object()},
              {"wide_gops", Json::object()}, {"amx_gops", Json::object()},  {"fma_gflops", Json::object()}};
  for (const auto& [threads, bounds] : all) {
    const std::string key = std::to_string(threads);
    out["read_gbs"][key] = bounds.read_gbs;
    out["vnni_gops"][key] = bounds.vnni_gops;
    if (bounds.scaled_gops.has_value()) out["scaled_gops"][key] = *bounds.scaled_gops;
    if (bounds.wide_gops.has_value()) out["wide_gops"][key] = *bounds.wide_gops;
    if (bounds.amx_gops.has_value()) out["amx_gops"][key] = *bounds.amx_gops;
    out["fma_gflops"][key] = bounds.fma_gflops;
    out["vnni_how"] = bounds.vnni_how;
  }
  return out;
}

Json NodeJson(const BenchResult& result, const NodeBreakdown& node) {
  // Milliseconds of one step in decoding, of one whole prompt in prefill.
  const double units = static_cast<double>(result.tokens_per_s.runs) *
                       static_cast<double>(result.what == "decode" ? result.steps / result.groups : 1);
  const auto ms = [&](int64_t ns) { return 1e-6 * static_cast<double>(ns) / units; };
  Json out = {{"node", node.name},
              {"busy_share", node.busy_share},
              {"elapsed_ms", ms(result.elapsed_ns)},
              {"sum_ms", ms(Sum(node.phase_ns))},
              {"parts_ms", Json::object()}};
  for (size_t i = 0; i < node.phase_ns.size(); ++i) {
    if (node.phase_ns[i] > 0) {
      out["parts_ms"][std::string(StepPhaseName(static_cast<StepPhase>(i)))] = ms(node.phase_ns[i]);
    }
  }
  return out;
}

/// Per token, what each part of a step must read and multiply, and which of the two bounds it.
Json PartsJson(const BenchReport& report, const BenchResult& result) {
  Json out = Json::object();
  for (int i = 0; i < kWorkPhases; ++i) {
    const StepWork& work = result.work_per_phase[static_cast<size_t>(i)];
    if (work.bytes() == 0) continue;
    out[std::string(WorkPhaseName(static_cast<WorkPhase>(i)))] = {
        {"bytes_per_token", PerToken(result, work.bytes())},
        {"int8_ops_per_token", PerToken(result, work.int8_ops)},
        {"f32_ops_per_token", PerToken(result, work.all_f32_ops())},
        {"bound", RooflineTimeOf(work, RatesOf(report, result)).by}};
  }
  return out;
}

Json ResultJson(const BenchReport& report, const BenchResult& result) {
  const RooflineTime bound = BoundOf(report, result);
  Json out = {{"what", result.what},
              {"threads", report.threads},
              {"batch", result.batch},
              {"prompt", result.prompt},
              {"context", result.context},
              {"isa", report.isa},
              {"split", report.split.empty() ? Json(nullptr) : Json(report.split)},
              {"experts_over", report.experts_over > 0 ? Json(report.experts_over) : Json(nullptr)},
              {"transport", report.transport},
              {"groups", result.groups},
              {"tokens_per_s", SpreadJson(result.tokens_per_s)},
              {"bytes_per_token", PerToken(result, result.work.weight_bytes)},
              {"kv_bytes_per_token", PerToken(result, result.work.kv_bytes)},
              {"int8_ops_per_token", PerToken(result, result.work.int8_ops)},
              {"f32_ops_per_token", PerToken(result, result.work.all_f32_ops())},
              {"read_gbs", ReadGbs(result)},
              {"share_of_bound", bound.seconds / result.median_s()},
              {"bound", bound.by},
              {"share_of_bound_per_phase", ShareOfBoundPerPhase(report, result)},
              {"bound_threads", result.bound_threads},
              {"read_bound_gbs", result.read_bound_gbs}};
  out["parts"] = PartsJson(report, result);
  if (const auto share = AttentionShare(report, result)) out["attention_share_of_bound"] = *share;
  if (result.experts_per_step > 0) {
    out["experts_per_step"] = result.experts_per_step;
    out["experts_from"] = "routing traces";
  }
  if (result.expert_overhead_us > 0) out["expert_overhead_us_per_layer"] = result.expert_overhead_us;
  out["nodes"] = Json::array();
  for (const NodeBreakdown& node : result.nodes) out["nodes"].push_back(NodeJson(result, node));
  return out;
}

std::string BoundsText(const BenchReport& report) {
  std::string text = fmt::format("bounds of {}:\n", report.machine.cpu_name);
  for (const auto& [threads, bounds] : report.bounds) {
    text += fmt::format("  {} thread{}: reads {:.1f} GB/s, 8-bit {:.0f} Gop/s ({}), ", threads,
                        threads == 1 ? "" : "s", bounds.read_gbs, bounds.vnni_gops, bounds.vnni_how);
    if (bounds.scaled_gops.has_value()) text += fmt::format("{:.0f} with scales, ", *bounds.scaled_gops);
    if (bounds.wide_gops.has_value()) text += fmt::format("{:.0f} of 8-bit weights, ", *bounds.wide_gops);
    if (bounds.amx_gops.has_value()) text += fmt::format("tiles {:.0f} Gop/s, ", *bounds.amx_gops);
    text += fmt::format("f32 {:.0f} GFLOP/s\n", bounds.fma_gflops);
  }
  return text;
}

std::string What(const BenchResult& result) {
  if (result.what == "prefill") return fmt::format("prefill {}", result.prompt);
  return fmt::format("decode {} at {}{}", result.batch, result.context,
                     result.groups > 1 ? fmt::format(" in {} groups", result.groups) : "");
}

/// "gate_up 38.2 %, down 19.0 %, ...": the largest first, what is below a tenth of a percent left out.
std::string PartsText(const NodeBreakdown& node) {
  std::vector<size_t> order(node.phase_ns.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return node.phase_ns[a] != node.phase_ns[b] ? node.phase_ns[a] > node.phase_ns[b] : a < b;
  });
  const auto whole = static_cast<double>(std::max<int64_t>(Sum(node.phase_ns), 1));
  std::string text;
  for (const size_t i : order) {
    const double share = 100 * static_cast<double>(node.phase_ns[i]) / whole;
    if (share < 0.1) continue;
    text += fmt::format("{}{} {:.1f} %", text.empty() ? "" : ", ", StepPhaseName(static_cast<StepPhase>(i)),
                        share);
  }
  return text;
}

}  // namespace

Spread SpreadOf(std::vector<double> values) {
  SHOAL_CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  const double median = values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {median, values.front(), values.back(), static_cast<int>(values.size())};
}

std::string BenchJson(const BenchReport& report) {
  const Topology& machine = report.machine;
  Json out = {{"machine",
               {{"cpu", machine.cpu_name},
                {"cpus", machine.cpus},
                {"cores", machine.cores},
                {"memory_bytes", machine.memory_bytes},
                {"l1d_bytes", machine.l1d_bytes},
                {"l2_bytes", machine.l2_bytes},
                {"l3_bytes", machine.l3_bytes}}},
              {"bounds", BoundsJson(report.bounds)}};
  if (!report.model.empty()) {
    out["model"] = {{"name", report.model},
                    {"weight_bytes", report.weight_bytes},
                    {"kv_bytes", report.kv_bytes},
                    {"file_read_gbs", report.file_read_gbs},
                    {"first_touch_gbs", report.first_touch_gbs},
                    {"load_s", report.load_s},
                    {"load_user_s", report.load_cpu.user_s},
                    {"load_system_s", report.load_cpu.system_s},
                    {"from_packed_cache", report.from_packed_cache},
                    {"peak_resident_bytes", report.peak_resident_bytes}};
  }
  if (report.round_trip_us.runs > 0) {
    out["round_trip_us"] = SpreadJson(report.round_trip_us);
    out["round_trip_us"]["payload_bytes"] = kRoundTripBytes;
  }
  out["results"] = Json::array();
  for (const BenchResult& result : report.results) out["results"].push_back(ResultJson(report, result));
  return out.dump(2, ' ', false, Json::error_handler_t::replace);
}

std::string BenchText(const BenchReport& report) {
  std::string text = BoundsText(report);
  if (report.model.empty()) return text;
  text += fmt::format(
      "{}: {} of weights, {} of cache, at most {} resident, loaded in {:.2f} s{} ({:.2f} s of CPU, {:.2f} s "
      "of the system besides), file read rate before it {:.1f} GB/s, first-touch rate before it "
      "{:.1f} GB/s\n",
      report.model, FormatBytes(report.weight_bytes), FormatBytes(report.kv_bytes),
      FormatBytes(report.peak_resident_bytes), report.load_s,
      report.from_packed_cache ? " from the packed cache" : "", report.load_cpu.user_s,
      report.load_cpu.system_s, report.file_read_gbs, report.first_touch_gbs);
  text += fmt::format(
      "{} thread{} a node, {}{}{}\n\n", report.threads, report.threads == 1 ? "" : "s", report.isa,
      report.split.empty() ? "" : fmt::format(", layers {} over {}", report.split, report.transport),
      report.experts_over == 0
          ? ""
          : fmt::format(", experts over {} nodes, {}", report.experts_over, report.transport));
  if (report.round_trip_us.runs > 0) {
    text += fmt::format("a bare round trip of {} bytes between two nodes takes {:.0f} us\n\n",
                        kRoundTripBytes, report.round_trip_us.median);
  }
  text += fmt::format("{:<28} {:>30} {:>10} {:>8} {:>8} {:>9} {:>7} {:>9}\n", "", "tokens/s", "MB/token",
                      "GB/s", "peak", "bound", "share", "per phase");
  for (const BenchResult& result : report.results) {
    const Spread& rate = result.tokens_per_s;
    text += fmt::format("{:<28} {:>30} {:>10.1f} {:>8.1f} {:>8.1f} {:>9} {:>6.1f}% {:>8.1f}%\n", What(result),
                        fmt::format("{:.2f} ({:.2f}-{:.2f})", rate.median, rate.min, rate.max),
                        1e-6 * PerToken(result, result.work.bytes()), ReadGbs(result), result.read_bound_gbs,
                        BoundOf(report, result).by, 100 * ShareOfBound(report, result),
                        100 * ShareOfBoundPerPhase(report, result));
  }
  if (report.weight_bytes < 2 * report.machine.l3_bytes) {
    text +=
        "The weights may lie in a cache: shares of the read bandwidth of memory mean little, and can exceed "
        "100 %.\n";
  }
  for (const BenchResult& result : report.results) {
    text += fmt::format("\n{}", What(result));
    if (const auto share = AttentionShare(report, result)) {
      text += fmt::format(", attention at {:.0f} % of its bound", 100 * *share);
    }
    if (result.experts_per_step > 0) {
      text += fmt::format(", {:.1f} distinct experts a step (routing traces)", result.experts_per_step);
    }
    if (result.expert_overhead_us > 0) {
      text +=
          fmt::format(", experts of other nodes cost {:.0f} us a layer beyond computing, {:.1f} round trips",
                      result.expert_overhead_us, result.expert_overhead_us / report.round_trip_us.median);
    }
    for (const NodeBreakdown& node : result.nodes) {
      const double sum =
          100 * static_cast<double>(Sum(node.phase_ns)) / static_cast<double>(result.elapsed_ns);
      text += fmt::format("\n  {}: {} (together {:.1f} %)", node.name, PartsText(node), sum);
      if (result.nodes.size() > 1) text += fmt::format("; busy {:.0f} %", 100 * node.busy_share);
    }
  }
  return text + "\n";
}

}  // namespace shoal
