// What Prometheus scrapes at /metrics. All methods may be called from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/expert_tier_stats.h"
#include "sched/scheduler.h"

namespace shoal {

/// Bytes and messages of one direction of one link since the start, as a transport counts them.
struct LinkTotals {
  std::string from;  ///< Node names.
  std::string to;
  int64_t bytes = 0;
  int64_t messages = 0;
};

/// Copies of nodes' caches on their buddies, over all buddies.
struct BuddyTotals {
  int64_t copies = 0;  ///< Blocks and states there now.
  int64_t bytes = 0;
  int64_t evicted = 0;     ///< For lack of room, since the buddies started.
  int64_t sent_bytes = 0;  ///< To buddies, in the session that is open.
  int64_t restored = 0;    ///< Blocks and states that were not computed again after a loss; since the start.
};

/// What nodes tell of themselves, over all of them: asked of workers at most once for a scrape.
struct NodeTotals {
  BuddyTotals buddies;
  ExpertTierStats expert_tiers;
};

/// What (row, layer) pairs needed of experts on other nodes, since the start.
struct ExpertTotals {
  uint64_t rows = 0;
  uint64_t rows_local = 0;  ///< Those that needed none.
  uint64_t rows_sent = 0;   ///< Counted for each node that a row went to.
  uint64_t messages = 0;
};

struct MetricsSources {
  std::function<SchedulerStats()> scheduler;       ///< Asked at each scrape.
  std::function<std::vector<LinkTotals>()> links;  ///< Asked at each scrape; may be empty.
  std::function<NodeTotals()> nodes;               ///< Asked at each scrape; may be empty.
  std::function<std::string(NodeId)> node_name;    ///< For step times; may be empty: the id then.
  std::function<int()> nodes_out;                  ///< That the plan does without; may be empty: none then.
  std::function<ExpertTotals()> experts;           ///< Asked at each scrape; may be empty.
};

class Metrics {
 public:
  Metrics();
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  /// Set once, before the first scrape and the first step.
  void set_sources(MetricsSources sources);

  void count_response(const std::string& route, int status);
  void count_prompt_tokens(int64_t tokens);
  void count_generated_token();
  void observe_first_token(double seconds);
  void observe_between_tokens(double seconds);
  void observe_request(double seconds);
  /// For SchedulerOptions::on_step.
  void observe_step(const StepObservation& step);

  static constexpr char kContentType[] = "text/plain; version=0.0.4; charset=utf-8";
  /// The text format, version 0.0.4.
  std::string scrape();
  /// Of a server of several models: answers as `server` counted them, all else per model, with the label "model".
  static std::string ScrapeAll(Metrics& server, const std::vector<std::pair<std::string, Metrics*>>& models);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace shoal
