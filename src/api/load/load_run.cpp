#include "api/load/load_run.h"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "api/http/sse_reader.h"
#include "api/json.h"
#include "base/check.h"
#include "base/status.h"

namespace shoal {
namespace {

constexpr size_t kErrorBytesMax = 300;

const char* FailureName(HttpFailure failure) {
  switch (failure) {
    case HttpFailure::kNone:
      return "";
    case HttpFailure::kNotConnected:
      return "not connected";
    case HttpFailure::kHungUp:
      return "hung up";
    case HttpFailure::kTimedOut:
      return "timed out";
    case HttpFailure::kNotHttp:
      return "not HTTP";
  }
  return "";
}

int64_t Count(const Json& usage, const char* name) {
  const auto found = usage.find(name);
  return found != usage.end() && found->is_number_integer() ? found->get<int64_t>() : 0;
}

bool HasText(const Json& object, const char* name) {
  const auto found = object.find(name);
  if (found == object.end()) return false;
  return found->is_array() ? !found->empty()
                           : found->is_string() && !found->get_ref<const std::string&>().empty();
}

/// Whether an event brings some of the answer: text, reasoning, or a piece of a call.
bool BringsText(const Json& choice) {
  const auto delta = choice.find("delta");
  if (delta == choice.end()) return HasText(choice, "text");
  return delta->is_object() && (HasText(*delta, "content") || HasText(*delta, "reasoning_content") ||
                                HasText(*delta, "reasoning") || HasText(*delta, "tool_calls"));
}

class Run;

/// Reads the answer to one request.
class StreamObserver : public HttpObserver {
 public:
  StreamObserver(Run& run, size_t index) : run_(run), index_(index) {}

  void on_head(int status) override { status_ = status; }
  void on_body(std::string_view piece) override {
    if (status_ == 200) return reader_.push(piece);
    if (refusal_.size() < kErrorBytesMax) refusal_ += piece.substr(0, kErrorBytesMax);
  }
  void on_end(HttpFailure failure, const std::string& why) override;

 private:
  void on_data(std::string_view data);
  LoadSample& sample();

  Run& run_;
  const size_t index_;
  SseReader reader_{[this](std::string_view data) { on_data(data); }};
  int status_ = 0;
  bool done_ = false;  // "[DONE]" came, or a reason why the text ends.
  std::string refusal_;
  std::string stream_error_;  // Of an error found in the stream.
};

class Run {
 public:
  Run(AsyncHttpClient& client, const Workload& workload, const LoadOptions& options)
      : client_(client), workload_(workload), options_(options), start_(Clock::now()) {}

  LoadResult go() {
    if (options_.rate > 0) {
      arrivals_.emplace(options_.rate, options_.seed);
      schedule();
    } else {
      const int64_t first = std::min(options_.concurrency, options_.requests);
      for (int64_t i = 0; i < first; ++i) send(Clock::now());
    }
    client_.run();
    result_.elapsed_ns = now_ns();
    return std::move(result_);
  }

  int64_t now_ns() const { return since_start(Clock::now()); }
  LoadSample& sample(size_t index) { return result_.samples[index]; }
  void ended() {
    --in_flight_;
    if (options_.rate == 0 && more()) send(Clock::now());
  }

 private:
  int64_t since_start(Clock::time_point time) const { return (time - start_).count(); }
  bool more() const {
    return std::ssize(result_.samples) < options_.requests && Clock::now() - start_ < options_.duration;
  }
  void schedule() {
    const auto due = FromSeconds(arrivals_->next());
    if (std::ssize(result_.samples) >= options_.requests || due >= options_.duration) return;
    client_.call_at(start_ + due, [this, due] {
      send(start_ + due);
      schedule();
    });
  }
  void send(Clock::time_point due) {
    const size_t index = result_.samples.size();
    result_.samples.push_back({.due_ns = since_start(due), .sent_ns = now_ns()});
    result_.in_flight_max = std::max(result_.in_flight_max, ++in_flight_);
    client_.post(workload_.path(), workload_.body(options_.first_index + static_cast<int64_t>(index)),
                 Deadline::after(options_.timeout), std::make_shared<StreamObserver>(*this, index));
  }

  AsyncHttpClient& client_;
  const Workload& workload_;
  const LoadOptions& options_;
  const Clock::time_point start_;
  std::optional<PoissonArrivals> arrivals_;
  LoadResult result_;
  int64_t in_flight_ = 0;
};

LoadSample& StreamObserver::sample() { return run_.sample(index_); }

void StreamObserver::on_data(std::string_view data) {
  if (data == "[DONE]") {
    done_ = true;
    return;
  }
  const Json event = Json::parse(data, nullptr, false);
  if (!event.is_object()) {
    if (stream_error_.empty()) stream_error_ = "not JSON";
    return;
  }
  if (event.contains("error")) {
    stream_error_ = "error event";
    refusal_ = std::string(data.substr(0, kErrorBytesMax));
    return;
  }
  if (const auto usage = event.find("usage"); usage != event.end() && usage->is_object()) {
    sample().prompt_tokens = Count(*usage, "prompt_tokens");
    sample().output_tokens = Count(*usage, "completion_tokens");
    const auto details = usage->find("prompt_tokens_details");
    if (details != usage->end() && details->is_object())
      sample().cached_tokens = Count(*details, "cached_tokens");
  }
  const auto choices = event.find("choices");
  if (choices == event.end() || !choices->is_array() || choices->empty() || !choices->front().is_object())
    return;
  const Json& choice = choices->front();
  if (const auto reason = choice.find("finish_reason"); reason != choice.end() && reason->is_string())
    done_ = true;
  if (!BringsText(choice)) return;
  const int64_t now = run_.now_ns();
  if (sample().first_ns < 0) sample().first_ns = now;
  sample().event_ns.push_back(now);
}

void StreamObserver::on_end(HttpFailure failure, const std::string& why) {
  LoadSample& sample = this->sample();
  sample.end_ns = run_.now_ns();
  if (sample.output_tokens == 0) sample.output_tokens = std::ssize(sample.event_ns);
  if (failure != HttpFailure::kNone) {
    sample.error = FailureName(failure);
    sample.error_text = why;
  } else if (status_ != 200) {
    sample.error = fmt::format("http {}", status_);
    sample.error_text = refusal_;
  } else if (!stream_error_.empty() || !done_) {
    sample.error = stream_error_.empty() ? "no end" : stream_error_;
    sample.error_text = refusal_;
  }
  run_.ended();
}

}  // namespace

LoadResult RunLoad(AsyncHttpClient& client, const Workload& workload, const LoadOptions& options) {
  SHOAL_CHECK_GE(options.concurrency, 1);
  return Run(client, workload, options).go();
}

}  // namespace shoal
