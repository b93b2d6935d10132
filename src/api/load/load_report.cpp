#include "api/load/load_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "api/json.h"

namespace shoal {
namespace {

double Ms(int64_t ns) { return static_cast<double>(ns) * 1e-6; }

double Rate(int64_t count, double seconds) { return seconds > 0 ? static_cast<double>(count) / seconds : 0; }

double Rounded(double value) { return std::round(value * 1000) / 1000; }

Json LatencyJson(const Latencies& times) {
  Json json;
  json["count"] = times.count;
  json["mean"] = Rounded(times.mean);
  json["p50"] = Rounded(times.p50);
  json["p90"] = Rounded(times.p90);
  json["p95"] = Rounded(times.p95);
  json["p99"] = Rounded(times.p99);
  json["max"] = Rounded(times.max);
  return json;
}

std::string LatencyLine(const char* name, const Latencies& times) {
  return fmt::format("{:<20}{:>10.1f}{:>10.1f}{:>10.1f}{:>10.1f}{:>10.1f}{:>10.1f}\n", name, times.mean,
                     times.p50, times.p90, times.p95, times.p99, times.max);
}

}  // namespace

Latencies LatenciesOf(std::vector<double> values) {
  if (values.empty()) return {};
  std::ranges::sort(values);
  const auto rank = [&](double part) {
    const auto index = static_cast<size_t>(std::ceil(part * static_cast<double>(values.size())));
    return values[std::max<size_t>(index, 1) - 1];
  };
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  return {std::ssize(values), sum / static_cast<double>(values.size()),
          rank(0.5),          rank(0.9),
          rank(0.95),         rank(0.99),
          values.back()};
}

LoadReport Summarize(const LoadResult& result) {
  LoadReport report;
  report.sent = std::ssize(result.samples);
  report.elapsed_s = static_cast<double>(result.elapsed_ns) * 1e-9;
  report.in_flight_max = result.in_flight_max;
  std::vector<double> ttft, itl, tpot, e2e, lateness;
  std::map<std::string, std::pair<int64_t, std::string>> errors;
  for (const LoadSample& sample : result.samples) {
    lateness.push_back(Ms(sample.sent_ns - sample.due_ns));
    if (!sample.error.empty()) {
      auto& [count, text] = errors[sample.error];
      if (count++ == 0) text = sample.error_text;
      continue;
    }
    ++report.succeeded;
    report.prompt_tokens += sample.prompt_tokens;
    report.cached_tokens += sample.cached_tokens;
    report.output_tokens += sample.output_tokens;
    report.events += std::ssize(sample.event_ns);
    e2e.push_back(Ms(sample.end_ns - sample.due_ns));
    if (sample.first_ns < 0) continue;
    ttft.push_back(Ms(sample.first_ns - sample.due_ns));
    for (size_t i = 1; i < sample.event_ns.size(); ++i) {
      itl.push_back(Ms(sample.event_ns[i] - sample.event_ns[i - 1]));
    }
    if (sample.output_tokens > 1) {
      tpot.push_back(Ms(sample.event_ns.back() - sample.first_ns) /
                     static_cast<double>(sample.output_tokens - 1));
    }
  }
  report.ttft = LatenciesOf(std::move(ttft));
  report.itl = LatenciesOf(std::move(itl));
  report.tpot = LatenciesOf(std::move(tpot));
  report.e2e = LatenciesOf(std::move(e2e));
  report.lateness = LatenciesOf(std::move(lateness));
  for (auto& [kind, entry] : errors) report.errors.emplace_back(kind, entry.first, std::move(entry.second));
  return report;
}

std::string LoadText(const LoadReport& report) {
  std::string text = fmt::format(
      "{} requests in {:.1f} s, {} succeeded, {} failed; at most {} in flight\n"
      "{:.2f} requests/s, {:.1f} output tokens/s, {:.1f} prompt tokens/s ({} cached)\n",
      report.sent, report.elapsed_s, report.succeeded, report.sent - report.succeeded, report.in_flight_max,
      Rate(report.succeeded, report.elapsed_s), Rate(report.output_tokens, report.elapsed_s),
      Rate(report.prompt_tokens, report.elapsed_s), report.cached_tokens);
  text += fmt::format("{:<20}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}\n", "milliseconds", "mean", "p50", "p90",
                      "p95", "p99", "max");
  text += LatencyLine("first token (TTFT)", report.ttft);
  text += LatencyLine("between (ITL)", report.itl);
  text += LatencyLine("per token (TPOT)", report.tpot);
  text += LatencyLine("whole request", report.e2e);
  text += LatencyLine("sent late by", report.lateness);
  for (const auto& [kind, count, example] : report.errors) {
    text += fmt::format("error: {} times {}{}\n", count, kind, example.empty() ? "" : ": " + example);
  }
  return text;
}

std::string LoadJson(const LoadReport& report,
                     const std::vector<std::pair<std::string, std::string>>& settings) {
  Json json;
  for (const auto& [name, value] : settings) json["settings"][name] = value;
  json["elapsed_s"] = Rounded(report.elapsed_s);
  json["requests"] = {{"sent", report.sent},
                      {"succeeded", report.succeeded},
                      {"failed", report.sent - report.succeeded},
                      {"in_flight_max", report.in_flight_max}};
  json["tokens"] = {{"prompt", report.prompt_tokens},
                    {"cached", report.cached_tokens},
                    {"output", report.output_tokens},
                    {"events", report.events}};
  json["per_second"] = {{"requests", Rounded(Rate(report.succeeded, report.elapsed_s))},
                        {"output_tokens", Rounded(Rate(report.output_tokens, report.elapsed_s))},
                        {"prompt_tokens", Rounded(Rate(report.prompt_tokens, report.elapsed_s))}};
  json["ttft_ms"] = LatencyJson(report.ttft);
  json["itl_ms"] = LatencyJson(report.itl);
  json["tpot_ms"] = LatencyJson(report.tpot);
  json["e2e_ms"] = LatencyJson(report.e2e);
  json["lateness_ms"] = LatencyJson(report.lateness);
  json["errors"] = Json::object();
  for (const auto& [kind, count, example] : report.errors) {
    json["errors"][kind] = {{"count", count}, {"example", example}};
  }
  return DumpJson(json);
}

}  // namespace shoal
