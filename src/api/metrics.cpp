#include "api/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <mutex>
#include <string_view>
#include <utility>

namespace shoal {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;
using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;
using prometheus::MetricFamily;
using prometheus::Registry;

constexpr char kResponses[] = "shoal_http_responses_total";
constexpr char kOutboxMessages[] = "shoal_outbox_messages_total";
constexpr char kOutboxWaiting[] = "shoal_outbox_waiting_messages";
/// Of a server of several models, these are of the server, all others of a model.
constexpr std::string_view kOfTheServer[] = {kResponses, kOutboxMessages, kOutboxWaiting};

/// There from the start, at 0: alerts look for their growth.
constexpr const char* kErrorCodes[] = {"cancelled",          "cluster_unavailable", "context_length_exceeded",
                                       "deadline_exceeded",  "internal_error",      "invalid_request",
                                       "rate_limit_exceeded"};
constexpr const char* kEventKinds[] = {"back",        "down", "failed", "lost",   "move",
                                       "move_failed", "out",  "plan",   "session"};

const Histogram::BucketBoundaries kRequestSeconds = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,  2.5,
                                                     5,    10,    30,   60,  120,  300, 600};
const Histogram::BucketBoundaries kStepSeconds = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                                  0.1,    0.25,  0.5,    1,     2.5,  5};

Family<Counter>& CounterFamily(Registry& registry, const char* name, const char* help) {
  return BuildCounter().Name(name).Help(help).Register(registry);
}
Family<Gauge>& GaugeFamily(Registry& registry, const char* name, const char* help) {
  return BuildGauge().Name(name).Help(help).Register(registry);
}
Family<Histogram>& HistogramFamily(Registry& registry, const char* name, const char* help) {
  return BuildHistogram().Name(name).Help(help).Register(registry);
}

/// Of a counter in a node that may begin anew.
struct Followed {
  double last = 0;
  void follow(Counter& counter, int64_t total) {
    const auto now = static_cast<double>(total);
    counter.Increment(now >= last ? now - last : now);
    last = now;
  }
};

/// Brings a counter up to a total that somebody else counts.
void CatchUp(Counter& counter, double total) {
  if (total > counter.Value()) counter.Increment(total - counter.Value());
}

}  // namespace

