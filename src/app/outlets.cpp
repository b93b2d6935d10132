#include "app/outlets.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "api/http/text.h"
#include "api/json.h"
#include "app/command.h"
#include "base/status.h"

namespace shoal {
namespace {

constexpr int kWebhookAttempts =
    6;  ///< With the pauses between them half a minute, if the server answers at once.

std::string AlertJson(const std::string& server, const std::string& model, const ClusterEvent& event) {
  const std::string about = event.node.empty() ? model : event.node;
  return DumpJson({{"time", UtcText(event.at)},
                   {"severity", Name(event.weight)},
                   {"kind", event.kind},
                   {"node", event.node},
                   {"model", model},
                   {"server", server},
                   {"id", event.id},
                   {"text", fmt::format("{}: {}", about, event.text)}});
}

}  // namespace

void OutletFlags::add_to(Flags app) {
  app.add_option("--webhook", webhooks,
                 "URL to which what happens to the cluster is posted as JSON, http or https; repeatable")
      .envname("SHOAL_WEBHOOK");
  app.add_option("--otlp-endpoint", otlp_endpoint,
                 "Where traces of requests go: an OpenTelemetry collector, http://HOST:4318 (default: "
                 "nowhere)")
      .envname("SHOAL_OTLP_ENDPOINT");
  app.add_option("--trace-sample", trace_sample,
                 "The share of requests that are traced, 0 to 1, where their client does not say (default 1)")
      .range(0.0, 1.0);
}

absl::StatusOr<std::shared_ptr<Outlets>> Outlets::Open(const OutletFlags& flags, const std::string& node) {
  std::shared_ptr<Outlets> outlets(new Outlets(node));
  for (const std::string& webhook : flags.webhooks) {
    auto url = ParseHttpUrl(webhook);
    if (!url.ok()) return Annotate(url.status(), "serve --webhook");
    auto outbox = Outbox::Start({.name = "webhook", .url = *std::move(url), .attempts = kWebhookAttempts});
    if (!outbox.ok()) return Annotate(outbox.status(), "serve --webhook");
    outlets->webhooks_.push_back(*std::move(outbox));
  }
  if (flags.otlp_endpoint.empty()) return outlets;
  auto tracer = Tracer::Start({.endpoint = flags.otlp_endpoint,
                               .sample = flags.trace_sample,
                               .node = node,
                               .version = kShoalVersion});
  if (!tracer.ok()) return Annotate(tracer.status(), "serve --otlp-endpoint");
  outlets->tracer_ = *std::move(tracer);
  return outlets;
}

void Outlets::alert(const std::string& model, const std::vector<ClusterEvent>& events) {
  for (const ClusterEvent& event : events) {
    if (event.weight == EventWeight::kDetail) continue;
    const std::string text = AlertJson(node_, model, event);
    for (const auto& webhook : webhooks_) webhook->post([text] { return text; });
  }
}

std::vector<OutboxCount> Outlets::counts() const {
  std::vector<OutboxCount> counts;
  if (!webhooks_.empty()) counts.push_back({.name = "webhook"});
  for (const auto& webhook : webhooks_) {
    const OutboxTotals one = webhook->totals();
    OutboxTotals& all = counts.front().totals;
    all.sent += one.sent;
    all.failed += one.failed;
    all.dropped += one.dropped;
    all.waiting += one.waiting;
  }
  if (tracer_ != nullptr) counts.push_back({.name = "traces", .totals = tracer_->outbox().totals()});
  return counts;
}

void Outlets::stop(Duration patience) {
  const Deadline deadline = Deadline::after(patience);
  for (const auto& webhook : webhooks_) webhook->stop(deadline.remaining());
  if (tracer_ != nullptr) tracer_->stop(deadline.remaining());
}

}  // namespace shoal
