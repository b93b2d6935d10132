// Which requests are traced, and where their traces go: an OpenTelemetry collector, over HTTP.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "api/http/outbox.h"
#include "api/trace/request_trace.h"

namespace shoal {

class Tracer {
 public:
  struct Options {
    std::string endpoint;  ///< "http://HOST:4318": traces go to its /v1/traces.
    double sample = 1;     ///< The share of traces that begin here which is kept, 0 to 1.
    std::string node;      ///< Of this process.
    std::string version;
  };
  /// InvalidArgument for an endpoint that is no URL.
  static absl::StatusOr<std::shared_ptr<Tracer>> Start(const Options& options);

  /// nullptr: it is not traced. traceparent: the client's header, or "": where it is one, it decides.
  std::shared_ptr<RequestTrace> begin(std::string_view traceparent, TracedRequest request);

  const Outbox& outbox() const { return *outbox_; }
  void stop(Duration patience) { outbox_->stop(patience); }

 private:
  Tracer(std::shared_ptr<Outbox> outbox, double sample);

  const std::shared_ptr<Outbox> outbox_;
  const double sample_;
  const uint64_t seed_;
  std::atomic<uint64_t> requests_ = 0;
};

}  // namespace shoal
