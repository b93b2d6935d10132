// What a load test found, for people and for programs. Pure functions.
#pragma once

#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "api/load/load_run.h"

namespace shoal {

/// A set of measured times, in milliseconds.
struct Latencies {
  int64_t count = 0;
  double mean = 0, p50 = 0, p90 = 0, p95 = 0, p99 = 0, max = 0;
};
/// Percentiles by nearest rank. All zero where there is nothing.
Latencies LatenciesOf(std::vector<double> values);

struct LoadReport {
  int64_t sent = 0;
  int64_t succeeded = 0;
  double elapsed_s = 0;
  int64_t in_flight_max = 0;
  int64_t prompt_tokens = 0;  ///< As these, of the requests that succeeded.
  int64_t cached_tokens = 0;
  int64_t output_tokens = 0;
  int64_t events = 0;
  Latencies ttft;  ///< From when a request was due to its first text.
  Latencies itl;   ///< Between two events of a stream.
  Latencies tpot;  ///< Per request: from its first text to its end, divided by the tokens after the first.
  Latencies e2e;   ///< From when it was due to its end.
  Latencies lateness;  ///< From when it was due until it was sent: the load test's own fault.
  /// Kind, how many, and the text of one.
  std::vector<std::tuple<std::string, int64_t, std::string>> errors;
};
LoadReport Summarize(const LoadResult& result);

/// Lines for a terminal.
std::string LoadText(const LoadReport& report);

/// One JSON object; `settings` are put in front.
std::string LoadJson(const LoadReport& report,
                     const std::vector<std::pair<std::string, std::string>>& settings);

}  // namespace shoal
