#include "api/answer/embedding_service.h"

#include <cmath>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/status.h"

namespace shoal {
namespace {

/// Collects the embeddings of one request.
class EmbeddingSink final : public EventSink {
 public:
  EmbeddingSink(EmbeddingOrder order, Metrics& metrics, EmbeddingService::Done done,
                std::shared_ptr<RequestTrace> trace)
      : order_(std::move(order)),
        metrics_(metrics),
        done_(std::move(done)),
        trace_(std::move(trace)),
        open_(order_.prompts.size()) {
    for (const std::vector<int32_t>& prompt : order_.prompts) embeddings_.prompt_tokens += std::ssize(prompt);
    embeddings_.vectors.resize(order_.prompts.size());
  }

  void on_begin(int /*choice*/, int64_t cached) override {
    if (trace_ != nullptr) trace_->begin(cached);
  }
  void on_step(const StepObservation& step) override {
    if (trace_ != nullptr) trace_->step(step);
  }
  bool on_tokens(int /*choice*/, std::span<const SampledToken> /*tokens*/) override { return false; }
  void on_embedding(int choice, std::span<const float> embedding) override {
    embeddings_.vectors.at(static_cast<size_t>(choice)) = Normalized(embedding, order_.dimensions);
  }
  void on_finish(int /*choice*/, FinishReason /*reason*/) override {
    if (--open_ == 0) end(std::move(embeddings_), absl::OkStatus());
  }
  void on_error(const absl::Status& status) override {
    if (status.code() != absl::StatusCode::kCancelled)
      LogWarning("{}: ended by {}", order_.id, ToString(status));
    const ApiError error = FromStatus(status, order_.prompt_field);
    metrics_.count_error(error.code);
    end(std::unexpected(error), status);
  }

 private:
  void end(const ApiResult<Embeddings>& result, const absl::Status& status) {
    metrics_.observe_request(SecondsOf(Clock::now() - started_));
    if (trace_ != nullptr) trace_->end(status);
    done_(result);
  }

  const EmbeddingOrder order_;
  Metrics& metrics_;
  const EmbeddingService::Done done_;
  const std::shared_ptr<RequestTrace> trace_;  ///< nullptr: it is not traced.
  size_t open_;                                // Prompts that have not ended.
  Embeddings embeddings_;
  const Clock::time_point started_ = Clock::now();
};

}  // namespace

std::vector<float> Normalized(std::span<const float> values, std::optional<int64_t> dimensions) {
  if (dimensions.has_value())
    values = values.first(std::min(values.size(), static_cast<size_t>(*dimensions)));
  double squares = 0;
  for (const float value : values) squares += double{value} * double{value};
  const double length = std::sqrt(squares);
  std::vector<float> out(values.begin(), values.end());
  if (length == 0) return out;
  for (float& value : out) value = static_cast<float>(double{value} / length);
  return out;
}

EmbeddingService::EmbeddingService(EmbeddingOptions options, AnswerService& service, Scheduler& scheduler,
                                   Metrics& metrics)
    : options_(options), service_(service), scheduler_(scheduler), metrics_(metrics) {
  SHOAL_CHECK(options_.pool == Pool::kLast || options_.pool == Pool::kMean);
}

std::optional<ApiError> EmbeddingService::start(EmbeddingOrder order, Done done,
                                                const std::shared_ptr<ResponseWriter>& writer) {
  if (service_.draining()) return ShuttingDown();
  const ApiResult<int> priority = service_.priority_for(order.priority, writer->caller());
  if (!priority.has_value()) return priority.error();
  if (order.dimensions.value_or(1) < 1 || order.dimensions.value_or(1) > options_.width) {
    return ApiError{.message = fmt::format("'dimensions' is {}; this model's embeddings have from 1 to {}",
                                           *order.dimensions, options_.width),
                    .param = "dimensions",
                    .code = "invalid_value"};
  }
  const int64_t room = service_.context() - 1;  // Always fits; 0 and less: not known yet.
  std::vector<GenerationRequest> requests;
  int64_t tokens = 0;
  for (std::vector<int32_t>& prompt : order.prompts) {
    if (order.truncate && room > 0 && std::ssize(prompt) > room) prompt.resize(static_cast<size_t>(room));
    if (auto wrong = service_.check_tokens(prompt)) {
      wrong->param = order.prompt_field;
      return wrong;
    }
    tokens += std::ssize(prompt);
    requests.push_back({.id = order.id,
                        .prompt = prompt,
                        .deadline = Deadline::after(options_.request_deadline),
                        .priority = *priority,
                        .party = writer->caller(),
                        .pool = options_.pool});
  }
  const char* field = order.prompt_field;
  const auto trace = service_.trace(*writer, tokens, static_cast<int>(requests.size()));
  auto sink = std::make_shared<EmbeddingSink>(std::move(order), metrics_, std::move(done), trace);
  const auto id = scheduler_.submit(std::move(requests), std::move(sink));
  if (!id.ok()) {
    if (trace != nullptr) trace->end(id.status());
    return FromStatus(id.status(), field);
  }
  metrics_.count_prompt_tokens(tokens);
  writer->on_disconnect(scheduler_.canceller(*id));
  return std::nullopt;
}

}  // namespace shoal