struct Metrics::Impl {
  /// All, as they are now.
  std::vector<MetricFamily> collect();
  void refresh(const BuddyTotals& totals) {
    copies.Set(static_cast<double>(totals.copies));
    copies_bytes.Set(static_cast<double>(totals.bytes));
    copies_evicted.Set(static_cast<double>(totals.evicted));
    copies_sent.Set(static_cast<double>(totals.sent_bytes));
    CatchUp(copies_restored, static_cast<double>(totals.restored));
  }
  void refresh(const ExpertTotals& totals) {
    CatchUp(expert_rows, static_cast<double>(totals.rows));
    CatchUp(expert_rows_local, static_cast<double>(totals.rows_local));
    CatchUp(expert_rows_sent, static_cast<double>(totals.rows_sent));
    CatchUp(expert_messages, static_cast<double>(totals.messages));
  }
  void refresh(const ExpertTierStats& totals) {
    tier_resident.Set(static_cast<double>(totals.resident_bytes));
    tier_total.Set(static_cast<double>(totals.total_bytes));
    tier_hits.Set(static_cast<double>(totals.hits));
    tier_misses.Set(static_cast<double>(totals.misses));
    tier_read.Set(static_cast<double>(totals.bytes_read));
    tier_ahead_used.Set(static_cast<double>(totals.ahead_used));
    tier_ahead_wasted.Set(static_cast<double>(totals.ahead_wasted));
    tier_wait.Set(1e-9 * static_cast<double>(totals.wait_ns));
  }
  void refresh(const std::vector<LinkTotals>& links) {
    for (const LinkTotals& link : links) {
      const std::map<std::string, std::string> labels = {{"from", link.from}, {"to", link.to}};
      auto& [bytes, messages] = followed_links[{link.from, link.to}];
      bytes.follow(link_bytes.Add(labels), link.bytes);
      messages.follow(link_messages.Add(labels), link.messages);
      link_waiting.Add(labels).Set(static_cast<double>(link.bytes_waiting));
    }
  }
  void refresh(const std::vector<LinkSpeed>& speeds) {
    for (const LinkSpeed& speed : speeds) {
      for (const auto& [from, to] : {std::pair(speed.a, speed.b), std::pair(speed.b, speed.a)}) {
        link_rtt.Add({{"from", from}, {"to", to}}).Set(speed.rtt_s);
        if (speed.bytes_per_s > 0) link_speed.Add({{"from", from}, {"to", to}}).Set(speed.bytes_per_s);
      }
    }
  }
  void refresh(const std::vector<NodeUp>& nodes) {
    std::map<std::string, Gauge*> gone = std::exchange(known_nodes, {});
    for (const NodeUp& node : nodes) {
      Gauge& gauge = node_up.Add({{"node", node.name}});
      gauge.Set(node.up ? 1 : 0);
      known_nodes[node.name] = &gauge;
      gone.erase(node.name);
    }
    for (const auto& [name, gauge] : gone) node_up.Remove(gauge);
  }
  void refresh(const std::vector<OutboxCount>& counts) {
    for (const auto& [name, totals] : counts) {
      const auto catch_up = [&](const char* result, int64_t total) {
        CatchUp(outbox_messages.Add({{"to", name}, {"result", result}}), static_cast<double>(total));
      };
      catch_up("sent", totals.sent);
      catch_up("failed", totals.failed);
      catch_up("dropped", totals.dropped);
      outbox_waiting.Add({{"to", name}}).Set(static_cast<double>(totals.waiting));
    }
  }
  void refresh(const SchedulerStats& stats) {
    queue.Set(stats.waiting);
    queue_wait.Set(stats.queue_wait_s);
    running.Set(stats.running);
    engine_up.Set(stats.engine.ok() ? 1 : 0);
    nodes_out.Set(sources.nodes_out ? sources.nodes_out() : 0);
    blocks_free.Set(stats.blocks_free);
    blocks_used.Set(stats.blocks_used);
    blocks_cached.Set(stats.blocks_cached);
    CatchUp(prefix_hits, static_cast<double>(stats.prefix_cache.hits));
    CatchUp(prefix_misses, static_cast<double>(stats.prefix_cache.misses));
    CatchUp(prefix_tokens, static_cast<double>(stats.prefix_cache.tokens_reused));
    CatchUp(prefix_evictions, static_cast<double>(stats.prefix_cache.evictions));
    CatchUp(blocks_kept, static_cast<double>(stats.prefix_cache.kept));
    disk_blocks.Set(static_cast<double>(stats.kv_disk.blocks));
    disk_bytes.Set(static_cast<double>(stats.kv_disk.bytes));
    CatchUp(disk_hits, static_cast<double>(stats.kv_disk.hits));
    CatchUp(disk_tokens, static_cast<double>(stats.kv_disk.tokens_restored));
    CatchUp(disk_failures, static_cast<double>(stats.kv_disk.failures));
    disk_dropped.Set(static_cast<double>(stats.kv_disk.dropped));
    disk_errors.Set(static_cast<double>(stats.kv_disk.errors));
    CatchUp(steps, static_cast<double>(stats.steps));
    CatchUp(rows, static_cast<double>(stats.rows));
    CatchUp(preemptions, static_cast<double>(stats.preemptions));
    CatchUp(engine_losses, static_cast<double>(stats.engine_losses));
    CatchUp(restarts, static_cast<double>(stats.restarts));
    CatchUp(drafted, static_cast<double>(stats.drafts.drafted));
    CatchUp(drafts_accepted, static_cast<double>(stats.drafts.accepted));
    CatchUp(model_drafted, static_cast<double>(stats.model_drafts.drafted));
    CatchUp(model_drafts_accepted, static_cast<double>(stats.model_drafts.accepted));
    CatchUp(mtp_drafted, static_cast<double>(stats.mtp_drafts.drafted));
    CatchUp(mtp_drafts_accepted, static_cast<double>(stats.mtp_drafts.accepted));
    CatchUp(draft_steps, static_cast<double>(stats.draft_model.steps));
    CatchUp(draft_rows, static_cast<double>(stats.draft_model.rows));
    CatchUp(draft_seconds, 1e-9 * static_cast<double>(stats.draft_model.ns));
  }

