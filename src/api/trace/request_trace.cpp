#include "api/trace/request_trace.h"

#include <algorithm>
#include <span>
#include <utility>

#include "base/random.h"
#include "base/status.h"

namespace shoal {
namespace {

using std::chrono::nanoseconds;

int64_t UnixNsNow() {
  return std::chrono::duration_cast<nanoseconds>(SystemTime(Deadline{}).time_since_epoch()).count();
}

/// From 0 to `most`: a peer may tell any number.
int64_t WithinNs(int64_t ns, int64_t most) { return std::clamp<int64_t>(ns, 0, most); }

}  // namespace

RequestTrace::RequestTrace(std::shared_ptr<Outbox> outbox, const TraceContext& context, uint64_t seed,
                           TracedRequest request)
    : outbox_(std::move(outbox)),
      context_(context),
      seed_(seed),
      request_(std::move(request)),
      created_unix_ns_(UnixNsNow()) {
  root_ = next_id();
  spans_.push_back({.id = root_,
                    .parent = context.span,
                    .name = request_.name,
                    .server = true,
                    .start_ns = unix_ns(std::min(request_.received, created_))});
}

RequestTrace::~RequestTrace() { end(Cancelled("the request was not taken")); }

int64_t RequestTrace::unix_ns(Clock::time_point at) const {
  return created_unix_ns_ + std::chrono::duration_cast<nanoseconds>(at - created_).count();
}

uint64_t RequestTrace::next_id() const {
  const uint64_t id = RandomBits(seed_, 0, spans_.size());
  return id == 0 ? 1 : id;
}

void RequestTrace::add(std::string name, Clock::time_point begin, SpanAttributes attributes) {
  spans_.push_back({.id = next_id(),
                    .parent = root_,
                    .name = std::move(name),
                    .start_ns = unix_ns(begin),
                    .end_ns = unix_ns(Clock::now()),
                    .attributes = std::move(attributes)});
}

void RequestTrace::begin(int64_t cached_tokens) {
  cached_tokens_ += cached_tokens;
  if (std::exchange(begun_, true)) return;
  begun_at_ = Clock::now();
  add("queue", created_, {});
}

void RequestTrace::tokens(int64_t count) {
  generated_tokens_ += count;
  if (std::exchange(answered_, true)) return;
  add("prefill", begun_at_,
      {{"gen_ai.usage.input_tokens", request_.prompt_tokens}, {"shoal.cached_tokens", cached_tokens_}});
}

void RequestTrace::step(const StepObservation& step) {
  const int64_t number = steps_++;
  if (number >= kStepsFirst && (number % kStepsEach != 0 || steps_kept_ >= kStepsMax)) return;
  ++steps_kept_;
  const int64_t end = unix_ns(Clock::now());
  Span span{.id = next_id(),
            .parent = root_,
            .name = "step",
            .start_ns = end - std::max<int64_t>(step.elapsed_ns, 0),
            .end_ns = end,
            .attributes = {{"shoal.step", static_cast<int64_t>(step.id.value)}, {"shoal.rows", step.rows}}};
  spans_.push_back(span);
  add_stages(step, span);
}

// What is known are durations. Children lie one behind the other, in the order of the stages, and fill the step: what no
// stage had is the hops between them, with the wait in their queues.
void RequestTrace::add_stages(const StepObservation& step, const Span& of) {
  int64_t at = of.start_ns;
  const auto child = [&](std::string name, uint64_t parent, int64_t ns, SpanAttributes attributes) {
    const int64_t end = at + WithinNs(ns, of.end_ns - at);
    spans_.push_back({.id = next_id(),
                      .parent = parent,
                      .name = std::move(name),
                      .start_ns = at,
                      .end_ns = end,
                      .attributes = std::move(attributes)});
    return std::exchange(at, end);
  };
  for (const StageTiming& timing : std::span(step.timings).first(std::min(step.timings.size(), kStagesMax))) {
    const std::string node =
        request_.node_name ? request_.node_name(timing.node) : fmt::format("{}", timing.node);
    const int64_t room = of.end_ns - at;
    const int64_t waits = WithinNs(timing.expert_wait_ns, room);
    const int64_t masks = WithinNs(timing.mask_wait_ns, room - waits);
    const int64_t busy = WithinNs(timing.busy_ns, room - waits - masks);
    const int64_t begin =
        child("stage", of.id, busy + waits + masks, {{"shoal.node", node}, {"shoal.busy_ns", busy}});
    const uint64_t stage = spans_.back().id;
    const int64_t end = std::exchange(at, begin);
    if (waits > 0) {
      child("experts", stage, waits,
            {{"shoal.node", node}, {"shoal.exchange_ns", WithinNs(timing.expert_overhead_ns, room)}});
    }
    if (masks > 0) child("mask", stage, masks, {{"shoal.node", node}});
    at = end;
  }
  if (!step.timings.empty())
    child("hops", of.id, of.end_ns - at, {{"shoal.hops", std::ssize(step.timings) + 1}});
}

void RequestTrace::end(const absl::Status& status) {
  if (std::exchange(ended_, true)) return;
  Span& root = spans_.front();
  root.end_ns = unix_ns(Clock::now());
  root.attributes = {{"gen_ai.request.model", request_.model},
                     {"gen_ai.usage.input_tokens", request_.prompt_tokens},
                     {"gen_ai.usage.output_tokens", generated_tokens_},
                     {"shoal.cached_tokens", cached_tokens_},
                     {"shoal.choices", int64_t{request_.choices}},
                     {"shoal.request", request_.id},
                     {"shoal.steps", steps_}};
  if (!status.ok()) root.error = ToString(status);
  outbox_->post([context = context_, spans = std::move(spans_)] {
    std::string text;
    for (const Span& span : spans) {
      if (!text.empty()) text += ',';
      text += OtlpSpan(context, span);
    }
    return text;
  });
}

}  // namespace shoal
