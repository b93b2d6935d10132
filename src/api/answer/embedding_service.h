// Embeddings of texts by the served model, for every API that asks for them. Knows no wire format.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/answer/answer_service.h"
#include "api/api_error.h"
#include "api/http/server.h"
#include "api/metrics.h"
#include "base/clock.h"
#include "sched/scheduler.h"

namespace shoal {

struct EmbeddingOptions {
  Pool pool = Pool::kLast;  ///< kLast or kMean.
  int64_t width = 0;        ///< D: values of an embedding.
  Duration request_deadline = std::chrono::seconds(600);
};

struct EmbeddingOrder {
  std::string id;                             ///< "embd-..."
  std::vector<std::vector<int32_t>> prompts;  ///< At least one.
  const char* prompt_field = "input";         ///< Where prompts are in the request, for errors.
  std::optional<int> priority;                ///< As AnswerOrder::priority.
  bool truncate = false;                      ///< A prompt that is too long loses its end, and is no error.
  std::optional<int64_t> dimensions;          ///< Only the first so many values; at most `width`.
};

struct Embeddings {
  std::vector<std::vector<float>> vectors;  ///< Of each prompt, of length 1.
  int64_t prompt_tokens = 0;
};

/// The first `dimensions` values of `values`, all where it is absent, divided by their Euclidean length: one chain of f64
/// sums in order, each value rounded once. Zeros stay zeros.
std::vector<float> Normalized(std::span<const float> values, std::optional<int64_t> dimensions);

class EmbeddingService {
 public:
  /// All must outlive it.
  EmbeddingService(EmbeddingOptions options, AnswerService& service, Scheduler& scheduler, Metrics& metrics);

  const EmbeddingOptions& options() const { return options_; }
  AnswerService& service() const { return service_; }

  /// `done` is called once, from the scheduler's thread. On an error nothing has begun, and the caller answers. Cancels
  /// when the writer's client goes away.
  using Done = std::function<void(const ApiResult<Embeddings>& embeddings)>;
  std::optional<ApiError> start(EmbeddingOrder order, Done done,
                                const std::shared_ptr<ResponseWriter>& writer);

 private:
  const EmbeddingOptions options_;
  AnswerService& service_;
  Scheduler& scheduler_;
  Metrics& metrics_;
};

}  // namespace shoal
