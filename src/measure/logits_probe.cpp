#include "measure/logits_probe.h"

#include <algorithm>
#include <future>
#include <memory>
#include <utility>

#include "base/status.h"
#include "exec/sequence_cursor.h"
#include "kv/block_pool.h"

namespace shoal {
namespace {

/// Bytes of logits in one result frame, well below the frame limit.
constexpr int64_t kLogitBytesMax = int64_t{128} << 20;

absl::StatusOr<StepResult> RunStep(Engine& engine, uint64_t generation, Step step, Duration timeout) {
  // Shared with the callback, which may run after the wait below has timed out.
  auto done = std::make_shared<std::promise<absl::StatusOr<StepResult>>>();
  auto result = done->get_future();
  const StepId id = step.id;
  engine.submit(generation, std::move(step),
                [done](absl::StatusOr<StepResult> value) { done->set_value(std::move(value)); });
  if (result.wait_for(timeout) != std::future_status::ready) {
    return DeadlineExceeded("step {}: no result within {} s", id, timeout / std::chrono::seconds(1));
  }
  absl::StatusOr<StepResult> ended = result.get();
  RETURN_IF_ERROR(ended.status());
  for (const SeqResult& one : ended->sequences) RETURN_IF_ERROR(one.status);
  return ended;
}

absl::Status Check(const EngineLimits& limits, const ProbeRequest& request) {
  const auto positions = static_cast<int64_t>(request.ids.size()) + std::max<int64_t>(request.greedy, 0);
  if (request.ids.empty()) return InvalidArgument("ids: expected at least one token");
  if (positions > limits.context) {
    return InvalidArgument("ids: {} tokens and {} to generate, the context is {}", request.ids.size(),
                           request.greedy, limits.context);
  }
  if (request.first_block.value + BlocksFor(positions) > limits.blocks) {
    return InvalidArgument("ids: {} positions need {} KV blocks, there are {}", positions,
                           BlocksFor(positions), limits.blocks - request.first_block.value);
  }
  if (request.first_state_slot.value + limits.state_slots_each() > limits.state_slots) {
    return InvalidArgument("ids: a sequence needs {} state slots, there are {}", limits.state_slots_each(),
                           limits.state_slots - request.first_state_slot.value);
  }
  for (const int32_t id : request.ids) {
    if (id < 0 || id >= limits.vocabulary)
      return InvalidArgument("ids: {} is outside the vocabulary of {}", id, limits.vocabulary);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ProbeResult> ProbeLogits(Engine& engine, const ProbeRequest& request) {
  const Engine::State state = engine.state();
  RETURN_IF_ERROR(state.status);
  const EngineLimits& limits = state.limits;
  RETURN_IF_ERROR(Check(limits, request));
  const auto prompt = static_cast<int64_t>(request.ids.size());
  int64_t chunk = std::max<int64_t>(1, kLogitBytesMax / (int64_t{limits.vocabulary} * 4));
  chunk = std::min({chunk, prompt, int64_t{2048}});
  if (request.chunk > 0) chunk = std::min(chunk, request.chunk);

  ProbeResult out;
  out.vocabulary = limits.vocabulary;
  const SequenceRoom room{IdsFrom(request.first_block, BlocksFor(prompt + request.greedy)),
                          IdsFrom(request.first_state_slot, limits.state_slots_each())};
  SequenceCursor cursor;
  StepId id = request.first_step;
  std::vector<int32_t> tokens = request.ids;
  while (cursor.position() < prompt || std::ssize(out.greedy) < request.greedy) {
    const int64_t known = std::ssize(tokens);
    if (id == request.first_step || cursor.long_rope() != limits.long_rope(known)) {
      cursor = SequenceCursor(request.sequence, {room.blocks, room.slots, limits.long_rope(known)});
    }
    const int64_t position = cursor.position();
    Step step;
    step.id = id;
    // The logits of the prompt are wanted once, not when it is prefilled again for long rope.
    step.want_logits = position < prompt && out.greedy.empty();
    step.want_routing = step.want_logits && request.routing;
    if (position == 0) {
      step.begins.push_back({request.sequence, {.temperature = 0}, tokens, static_cast<int32_t>(prompt)});
    }
    const int64_t rows = std::min(chunk, known - position);
    const bool sample = position + rows == known && request.greedy > 0;
    step.slices.push_back(cursor.next(
        std::span(tokens).subspan(static_cast<size_t>(position), static_cast<size_t>(rows)), sample));
    ASSIGN_OR_RETURN(StepResult result,
                     RunStep(engine, state.generation, std::move(step), request.step_timeout));
    ++id.value;
    out.logits.insert(out.logits.end(), result.logits.begin(), result.logits.end());
    for (const RoutingTrace& trace : result.routing) {
      out.top_k = trace.top_k;
      auto& ids = out.routing[trace.layer.value];
      ids.insert(ids.end(), trace.ids.begin(), trace.ids.end());
    }
    if (!sample) continue;
    if (result.sequences.size() != 1 || result.sequences[0].tokens.size() != 1) {
      return Internal("step {}: expected one sampled token", result.id);
    }
    out.greedy.push_back(result.sequences[0].tokens[0].id);
    tokens.push_back(out.greedy.back());
  }
  out.next_step = id;
  return out;
}

}  // namespace shoal