  Registry registry;
  MetricsSources sources;
  std::function<std::vector<OutboxCount>()> outboxes;
  std::map<std::pair<std::string, std::string>, std::pair<Followed, Followed>> followed_links;
  std::map<std::string, Gauge*> known_nodes;
  std::mutex scrape_mutex;

  Family<Counter>& responses = CounterFamily(registry, kResponses, "Answers by route and HTTP status");
  Family<Counter>& errors = CounterFamily(registry, "shoal_request_errors_total",
                                          "Requests that were queued and ended with an error, by its code");
  Family<Counter>& events =
      CounterFamily(registry, "shoal_cluster_events_total", "What happened to the cluster, by kind");
  Family<Counter>& outbox_messages = CounterFamily(
      registry, kOutboxMessages, "Webhooks and traces for other servers, by what became of them");
  Family<Gauge>& outbox_waiting = GaugeFamily(registry, kOutboxWaiting, "Those that wait to be sent");
  Counter& prompt_tokens =
      CounterFamily(registry, "shoal_prompt_tokens_total", "Prompt tokens of accepted requests").Add({});
  Counter& generated_tokens =
      CounterFamily(registry, "shoal_generated_tokens_total", "Tokens given to clients").Add({});
  Histogram& first_token =
      HistogramFamily(registry, "shoal_time_to_first_token_seconds", "From the request to its first token")
          .Add({}, kRequestSeconds);
  Histogram& between_tokens =
      HistogramFamily(registry, "shoal_inter_token_latency_seconds", "Between two tokens of one request")
          .Add({}, kStepSeconds);
  Histogram& request = HistogramFamily(registry, "shoal_request_seconds", "From the request to its end")
                           .Add({}, kRequestSeconds);
  Histogram& step =
      HistogramFamily(registry, "shoal_step_seconds", "A step of the whole cluster, submit to result")
          .Add({}, kStepSeconds);
  Histogram& transit = HistogramFamily(registry, "shoal_step_transit_seconds",
                                       "A step's time between stages: hops, and the wait in their queues")
                           .Add({}, kStepSeconds);
  Family<Histogram>& stage_busy = HistogramFamily(
      registry, "shoal_stage_busy_seconds", "A step's time on one stage without waiting for remote experts");
  Family<Histogram>& stage_wait = HistogramFamily(registry, "shoal_stage_expert_wait_seconds",
                                                  "A step's wait for remote experts on one stage");
  Family<Histogram>& mask_wait = HistogramFamily(
      registry, "shoal_stage_mask_wait_seconds",
      "A step's wait for masks of grammars on the stage that samples; only steps that waited");
  Family<Counter>& stage_exchange =
      CounterFamily(registry, "shoal_stage_exchange_seconds_total",
                    "Time that a stage computes for the exchange with remote experts; part of its busy time");
  Family<Counter>& kv_saturated = CounterFamily(registry, "shoal_kv_saturated_total",
                                                "Keys and values beyond the range of an f16 cache, clamped");
  Gauge& queue = GaugeFamily(registry, "shoal_queue_requests", "Requests that wait").Add({});
  Gauge& queue_wait = GaugeFamily(registry, "shoal_queue_seconds",
                                  "Predicted wait of a request that comes now until it begins")
                          .Add({});
  Gauge& running = GaugeFamily(registry, "shoal_running_requests", "Requests that hold KV blocks").Add({});
  Gauge& engine_up = GaugeFamily(registry, "shoal_engine_up", "1 while the cluster can run steps").Add({});
  Family<Gauge>& blocks = GaugeFamily(registry, "shoal_kv_blocks", "KV blocks of each node by state");
  Gauge& blocks_free = blocks.Add({{"state", "free"}});
  Gauge& blocks_used = blocks.Add({{"state", "used"}});
  Gauge& blocks_cached = blocks.Add({{"state", "cached"}});
  Family<Counter>& prefix_lookups = CounterFamily(registry, "shoal_prefix_cache_lookups_total",
                                                  "Sequences that started, by what they found");
  Counter& prefix_hits = prefix_lookups.Add({{"result", "hit"}});
  Counter& prefix_misses = prefix_lookups.Add({{"result", "miss"}});
  Counter& prefix_tokens = CounterFamily(registry, "shoal_prefix_cache_tokens_reused_total",
                                         "Tokens of prompts that were not computed again")
                               .Add({});
  Counter& prefix_evictions =
      CounterFamily(registry, "shoal_prefix_cache_evictions_total", "Cached KV blocks that gave way").Add({});
  Counter& blocks_kept = CounterFamily(registry, "shoal_kv_blocks_kept_total",
                                       "KV blocks that were there again after the cluster was rebuilt")
                             .Add({});
  Gauge& copies =
      GaugeFamily(registry, "shoal_kv_copies", "Blocks and states of which buddies keep copies").Add({});
  Gauge& copies_bytes = GaugeFamily(registry, "shoal_kv_copies_bytes", "Bytes of them").Add({});
  Gauge& copies_evicted = GaugeFamily(registry, "shoal_kv_copies_evicted",
                                      "Copies that gave way for lack of room since the buddies started")
                              .Add({});
  Gauge& copies_sent = GaugeFamily(registry, "shoal_kv_copies_sent_bytes",
                                   "Bytes that buddies have fetched in the session that is open")
                           .Add({});
  Counter& copies_restored =
      CounterFamily(registry, "shoal_kv_copies_restored_total",
                    "Blocks and states that came from a buddy after a loss, and were not computed again")
          .Add({});
  Gauge& disk_blocks =
      GaugeFamily(registry, "shoal_kv_disk_blocks", "Blocks and states that all stages have on disk").Add({});
  Gauge& disk_bytes =
      GaugeFamily(registry, "shoal_kv_disk_bytes", "Bytes of the KV cache on disk, over all stages").Add({});
  Counter& disk_hits = CounterFamily(registry, "shoal_kv_disk_hits_total",
                                     "Sequences that started from blocks restored from disk")
                           .Add({});
  Counter& disk_tokens = CounterFamily(registry, "shoal_kv_disk_tokens_restored_total",
                                       "Tokens of prompts that were restored from disk")
                             .Add({});
  Counter& disk_failures = CounterFamily(registry, "shoal_kv_disk_failures_total",
                                         "Restores that gave less than was expected; the rest was computed")
                               .Add({});
  Gauge& disk_dropped =
      GaugeFamily(registry, "shoal_kv_disk_dropped",
                  "Blocks not written since the stages started: a disk was too slow, or full")
          .Add({});
  Gauge& disk_errors = GaugeFamily(registry, "shoal_kv_disk_errors",
                                   "Errors of disks, and damaged files, since the stages started")
                           .Add({});
  Counter& steps = CounterFamily(registry, "shoal_steps_total", "Steps that came back").Add({});
  Counter& rows =
      CounterFamily(registry, "shoal_rows_total", "Token rows computed, re-prefills included").Add({});
  Counter& preemptions =
      CounterFamily(registry, "shoal_preemptions_total", "Sequences that gave their KV blocks back").Add({});
  Gauge& nodes_out =
      GaugeFamily(registry, "shoal_nodes_out", "Nodes that the plan does without, as they were away").Add({});
  Family<Gauge>& node_up =
      GaugeFamily(registry, "shoal_node_up", "1 while the node takes part in the session");
  Counter& engine_losses =
      CounterFamily(registry, "shoal_engine_losses_total", "Times the cluster was lost").Add({});
  Counter& restarts =
      CounterFamily(registry, "shoal_restarts_total", "Requests kept over a loss, to start again").Add({});
  Counter& drafted =
      CounterFamily(registry, "shoal_drafted_tokens_total", "Tokens drafted and verified").Add({});
  Counter& drafts_accepted = CounterFamily(registry, "shoal_accepted_draft_tokens_total",
                                           "Drafted tokens that were right: no step of their own was needed")
                                 .Add({});
  Counter& model_drafted = CounterFamily(registry, "shoal_model_drafted_tokens_total",
                                         "Those of the drafted tokens that the draft model drafted")
                               .Add({});
  Counter& model_drafts_accepted =
      CounterFamily(registry, "shoal_accepted_model_draft_tokens_total", "Those of them that were right")
          .Add({});
  Counter& mtp_drafted =
      CounterFamily(registry, "shoal_mtp_drafted_tokens_total",
                    "Those of the drafted tokens that the model's head for multi-token prediction drafted")
          .Add({});
  Counter& mtp_drafts_accepted =
      CounterFamily(registry, "shoal_accepted_mtp_draft_tokens_total", "Those of them that were right")
          .Add({});
  Counter& draft_steps =
      CounterFamily(registry, "shoal_draft_model_steps_total", "Steps of the draft model").Add({});
  Counter& draft_rows =
      CounterFamily(registry, "shoal_draft_model_rows_total", "Token rows that they computed").Add({});
  Counter& draft_seconds =
      CounterFamily(registry, "shoal_draft_model_seconds_total", "Time that they took, submit to result")
          .Add({});
  Counter& expert_rows = CounterFamily(registry, "shoal_expert_rows_total",
                                       "Token rows through layers of experts, counted for each layer")
                             .Add({});
  Counter& expert_rows_local = CounterFamily(registry, "shoal_expert_rows_local_total",
                                             "Those whose experts were all on the node of the layer")
                                   .Add({});
  Counter& expert_rows_sent = CounterFamily(registry, "shoal_expert_rows_sent_total",
                                            "Rows sent to experts on other nodes, counted for each node")
                                  .Add({});
  Counter& expert_messages =
      CounterFamily(registry, "shoal_expert_messages_total", "Requests for experts sent to other nodes")
          .Add({});
  // Of experts that are not all in memory: gauges, as a node that comes back counts from zero.
  Gauge& tier_resident =
      GaugeFamily(registry, "shoal_expert_tier_resident_bytes",
                  "Memory for routed experts on nodes that read the others from their disks")
          .Add({});
  Gauge& tier_total =
      GaugeFamily(registry, "shoal_expert_tier_total_bytes", "Bytes of all routed experts of these nodes")
          .Add({});
  Gauge& tier_hits =
      GaugeFamily(registry, "shoal_expert_tier_hits", "Experts that were in memory when a step wanted them")
          .Add({});
  Gauge& tier_misses =
      GaugeFamily(registry, "shoal_expert_tier_misses", "Experts that were not, or not yet").Add({});
  Gauge& tier_read =
      GaugeFamily(registry, "shoal_expert_tier_read_bytes", "Bytes of experts that were read").Add({});
  Gauge& tier_ahead_used =
      GaugeFamily(registry, "shoal_expert_tier_ahead_used", "Experts read on a guess that came true").Add({});
  Gauge& tier_ahead_wasted =
      GaugeFamily(registry, "shoal_expert_tier_ahead_wasted", "Experts read on a guess that nobody wanted")
          .Add({});
  Gauge& tier_wait =
      GaugeFamily(registry, "shoal_expert_tier_wait_seconds", "What steps waited for reads of experts")
          .Add({});
  Family<Counter>& link_bytes =
      CounterFamily(registry, "shoal_link_bytes_total", "Bytes sent over each link");
  Family<Counter>& link_messages =
      CounterFamily(registry, "shoal_link_messages_total", "Messages sent over each link");
  Family<Gauge>& link_waiting =
      GaugeFamily(registry, "shoal_link_waiting_bytes",
                  "Bytes that wait for each link to take them, where they are sent");
  Family<Gauge>& link_rtt =
      GaugeFamily(registry, "shoal_link_rtt_seconds", "Round trip of a small message, as last measured");
  Family<Gauge>& link_speed =
      GaugeFamily(registry, "shoal_link_bytes_per_second", "What each link was last measured to carry");
};

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {
  for (const char* code : kErrorCodes) impl_->errors.Add({{"code", code}});
  for (const char* kind : kEventKinds) impl_->events.Add({{"kind", kind}});
}
Metrics::~Metrics() = default;

