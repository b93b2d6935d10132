// What happens to one request that is traced: spans for the time in the queue, the prompt, and steps with the stages that
// ran them. See docs/operations.md.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "api/http/outbox.h"
#include "api/trace/otlp.h"
#include "base/clock.h"
#include "base/ids.h"
#include "sched/request.h"

namespace shoal {

/// A request as its trace begins.
struct TracedRequest {
  std::string name;  ///< "POST /v1/completions"
  std::string id;    ///< X-Request-Id
  std::string model;
  int64_t prompt_tokens = 0;  ///< Of all prompts.
  int choices = 1;
  Clock::time_point received = Clock::now();
  std::function<std::string(NodeId)> node_name = {};  ///< Of the plan in force; empty: the number.
};

/// From one thread at a time: whoever submits the request, then the scheduler's. None of it waits.
class RequestTrace {
 public:
  /// Of the steps the first kStepsFirst have spans, then one in kStepsEach, kStepsMax in all.
  static constexpr int64_t kStepsFirst = 32;
  static constexpr int64_t kStepsEach = 64;
  static constexpr int64_t kStepsMax = 128;
  static constexpr size_t kStagesMax = 16;  ///< Of a step; of the others there are only sums.

  /// context: the trace, and the span of the client's, or 0. seed: of the ids of spans.
  RequestTrace(std::shared_ptr<Outbox> outbox, const TraceContext& context, uint64_t seed,
               TracedRequest request);
  /// Ends it with an error, unless it has ended.
  ~RequestTrace();
  RequestTrace(const RequestTrace&) = delete;
  RequestTrace& operator=(const RequestTrace&) = delete;

  /// A choice begins: it has waited for that until now.
  void begin(int64_t cached_tokens);
  /// A step that the request had a part in, before its tokens.
  void step(const StepObservation& step);
  void tokens(int64_t count);
  /// Once. The rest happens on the outbox's thread.
  void end(const absl::Status& status);

 private:
  int64_t unix_ns(Clock::time_point at) const;
  uint64_t next_id() const;
  /// Ends now, begins at `begin`.
  void add(std::string name, Clock::time_point begin, SpanAttributes attributes);
  void add_stages(const StepObservation& step, const Span& of);

  const std::shared_ptr<Outbox> outbox_;
  TraceContext context_;
  const uint64_t seed_;
  const TracedRequest request_;
  const Clock::time_point created_ = Clock::now();
  const int64_t created_unix_ns_;
  uint64_t root_ = 0;
  std::vector<Span> spans_;
  bool begun_ = false;
  bool answered_ = false;
  bool ended_ = false;
  Clock::time_point begun_at_{};
  int64_t cached_tokens_ = 0;
  int64_t generated_tokens_ = 0;
  int64_t steps_ = 0;
  int64_t steps_kept_ = 0;
};

}  // namespace shoal
