// What a server tells other servers without being asked: alerts to webhooks, traces to a collector.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "api/http/outbox.h"
#include "api/metrics.h"
#include "api/trace/tracer.h"
#include "app/flags.h"
#include "base/clock.h"
#include "cluster/event_log.h"

namespace shoal {

struct OutletFlags {
  std::vector<std::string> webhooks;  ///< URLs.
  std::string otlp_endpoint;          ///< Empty: no traces.
  double trace_sample = 1;

  void add_to(Flags app);
};

class Outlets {
 public:
  /// node: this process, in what is told. InvalidArgument names the flag.
  static absl::StatusOr<std::shared_ptr<Outlets>> Open(const OutletFlags& flags, const std::string& node);

  /// Tells webhooks of those events that weigh more than kDetail. Never waits.
  void alert(const std::string& model, const std::vector<ClusterEvent>& events);

  /// nullptr: nothing is traced.
  const std::shared_ptr<Tracer>& tracer() const { return tracer_; }

  /// "webhook", over all of them, and "traces", as far as there are any.
  std::vector<OutboxCount> counts() const;

  /// Sends what waits, for so long at most.
  void stop(Duration patience);

 private:
  explicit Outlets(std::string node) : node_(std::move(node)) {}

  const std::string node_;
  std::vector<std::unique_ptr<Outbox>> webhooks_;
  std::shared_ptr<Tracer> tracer_;
};

}  // namespace shoal
