#include "api/trace/tracer.h"

#include <utility>

#include "base/random.h"
#include "base/status.h"

namespace shoal {
namespace {

constexpr std::string_view kTracesPath = "/v1/traces";
constexpr size_t kTracesWaitingMax = 512;
constexpr size_t kTracesPerPost = 32;
constexpr Duration kTracesBatchWait = std::chrono::seconds(1);
constexpr int kTracesAttempts = 3;

}  // namespace

absl::StatusOr<std::shared_ptr<Tracer>> Tracer::Start(const Options& options) {
  ASSIGN_OR_RETURN(HttpUrl url, ParseHttpUrl(options.endpoint));
  while (url.target.ends_with('/')) url.target.pop_back();
  if (!url.target.ends_with(kTracesPath)) url.target += kTracesPath;
  OtlpEnvelope envelope = OtlpEnvelopeOf({{"service.name", "shoal"},
                                          {"service.instance.id", options.node},
                                          {"service.version", options.version}},
                                         options.version);
  ASSIGN_OR_RETURN(std::unique_ptr<Outbox> outbox, Outbox::Start({.name = "traces",
                                                                  .url = std::move(url),
                                                                  .waiting_max = kTracesWaitingMax,
                                                                  .batch_max = kTracesPerPost,
                                                                  .batch_wait = kTracesBatchWait,
                                                                  .head = std::move(envelope.head),
                                                                  .tail = std::move(envelope.tail),
                                                                  .attempts = kTracesAttempts}));
  return std::shared_ptr<Tracer>(new Tracer(std::move(outbox), options.sample));
}

Tracer::Tracer(std::shared_ptr<Outbox> outbox, double sample)
    : outbox_(std::move(outbox)), sample_(sample), seed_(EntropySeed()) {}

std::shared_ptr<RequestTrace> Tracer::begin(std::string_view traceparent, TracedRequest request) {
  const uint64_t number = ++requests_;
  std::optional<TraceContext> context = ParseTraceParent(traceparent);
  if (!context.has_value()) {
    context = TraceContext{.trace_high = RandomBits(seed_, 1, number) | 1,  // Not 0.
                           .trace_low = RandomBits(seed_, 2, number),
                           .sampled = RandomUniform(seed_, 3, number) < sample_};
  }
  if (!context->sampled) return nullptr;
  return std::make_shared<RequestTrace>(outbox_, *context, RandomBits(seed_, 4, number), std::move(request));
}

}  // namespace shoal
