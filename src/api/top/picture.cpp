#include "api/top/picture.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/json.h"
#include "base/status.h"

namespace shoal {
namespace {

constexpr size_t kEventsMax = 512;
constexpr size_t kNodesMax = 4096;
/// Looks over which rates are taken: long enough to be calm.
constexpr size_t kWindow = 5;

double NumberIn(const Json& object, std::string_view key) {
  const Json& found = MemberOf(object, key);
  return found.is_number() ? found.get<double>() : 0;
}

int64_t CountIn(const Json& object, std::string_view key) {
  const double value = NumberIn(object, key);
  constexpr double kMost = 1e18;  // What an int64_t holds, whatever another program wrote.
  return static_cast<int64_t>(std::clamp(value, -kMost, kMost));
}

bool IsSet(const Json& object, std::string_view key) {
  const Json& found = MemberOf(object, key);
  return found.is_boolean() && found.get<bool>();
}

std::string StateOf(const Json& node) {
  const std::string state = TextOf(node, "state");
  const Json& out = MemberOf(node, "out");
  if (out.is_object()) {
    if (IsSet(out, "drained")) return "drained";
    return state == "lost" ? "lost, out" : "out";
  }
  for (const char* key : {"loading", "fetching"}) {
    const double total = NumberIn(MemberOf(node, key), "total_bytes");
    if (total > 0)
      return fmt::format("loading {:.0f} %", 100 * NumberIn(MemberOf(node, key), "bytes") / total);
  }
  return state;
}

std::string LayersOf(const Json& node) {
  const Json& layers = MemberOf(node, "layers");
  if (!layers.is_array() || layers.size() != 2 || !layers[0].is_number_integer() ||
      !layers[1].is_number_integer())
    return "";
  const auto begin = layers[0].get<int64_t>();
  const auto end = layers[1].get<int64_t>();
  return end - begin == 1 ? fmt::format("{}", begin) : fmt::format("{}-{}", begin, end - 1);
}

TopNode ReadNode(const Json& node) {
  TopNode read{.name = TextOf(node, "name"),
               .state = StateOf(node),
               .layers = LayersOf(node),
               .experts = CountIn(node, "experts"),
               .memory_bytes = CountIn(node, "memory_bytes"),
               .weight_bytes = CountIn(node, "weight_bytes"),
               .machine = TextOf(node, "device")};
  read.well = read.state != "lost" && read.state != "failed" && !MemberOf(node, "out").is_object();
  if (const auto threads = CountIn(node, "threads"); threads > 0)
    read.machine += fmt::format("{}{} threads", read.machine.empty() ? "" : ", ", threads);
  return read;
}

TopQuantiles QuantilesOf(const ScrapedHistogram& histogram) {
  return {histogram.quantile(0.5), histogram.quantile(0.9), histogram.quantile(0.99)};
}

}  // namespace

void ReadStatus(const Json& status, TopPicture& picture) {
  picture.model = TextOf(MemberOf(status, "model"), "name");
  picture.status = TextOf(status, "status");
  picture.error = TextOf(status, "error");
  if (picture.status == "up" && IsSet(status, "degraded")) picture.status = "degraded";
  if (picture.error.empty()) picture.error = TextOf(MemberOf(status, "move"), "error");
  picture.generation = CountIn(status, "generation");
  picture.predicted_tokens = NumberIn(MemberOf(status, "predicted"), "tokens_per_s_1");
  picture.nodes.clear();
  for (const Json& node : MemberOf(status, "nodes")) {
    if (node.is_object() && picture.nodes.size() < kNodesMax) picture.nodes.push_back(ReadNode(node));
  }
  picture.links.clear();
  for (const Json& link : MemberOf(status, "links"))
    picture.links.push_back(
        {TextOf(link, "a"), TextOf(link, "b"), NumberIn(link, "rtt_us"), NumberIn(link, "mbs")});
}

void ReadMetrics(const std::vector<TopLook>& looks, TopPicture& picture) {
  if (looks.empty()) return;
  const TopLook& now = looks.back();
  const TopLook& before = looks[looks.size() > kWindow ? looks.size() - 1 - kWindow : 0];
  const double passed = now.at_s - before.at_s;
  const auto rate = [&](std::string_view name, const ScrapeLabels& labels = {}) -> std::optional<double> {
    if (!(passed > 0)) return std::nullopt;
    return now.metrics.growth(before.metrics, name, labels) / passed;
  };
  picture.tokens = rate("shoal_generated_tokens_total");
  picture.steps = rate("shoal_steps_total");
  picture.running = now.metrics.total("shoal_running_requests");
  picture.waiting = now.metrics.total("shoal_queue_requests");
  picture.queue_wait_s = now.metrics.total("shoal_queue_wait_seconds");
  const auto blocks = [&](const char* state) {
    return now.metrics.total("shoal_kv_blocks", {{"state", state}});
  };
  picture.blocks_used = blocks("used");
  picture.blocks_cached = blocks("cached");
  picture.blocks_free = blocks("free");
  const double hits = now.metrics.total("shoal_prefix_cache_lookups_total", {{"result", "hit"}});
  const double lookups = now.metrics.total("shoal_prefix_cache_lookups_total");
  picture.reused_share = lookups > 0 ? hits / lookups : 0;
  for (TopNode& node : picture.nodes) {
    const ScrapeLabels labels = {{"node", node.name}};
    if (!now.metrics.has("shoal_stage_busy_seconds_sum", labels)) continue;
    node.busy = rate("shoal_stage_busy_seconds_sum", labels);
    node.wait = rate("shoal_stage_expert_wait_seconds_sum", labels);
  }
  constexpr const char* kFirst = "shoal_time_to_first_token_seconds";
  constexpr const char* kBetween = "shoal_inter_token_latency_seconds";
  ScrapedHistogram first = now.metrics.histogram(kFirst);
  ScrapedHistogram between = now.metrics.histogram(kBetween);
  const ScrapedHistogram recent = first.since(looks.front().metrics.histogram(kFirst));
  picture.recent_s = 0;
  if (looks.size() > 1 && recent.observations() > 0) {
    picture.recent_s = now.at_s - looks.front().at_s;
    first = recent;
    between = between.since(looks.front().metrics.histogram(kBetween));
  }
  picture.first_token = QuantilesOf(first);
  picture.between_tokens = QuantilesOf(between);
}

int64_t ReadEvents(const Json& answer, int64_t after, std::vector<TopEvent>& events) {
  const int64_t last = CountIn(answer, "last");
  if (last < after) events.clear();
  for (const Json& event : MemberOf(answer, "events")) {
    TopEvent read{CountIn(event, "id"), CountIn(event, "at"), TextOf(event, "kind"), TextOf(event, "node"),
                  TextOf(event, "text")};
    if (events.empty() || read.id > events.front().id) events.insert(events.begin(), std::move(read));
  }
  if (events.size() > kEventsMax) events.resize(kEventsMax);
  return last;
}

std::vector<TopExperts> ReadExperts(const Json& report) {
  const Json& names = MemberOf(report, "nodes");
  std::vector<TopExperts> experts;
  for (const Json& layer : MemberOf(report, "layers")) {
    TopExperts read{.layer = CountIn(layer, "layer"),
                    .owner = "",
                    .local_share = NumberIn(MemberOf(layer, "of_this_plan"), "local_share"),
                    .rows = {}};
    const Json& node = MemberOf(layer, "node");
    if (node.is_number_unsigned() && names.is_array() && node.get<uint64_t>() < names.size()) {
      const Json& name = names[node.get<size_t>()];
      if (name.is_string()) read.owner = name.get<std::string>();
    }
    for (const Json& rows : MemberOf(layer, "rows"))
      read.rows.push_back(rows.is_number() ? std::max(rows.get<double>(), 0.0) : 0);
    experts.push_back(std::move(read));
  }
  return experts;
}

}  // namespace shoal
