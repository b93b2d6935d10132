// What `shoal top` shows, read from what a coordinator answers. Nothing of an answer is trusted: what is missing, or is of
// another type than it should be, is left out.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "api/json.h"
#include "api/top/scrape.h"

namespace shoal {

/// The answers of one moment.
struct TopLook {
  double at_s = 0;  ///< Of a clock that never goes back.
  Scrape metrics;
};

struct TopNode {
  std::string name;
  std::string state;  // text: "up", "lost, out", "loading 43 %", ..., in the coordinator's words
  bool well = true;
  std::string layers;  ///< "0-11"; "" for none.
  int64_t experts = 0;
  int64_t memory_bytes = 0;  ///< That it may use; 0: unknown, as for the next.
  int64_t weight_bytes = 0;
  std::optional<double> busy;  ///< Share of the time that its stage computes.
  std::optional<double> wait;  ///< That it waits for the experts of others.
  std::string machine;
};

struct TopLink {
  std::string a, b;
  double rtt_us = 0;
  double mbs = 0;  ///< 10^6 bytes/s; 0: not measured.
};

struct TopEvent {
  int64_t id = 0;
  int64_t at = 0;    ///< Unix seconds.
  std::string kind;  // text: the coordinator words it
  std::string node;
  std::string text;
};

struct TopExperts {
  int64_t layer = 0;
  std::string owner;  ///< Of the layer.
  double local_share = 0;
  std::vector<double> rows;  ///< By expert.
};

/// p50, p90, p99 in seconds; nothing where nothing was observed.
using TopQuantiles = std::array<std::optional<double>, 3>;

struct TopPicture {
  std::string url;
  std::string problem;  ///< Why the last look brought nothing; "": it did.
  int64_t seen_at = 0;  ///< Unix seconds of the last look that did; 0: none did.

  std::string model;
  std::string status;  // text: "up", "down", "degraded", as the coordinator words it; "": not known yet
  std::string error;   ///< Why it is down, or why a move failed.
  int64_t generation = 0;
  double predicted_tokens = 0;  ///< Per second, of one stream; 0: not predicted.
  std::vector<TopNode> nodes;
  std::vector<TopLink> links;

  std::optional<double> tokens;  ///< Per second; nothing before the second look, as the next.
  std::optional<double> steps;
  double running = 0, waiting = 0, queue_wait_s = 0;
  TopQuantiles first_token, between_tokens;
  double recent_s = 0;  ///< They are of so many seconds; 0: since the start of the server.
  double blocks_used = 0, blocks_cached = 0, blocks_free = 0;
  double reused_share = 0;  ///< Of sequences that began from cached tokens.

  std::vector<TopEvent> events;  ///< Newest first.
  std::vector<TopExperts> experts;
};

/// Of GET /cluster/status.
void ReadStatus(const Json& status, TopPicture& picture);
/// Of GET /metrics, as it was asked again and again: oldest first. Needs the nodes of the status.
void ReadMetrics(const std::vector<TopLook>& looks, TopPicture& picture);
/// Adds what GET /cluster/events tells, and returns the id of the last. `after`: of the last that is known. A server that began
/// anew tells a smaller one: then all that was known goes.
int64_t ReadEvents(const Json& answer, int64_t after, std::vector<TopEvent>& events);
/// Of GET /cluster/experts.
std::vector<TopExperts> ReadExperts(const Json& report);

}  // namespace shoal