void Metrics::set_sources(MetricsSources sources) { impl_->sources = std::move(sources); }

void Metrics::set_outboxes(std::function<std::vector<OutboxCount>()> outboxes) {
  impl_->outboxes = std::move(outboxes);
}

void Metrics::count_error(const std::string& code) { impl_->errors.Add({{"code", code}}).Increment(); }
void Metrics::count_event(const std::string& kind) { impl_->events.Add({{"kind", kind}}).Increment(); }

void Metrics::count_response(const std::string& route, int status) {
  // Paths that do not exist are one label, or every scanner would make a new one.
  impl_->responses.Add({{"route", route.empty() ? "other" : route}, {"status", std::to_string(status)}})
      .Increment();
}
void Metrics::count_prompt_tokens(int64_t tokens) {
  impl_->prompt_tokens.Increment(static_cast<double>(tokens));
}
void Metrics::count_generated_token() { impl_->generated_tokens.Increment(); }
void Metrics::observe_first_token(double seconds) { impl_->first_token.Observe(seconds); }
void Metrics::observe_between_tokens(double seconds) { impl_->between_tokens.Observe(seconds); }
void Metrics::observe_request(double seconds) { impl_->request.Observe(seconds); }

void Metrics::observe_step(const StepObservation& observation) {
  impl_->step.Observe(static_cast<double>(observation.elapsed_ns) * 1e-9);
  impl_->transit.Observe(observation.transit_ns() * 1e-9);
  for (const StageTiming& timing : observation.timings) {
    const std::string node =
        impl_->sources.node_name ? impl_->sources.node_name(timing.node) : std::to_string(timing.node.value);
    impl_->stage_busy.Add({{"node", node}}, kStepSeconds).Observe(static_cast<double>(timing.busy_ns) * 1e-9);
    impl_->stage_wait.Add({{"node", node}}, kStepSeconds)
        .Observe(static_cast<double>(timing.expert_wait_ns) * 1e-9);
    impl_->stage_exchange.Add({{"node", node}})
        .Increment(static_cast<double>(std::max<int64_t>(timing.expert_overhead_ns, 0)) * 1e-9);
    Histogram& mask_wait = impl_->mask_wait.Add({{"node", node}}, kStepSeconds);
    if (timing.mask_wait_ns > 0) mask_wait.Observe(static_cast<double>(timing.mask_wait_ns) * 1e-9);
    impl_->kv_saturated.Add({{"node", node}}).Increment(static_cast<double>(timing.kv_saturated));
  }
}

