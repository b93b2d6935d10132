#include "exec/stage_runner.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/status.h"
#include "compute/step_profile.h"

namespace shoal {
namespace {

/// The state of one slice: where it comes from, and where it goes.
absl::Status ValidateStates(const SeqSlice& slice, const StepLimits& limits) {
  const auto known = [&](BlockId slot) { return slot.value >= 0 && slot.value < limits.state_slots; };
  if (limits.state_slots == 0) {
    if (slice.state_from == kNoState && slice.state_to.empty()) return absl::OkStatus();
    return InvalidArgument("state slots: expected none, as this model keeps no states");
  }
  if (slice.position == 0 ? slice.state_from != kNoState : !known(slice.state_from)) {
    return InvalidArgument("state from slot {} at position {}: expected {}", slice.state_from, slice.position,
                           slice.position == 0 ? fmt::format("{}, as nothing came before", kNoState)
                                               : fmt::format("one of {}", limits.state_slots));
  }
  const int64_t end = slice.position + std::ssize(slice.tokens);
  int64_t before = slice.position;
  for (const StateWrite& write : slice.state_to) {
    if (!known(write.slot)) {
      return InvalidArgument("state to slot {}: this node has {} slots", write.slot, limits.state_slots);
    }
    const bool last = &write == &slice.state_to.back();
    if (write.position <= before || (last ? write.position != end : write.position % kBlockPositions != 0)) {
      return InvalidArgument(
          "state behind {} tokens: expected ascending multiples of {} between {} and {}, and {} itself",
          write.position, kBlockPositions, slice.position, end, end);
    }
    before = write.position;
  }
  if (before != end) return InvalidArgument("state behind {} tokens: expected a slot for it, got none", end);
  return absl::OkStatus();
}

/// No slot is written twice, or written and read: a failed step could not be run again.
absl::Status ValidateSlotUse(const Step& step) {
  std::unordered_set<BlockId> written;
  for (const SeqSlice& slice : step.slices) {
    for (const StateWrite& write : slice.state_to) {
      if (written.insert(write.slot).second) continue;
      return InvalidArgument("step {}, sequence {}: state slot {} is written twice", step.id, slice.id,
                             write.slot);
    }
  }
  for (const SeqSlice& slice : step.slices) {
    if (!written.contains(slice.state_from)) continue;
    return InvalidArgument("step {}, sequence {}: state slot {} is read and written", step.id, slice.id,
                           slice.state_from);
  }
  return absl::OkStatus();
}

/// How many rows of a slice are sampled: its last ones.
int64_t SampledRows(const SeqSlice& slice) {
  return slice.sample_from == kNoSample ? 0 : std::ssize(slice.tokens) - slice.sample_from;
}

absl::Status ValidateSlice(const SeqSlice& slice, const StepLimits& limits) {
  const auto tokens = static_cast<int64_t>(slice.tokens.size());
  const auto blocks = static_cast<int64_t>(slice.blocks.size());
  const int64_t end = slice.position + tokens;
  if (slice.position < 0 || tokens == 0 || end > limits.context) {
    return InvalidArgument("positions [{}, {}): expected a part of [0, {})", slice.position, end,
                           limits.context);
  }
  if (blocks < BlocksFor(end)) {
    return InvalidArgument("block table of {} blocks: {} positions need {}", blocks, end, BlocksFor(end));
  }
  if (slice.sample_from != kNoSample && (slice.sample_from < 0 || slice.sample_from >= tokens)) {
    return InvalidArgument("sampled from row {} on: expected one of {}, or {} for none", slice.sample_from,
                           tokens, kNoSample);
  }
  if (!slice.long_rope && end > limits.short_rope_positions) {
    return InvalidArgument("positions [{}, {}) without long rope: short frequencies end at {}",
                           slice.position, end, limits.short_rope_positions);
  }
  if (slice.long_rope && limits.short_rope_positions == std::numeric_limits<int64_t>::max()) {
    return InvalidArgument("long rope: this model has no second set of frequencies");
  }
  for (const BlockId block : slice.blocks) {
    if (block.value < 0 || block.value >= limits.blocks) {
      return InvalidArgument("block {}: this node has {} blocks", block, limits.blocks);
    }
  }
  for (const int32_t token : slice.tokens) {
    if (token < 0 || token >= limits.vocabulary) {
      return InvalidArgument("token {}: the vocabulary has {}", token, limits.vocabulary);
    }
  }
  return ValidateStates(slice, limits);
}

}  // namespace

absl::Status ValidateStep(const Step& step, const StepLimits& limits) {
  const int64_t rows = step.rows();
  if (rows == 0 || rows > limits.rows_max) {
    return InvalidArgument("step {}: {} rows, expected 1 to {}", step.id, rows, limits.rows_max);
  }
  std::unordered_set<SeqId> seen;
  for (const SeqSlice& slice : step.slices) {
    const std::string where = fmt::format("step {}, sequence {}", step.id, slice.id);
    if (!seen.insert(slice.id).second) return InvalidArgument("{}: two slices of one sequence", where);
    RETURN_IF_ERROR(Annotate(ValidateSlice(slice, limits), where));
  }
  if (limits.state_slots > 0) RETURN_IF_ERROR(ValidateSlotUse(step));
  for (const NewSequence& sequence : step.begins) {
    const auto tokens = static_cast<int64_t>(sequence.tokens.size());
    if (sequence.prompt_tokens < 0 || sequence.prompt_tokens > tokens) {
      return InvalidArgument("step {}, sequence {}: {} prompt tokens of {}", step.id, sequence.id,
                             sequence.prompt_tokens, tokens);
    }
  }
  return absl::OkStatus();
}

StageRunner::StageRunner(Options options)
    : options_(options),
      first_(options.plan->first_node() == options.self),
      last_(options.plan->last_node() == options.self) {}

absl::StatusOr<Outgoing> StageRunner::run(const Frame& frame, const ComputeContext& context,
                                          PlannedExchange& exchange,
                                          const std::function<absl::Status(LayerId)>& before_layer) {
  const int64_t started_ns = NowNs();
  const int64_t saturated_before = options_.stage->kv_saturated();
  ASSIGN_OR_RETURN(StepMessage message, DecodeStep(frame));
  RETURN_IF_ERROR(ValidateStep(message.step, options_.limits));
  const int64_t rows = message.step.rows();

  context.arena->reset();
  exchange.begin_step(message.step.id, context);
  MatView<float> x(message.rows.data(), rows, message.cols);
  if (first_) {
    x = context.arena->allocate_rows<float>(rows, options_.width);
    const std::span<int32_t> tokens = context.arena->allocate<int32_t>(rows);
    auto out = tokens.begin();
    for (const SeqSlice& slice : message.step.slices)
      out = std::copy(slice.tokens.begin(), slice.tokens.end(), out);
    RETURN_IF_ERROR(options_.stage->embed(context, tokens, x));
    if (options_.hook) options_.hook(LayerId{-1}, x);
  } else if (message.cols != options_.width || message.rows.empty()) {
    return InvalidArgument("step {}: rows of width {}, expected {}", message.step.id, message.cols,
                           options_.width);
  }
  RETURN_IF_ERROR(forward(context, exchange, message, x, before_layer));

  // The time is taken before the rows are packed for sending: it is this stage's share of the step.
  const auto report_time = [&](std::vector<StageTiming>& timings) {
    timings.push_back({options_.self, NowNs() - started_ns - exchange.waited_ns(), exchange.waited_ns(),
                       exchange.overhead_ns(), options_.stage->kv_saturated() - saturated_before});
  };
  const Plan& plan = *options_.plan;
  if (!last_) {
    report_time(message.report.timings);
    const NodeId next = plan.stages[static_cast<size_t>(*plan.stage_of(options_.self)) + 1].node;
    return Outgoing{next, EncodeStep(plan.epoch, message.step, message.report, x)};
  }
  ASSIGN_OR_RETURN(StepResult result, finish(context, message, x));
  report_time(result.timings);
  return Outgoing{Plan::kCoordinator, EncodeResult(plan.epoch, result)};
}

absl::Status StageRunner::forward(const ComputeContext& context, PlannedExchange& exchange,
                                  StepMessage& message, MatView<float> x,
                                  const std::function<absl::Status(LayerId)>& before_layer) {
  const std::vector<SeqSlice>& slices = message.step.slices;
  const std::span<StepSlice> views = context.arena->allocate<StepSlice>(static_cast<int64_t>(slices.size()));
  int64_t row = 0;
  for (size_t i = 0; i < slices.size(); ++i) {
    const auto rows = static_cast<int64_t>(slices[i].tokens.size());
    const SeqSlice& slice = slices[i];
    views[i] = {row, rows, slice.position, slice.blocks, slice.long_rope, slice.state_from, slice.state_to};
    row += rows;
  }
  StageStep step;
  step.slices = views;
  step.cache = options_.cache;
  step.experts = &exchange;
  step.before_layer = before_layer;
  step.after_layer = options_.hook;
  if (message.step.want_routing) {
    step.on_routing = [&message](LayerId layer, const Routing& routing) {
      RoutingTrace trace{layer, static_cast<int32_t>(routing.ids.cols), {}};
      for (int64_t t = 0; t < routing.ids.rows; ++t) {
        trace.ids.insert(trace.ids.end(), routing.ids.row(t), routing.ids.row(t) + routing.ids.cols);
      }
      message.report.routing.push_back(std::move(trace));
    };
  }
  return options_.stage->forward(context, step, x);
}

absl::Status StageRunner::remember(const Step& step) {
  for (const SeqId id : step.ends) sequences_.erase(id);
  for (const NewSequence& sequence : step.begins) {
    sequences_[sequence.id] = {sequence.sampling, TokenHistory(sequence.tokens, sequence.prompt_tokens)};
  }
  for (const SeqSlice& slice : step.slices) {
    if (slice.sample_from != kNoSample && !sequences_.contains(slice.id)) {
      return FailedPrecondition("step {}: sequence {} was never begun here", step.id, slice.id);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<StepResult> StageRunner::finish(const ComputeContext& context, StepMessage& message,
                                               MatView<const float> x) {
  StepResult result;
  result.id = message.step.id;
  RETURN_IF_ERROR(remember(message.step));
  RETURN_IF_ERROR(sample(context, message.step, x, result));
  if (message.step.want_logits) RETURN_IF_ERROR(all_logits(context, x, result));
  result.timings = std::move(message.report.timings);
  result.routing = std::move(message.report.routing);
  return result;
}

absl::Status StageRunner::sample(const ComputeContext& context, const Step& step, MatView<const float> x,
                                 StepResult& result) {
  const PartTimer timer(context, StepPart::kSample);
  const ArenaScope scope(*context.arena);
  int64_t sampled = 0;
  for (const SeqSlice& slice : step.slices) sampled += SampledRows(slice);
  if (sampled == 0) return absl::OkStatus();
  const MatView<float> picked = context.arena->allocate_rows<float>(sampled, options_.width);
  const MatView<float> logits = context.arena->allocate_rows<float>(sampled, options_.limits.vocabulary);
  int64_t row = 0;
  int64_t at = 0;
  for (const SeqSlice& slice : step.slices) {
    row += std::ssize(slice.tokens);
    for (int64_t r = row - SampledRows(slice); r < row; ++r) {
      std::memcpy(picked.row(at++), x.row(r), static_cast<size_t>(options_.width) * sizeof(float));
    }
  }
  RETURN_IF_ERROR(options_.stage->head(context, picked, logits));
  at = 0;
  for (const SeqSlice& slice : step.slices) {
    if (slice.sample_from == kNoSample) continue;
    SequenceState& sequence = sequences_.at(slice.id);
    SeqResult& out = result.sequences.emplace_back();
    out.id = slice.id;
    for (int64_t r = slice.sample_from; r < std::ssize(slice.tokens); ++r) {
      const absl::StatusOr<int32_t> token =
          SampleToken(*context.kernels, sequence.sampling, sequence.history, slice.position + r + 1,
                      *context.arena, {logits.row(at++), static_cast<size_t>(logits.cols)});
      if (!token.ok())
        return Annotate(token.status(), fmt::format("step {}, sequence {}", step.id, slice.id));
      sequence.history.append(*token);
      out.tokens.push_back({.id = *token});
    }
  }
  return absl::OkStatus();
}

absl::Status StageRunner::all_logits(const ComputeContext& context, MatView<const float> x,
                                     StepResult& result) {
  const int64_t vocabulary = options_.limits.vocabulary;
  result.logits.resize(static_cast<size_t>(x.rows * vocabulary));
  return options_.stage->head(context, x, MatView<float>(result.logits.data(), x.rows, vocabulary));
}

}  // namespace shoal
