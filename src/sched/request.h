// What the API gives the scheduler, and what comes back.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "exec/step.h"

namespace shoal {

/// One generation, validated and tokenized.
struct GenerationRequest {
  std::string id;               ///< For logs and answers, e.g. "chatcmpl-...".
  std::vector<int32_t> prompt;  ///< At least one id.
  SamplingParams sampling;
  int64_t max_tokens = 0;        ///< > 0; the API fills in "the rest of the context" where absent.
  std::vector<int32_t> eos_ids;  ///< End the text; not part of it.
  bool ignore_eos = false;
  Deadline deadline;  ///< When it passes, the request ends with DeadlineExceeded.
};

enum class FinishReason { kStop, kLength };

/// What the API gives the scheduler to be told. Called from the scheduler's thread; must not block.
class EventSink {
 public:
  virtual ~EventSink() = default;
  /// A generated id, in order. The end-of-text id itself is not passed on. Returns whether more are wanted:
  /// false (a stop string is complete, the client is gone) ends the request with on_finish(kStop), and no
  /// further token is computed.
  virtual bool on_token(int32_t token) = 0;
  /// The end; nothing follows.
  virtual void on_finish(FinishReason reason) = 0;
  /// The end by an error: ResourceExhausted (queue full), InvalidArgument (can never fit), Unavailable (a
  /// node is lost), DeadlineExceeded, Cancelled (shutdown). Nothing follows.
  virtual void on_error(const absl::Status& status) = 0;
};

}  // namespace shoal