std::vector<MetricFamily> Metrics::Impl::collect() {
  std::lock_guard lock(scrape_mutex);
  if (sources.scheduler) refresh(sources.scheduler());
  if (sources.nodes) {
    const NodeTotals totals = sources.nodes();
    refresh(totals.buddies);
    refresh(totals.expert_tiers);
    refresh(totals.up);
    refresh(totals.links);
  }
  if (sources.experts) refresh(sources.experts());
  if (sources.links) refresh(sources.links());
  if (sources.speeds) refresh(sources.speeds());
  if (outboxes) refresh(outboxes());
  return registry.Collect();
}

std::string Metrics::scrape() { return prometheus::TextSerializer().Serialize(impl_->collect()); }

std::string Metrics::ScrapeAll(Metrics& server, const std::vector<std::pair<std::string, Metrics*>>& models) {
  std::vector<MetricFamily> all;
  const auto of_the_server = [](const MetricFamily& family) {
    return std::ranges::find(kOfTheServer, family.name) != std::end(kOfTheServer);
  };
  for (MetricFamily& family : server.impl_->collect()) {
    if (of_the_server(family)) all.push_back(std::move(family));
  }
  for (const auto& [model, metrics] : models) {
    for (MetricFamily& family : metrics->impl_->collect()) {
      if (of_the_server(family)) continue;
      for (auto& metric : family.metric) metric.label.push_back({"model", model});
      // A family stands once in the text, with the metrics of all models.
      const auto known = std::ranges::find(all, family.name, &MetricFamily::name);
      if (known == all.end()) {
        all.push_back(std::move(family));
      } else {
        std::ranges::move(family.metric, std::back_inserter(known->metric));
      }
    }
  }
  return prometheus::TextSerializer().Serialize(all);
}

}  // namespace shoal
