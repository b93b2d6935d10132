// What Prometheus scrapes at /metrics. All methods may be called from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "api/http/outbox.h"
#include "base/expert_tier_stats.h"
#include "sched/scheduler.h"

namespace shoal {

/// One direction of one link: what was sent, as a transport counts it. Counts may begin anew, with a node's session.
struct LinkTotals {
  std::string from;  ///< Node names.
  std::string to;
  int64_t bytes = 0;
  int64_t messages = 0;
  int64_t bytes_waiting = 0;  ///< Now, for the link to take them.
};

/// What a link was measured to take, the last time.
struct LinkSpeed {
  std::string a;  ///< Node names, in either order.
  std::string b;
  double rtt_s = 0;
  double bytes_per_s = 0;  ///< 0: not measured.
};

/// A node as its coordinator sees it.
struct NodeUp {
  std::string name;
  bool up = false;  ///< It takes part in the session.
};

/// Messages for another server: webhooks, traces.
struct OutboxCount {
  std::string name;
  OutboxTotals totals;
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
  std::vector<NodeUp> up;
  std::vector<LinkTotals> links;  ///< Between workers; those of the coordinator are MetricsSources::links.
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
  std::function<std::vector<LinkSpeed>()> speeds;  ///< Asked at each scrape; may be empty.
};

class Metrics {
 public:
  Metrics();
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  /// Set once, before the first scrape and the first step.
  void set_sources(MetricsSources sources);

  /// Set once, before the first scrape: what this process tells other servers; asked at each scrape.
  void set_outboxes(std::function<std::vector<OutboxCount>()> outboxes);

  void count_response(const std::string& route, int status);
  /// A request that was queued ended with an error, of this ApiError::code.
  void count_error(const std::string& code);
  /// Something happened to the cluster (ClusterEvent::kind).
  void count_event(const std::string& kind);
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
  /// Of a server of several models: answers and outboxes as `server` counted them, all else per model, with the label
  /// "model".
  static std::string ScrapeAll(Metrics& server, const std::vector<std::pair<std::string, Metrics*>>& models);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace shoal
