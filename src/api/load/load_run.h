// Drives a server with a workload, and notes when each token came.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "api/http/async_client.h"
#include "api/load/workload.h"
#include "base/clock.h"

namespace shoal {

struct LoadOptions {
  /// Requests a second of an open loop, which sends when a request is due, whatever the server is at; 0: a closed loop
  /// of `concurrency` clients, each of which sends its next request after the last one's end.
  double rate = 0;
  int64_t concurrency = 8;
  int64_t requests = 64;                         ///< At most so many.
  Duration duration = Duration::max();           ///< No request begins later.
  Duration timeout = std::chrono::seconds(600);  ///< Of one request.
  uint64_t seed = 0;                             ///< Of the arrivals.
  int64_t first_index = 0;                       ///< The workload's number of the first request.
};

/// One request. Times are nanoseconds from the start of the run.
struct LoadSample {
  int64_t due_ns = 0;  ///< When it was to be sent.
  int64_t sent_ns = 0;
  int64_t first_ns = -1;  ///< First event with text; -1: none came.
  int64_t end_ns = 0;
  std::vector<int64_t> event_ns;  ///< Of all events with text.
  int64_t prompt_tokens = 0;      ///< As the server counts, 0 where it does not say.
  int64_t cached_tokens = 0;
  int64_t output_tokens = 0;  ///< Likewise; else the number of events with text.
  std::string error;          ///< Its kind: "http 429", "timed out", ...; empty where all went well.
  std::string error_text;
};

struct LoadResult {
  std::vector<LoadSample> samples;  ///< In the order of being sent.
  int64_t elapsed_ns = 0;
  int64_t in_flight_max = 0;
};

/// Runs to the end. Whatever a server does is in the samples.
LoadResult RunLoad(AsyncHttpClient& client, const Workload& workload, const LoadOptions& options);

}  // namespace shoal
