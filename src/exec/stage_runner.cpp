#include "exec/stage_runner.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "compute/row_ops.h"
#include "compute/step_profile.h"
#include "exec/block_table.h"
#include "exec/model_facts.h"
#include "exec/together_or_apart.h"
#include "wire/row_codec.h"

namespace shoal {
namespace {

/// What to do about a value that is not finite.
constexpr std::string_view kNotFiniteHint =
    "the model leaves the range of its numbers on this text: check its weights with `shoal inspect`, or try "
    "--activations f32";

/// How many rows of a slice are sampled: its last ones.
int64_t SampledRows(const SeqSlice& slice) {
  return slice.sample_from == kNoSample ? 0 : std::ssize(slice.tokens) - slice.sample_from;
}

/// What the step gave sequence `id`.
SeqResult& ResultOf(StepResult& result, SeqId id) {
  const auto found =
      std::ranges::find(result.sequences.rbegin(), result.sequences.rend(), id, &SeqResult::id);
  if (found != result.sequences.rend()) return *found;
  result.sequences.emplace_back().id = id;
  return result.sequences.back();
}

/// Rows of a slice that go into its sequence's embedding: its last ones.
int64_t PooledRows(const SeqSlice& slice) {
  if (slice.pool == Pool::kNone) return 0;
  return slice.pool == Pool::kLast ? 1 : std::ssize(slice.tokens);
}

void EraseRows(std::vector<RoutingTrace>& traces, Range rows) {
  for (RoutingTrace& trace : traces) {
    trace.ids.erase(trace.ids.begin() + rows.begin * trace.top_k, trace.ids.begin() + rows.end * trace.top_k);
  }
}

/// In the place of what a failed attempt at the layer left.
void AddTrace(std::vector<RoutingTrace>& traces, LayerId layer, const Routing& routing) {
  RoutingTrace trace{layer, static_cast<int32_t>(routing.ids.cols), {}};
  for (int64_t t = 0; t < routing.ids.rows; ++t) {
    trace.ids.insert(trace.ids.end(), routing.ids.row(t), routing.ids.row(t) + routing.ids.cols);
  }
  if (!traces.empty() && traces.back().layer == layer) traces.pop_back();
  traces.push_back(std::move(trace));
}

bool AllOk(std::span<const absl::Status> outcomes) {
  return std::ranges::all_of(outcomes, [](const absl::Status& outcome) { return outcome.ok(); });
}

}  // namespace

StageRunner::StageRunner(Options options)
    : options_(options),
      first_(options.plan->first_node() == options.self),
      last_(options.plan->last_node() == options.self),
      format_(RowFormatOf(*options.plan)) {
  if (!last_ || !options.plan->mtp) return;
  mtp_.emplace(MtpRunner::Options{.compute = options.compute,
                                  .vocabulary = options.limits.vocabulary,
                                  .width = options.width,
                                  .logit_rows = options.logit_rows});
}

absl::StatusOr<Outgoing> StageRunner::run(const Frame& frame, Arena& scratch, PlannedExchange& exchange,
                                          const std::function<absl::Status(LayerId)>& before_layer) {
  const int64_t started_ns = NowNs();
  const int64_t saturated_before = options_.compute->kv_saturated();
  ASSIGN_OR_RETURN(StepMessage message, DecodeStep(frame, {format_, options_.row_width}));
  RETURN_IF_ERROR(ValidateStep(message.step, options_.limits));

  scratch.reset();
  exchange.begin_step(message.step.id, scratch);
  if (options_.masks != nullptr) options_.masks->begin_step(message.step.id);
  if (options_.kv_tier != nullptr) options_.kv_tier->begin_step(message.step);
  if (options_.copier != nullptr) options_.copier->begin_step(message.step);
  ASSIGN_OR_RETURN(MatView<float> x, receive(scratch, message));
  RETURN_IF_ERROR(forward(scratch, exchange, message, x, before_layer));

  // The time is taken before the rows are packed for sending: it is this stage's share of the step.
  const auto report_time = [&](std::vector<StageTiming>& timings) {
    const int64_t mask_wait_ns = options_.masks == nullptr ? 0 : options_.masks->waited_ns();
    timings.push_back({.node = options_.self,
                       .busy_ns = NowNs() - started_ns - exchange.waited_ns() - mask_wait_ns,
                       .expert_wait_ns = exchange.waited_ns(),
                       .expert_overhead_ns = exchange.overhead_ns(),
                       .kv_saturated = options_.compute->kv_saturated() - saturated_before,
                       .mask_wait_ns = mask_wait_ns});
  };
  const Plan& plan = *options_.plan;
  if (!last_) {
    report_time(message.report.timings);
    drop_unsendable(message, x);
    const NodeId next = plan.stages[static_cast<size_t>(*plan.stage_of(options_.self)) + 1].node;
    return Outgoing{next, EncodeStep(plan.epoch, message.step, message.report, x, format_)};
  }
  ASSIGN_OR_RETURN(StepResult result, finish(scratch, message, x, before_layer));
  report_time(result.timings);
  return Outgoing{Plan::kCoordinator, EncodeResult(plan.epoch, result)};
}

/// The rows of the slices that can be run.
absl::StatusOr<MatView<float>> StageRunner::receive(Arena& scratch, StepMessage& message) {
  const int64_t rows = message.step.rows();
  if (!first_ && std::ssize(message.rows) != rows * options_.row_width) {
    return InvalidArgument("step {}: {} rows of width {}, expected {} of {}", message.step.id,
                           message.cols == 0 ? 0 : std::ssize(message.rows) / message.cols, message.cols,
                           rows, options_.row_width);
  }
  MatView<float> x(first_ ? nullptr : message.rows.data(), rows, options_.row_width);
  screen(message.step);
  drop_rows(message, x);
  drop_slices(message);
  if (!first_) return x;
  x = scratch.allocate_rows<float>(message.step.rows(), options_.row_width);
  RETURN_IF_ERROR(embed(scratch, message.step, x));
  drop_rows(message, x);
  drop_slices(message);
  if (options_.hook) options_.hook(LayerId{-1}, x);
  return x;
}

/// Marks the slices that need not be tried.
void StageRunner::screen(const Step& step) {
  for (const SeqId id : step.ends) failed_.erase(id);
  for (const NewSequence& sequence : step.begins) failed_.erase(sequence.id);
  outcomes_.assign(step.slices.size(), absl::OkStatus());
  for (size_t i = 0; i < step.slices.size(); ++i) {
    const SeqSlice& slice = step.slices[i];
    if (slice.position == 0) failed_.erase(slice.id);  // All that came before is forgotten.
    if (const auto failed = failed_.find(slice.id); failed != failed_.end()) {
      outcomes_[i] = failed->second;
      continue;
    }
    for (const std::vector<int32_t>* list : {&slice.tokens, &slice.scored}) {
      const auto unknown = std::ranges::find_if(
          *list, [&](int32_t token) { return token < 0 || token >= options_.limits.vocabulary; });
      if (unknown == list->end()) continue;
      fail(slice, i,
           InvalidArgument("token {} is outside the model's vocabulary of {}", *unknown,
                           options_.limits.vocabulary));
      break;
    }
  }
}

/// Marks slice `index` of the step, and remembers its sequence.
void StageRunner::fail(const SeqSlice& slice, size_t index, const absl::Status& why) {
  std::string text = fmt::format("sequence {}, node '{}': {}", slice.id,
                                 options_.plan->node(options_.self).name, Message(why));
  if (why.code() == absl::StatusCode::kOutOfRange) text += fmt::format("; {}", kNotFiniteHint);
  outcomes_[index] = absl::Status(why.code(), text);
  failed_[slice.id] = outcomes_[index];
}

/// Takes the rows of the marked slices out of x, if it has any, and out of the traces.
void StageRunner::drop_rows(StepMessage& message, MatView<float>& x) const {
  if (AllOk(outcomes_)) return;
  int64_t kept = 0;
  int64_t row = 0;
  for (size_t i = 0; i < outcomes_.size(); ++i) {
    const auto rows = std::ssize(message.step.slices[i].tokens);
    if (!outcomes_[i].ok()) {
      EraseRows(message.report.routing, {kept, kept + rows});
    } else {
      if (x.data != nullptr) CopyRows(x.rows_between(row, row + rows), x, kept);
      kept += rows;
    }
    row += rows;
  }
  x = x.rows_between(0, kept);
}

/// Takes the marked slices out of the step, and reports them.
void StageRunner::drop_slices(StepMessage& message) {
  if (AllOk(outcomes_)) return;
  std::vector<SeqSlice> kept;
  for (size_t i = 0; i < outcomes_.size(); ++i) {
    SeqSlice& slice = message.step.slices[i];
    if (outcomes_[i].ok()) {
      kept.push_back(std::move(slice));
    } else {
      LogWarning("step {}: {}", message.step.id, Message(outcomes_[i]));
      message.report.failures.push_back({slice.id, outcomes_[i]});
    }
  }
  message.step.slices = std::move(kept);
  outcomes_.assign(message.step.slices.size(), absl::OkStatus());
}

absl::Status StageRunner::embed(Arena& scratch, const Step& step, MatView<float> x) {
  const std::span<int32_t> tokens = scratch.allocate<int32_t>(x.rows);
  const std::span<int64_t> begins = scratch.allocate<int64_t>(std::ssize(step.slices) + 1);
  int64_t row = 0;
  for (size_t i = 0; i < step.slices.size(); ++i) {
    begins[i] = row;
    std::ranges::copy(step.slices[i].tokens, tokens.begin() + row);
    row += std::ssize(step.slices[i].tokens);
  }
  begins[step.slices.size()] = row;
  return TogetherOrApart(
      std::ssize(step.slices),
      [&](Range slices) {
        const Range rows{begins[static_cast<size_t>(slices.begin)], begins[static_cast<size_t>(slices.end)]};
        return options_.compute->embed(
            tokens.subspan(static_cast<size_t>(rows.begin), static_cast<size_t>(rows.size())),
            x.rows_between(rows.begin, rows.end));
      },
      [&](int64_t i, const absl::Status& why) {
        const auto index = static_cast<size_t>(i);
        fail(step.slices[index], index, why);
      });
}

/// x then holds the rows of the slices that are left.
absl::Status StageRunner::forward(Arena& scratch, PlannedExchange& exchange, StepMessage& message,
                                  MatView<float>& x,
                                  const std::function<absl::Status(LayerId)>& before_layer) {
  const std::vector<SeqSlice>& slices = message.step.slices;
  const std::span<StepSlice> views = scratch.allocate<StepSlice>(std::ssize(slices));
  int64_t row = 0;
  for (size_t i = 0; i < slices.size(); ++i) {
    const auto rows = std::ssize(slices[i].tokens);
    const SeqSlice& slice = slices[i];
    views[i] = {row,
                rows,
                slice.position,
                TableFor(slice, scratch),
                slice.long_rope,
                slice.state_from,
                slice.state_to,
                slice.tokens};
    row += rows;
  }
  StageStep step;
  step.slices = views;
  step.experts = &exchange;
  step.before_layer = before_layer;
  step.after_layer = options_.hook;
  step.on_bad_slice = [this, &message](size_t slice, const absl::Status& why) {
    on_bad(message, slice, why);
  };
  if (message.step.want_routing) {
    step.on_routing = [&message](LayerId layer, const Routing& routing) {
      AddTrace(message.report.routing, layer, routing);
    };
  }
  RETURN_IF_ERROR(options_.compute->forward(step, x));
  drop_slices(message);
  x = x.rows_between(0, message.step.rows());
  return absl::OkStatus();
}

/// The rows of the slice have left x, and leave the traces.
void StageRunner::on_bad(StepMessage& message, size_t index, const absl::Status& why) {
  int64_t begin = 0;
  for (size_t i = 0; i < index; ++i) {
    if (outcomes_[i].ok()) begin += std::ssize(message.step.slices[i].tokens);
  }
  const SeqSlice& slice = message.step.slices[index];
  EraseRows(message.report.routing, {begin, begin + std::ssize(slice.tokens)});
  fail(slice, index, why);
}

/// Takes out the slices whose rows the plan's format does not hold: exact rows carry anything, and the next stage that
/// multiplies such a value ends the sequence.
void StageRunner::drop_unsendable(StepMessage& message, MatView<float>& x) {
  if (format_ == RowFormat::kExact) return;
  int64_t row = 0;
  for (size_t i = 0; i < message.step.slices.size(); ++i) {
    const SeqSlice& slice = message.step.slices[i];
    const int64_t begin = std::exchange(row, row + std::ssize(slice.tokens));
    if (RowsFit(x.rows_between(begin, row))) continue;
    fail(slice, i,
         OutOfRange("a row is not finite, or not below 2^127, and can't be sent as {}", Name(format_)));
  }
  drop_rows(message, x);
  drop_slices(message);
}

absl::Status StageRunner::remember(const Step& step) {
  for (const SeqId id : step.ends) sequences_.erase(id);
  for (const NewSequence& sequence : step.begins) {
    sequences_[sequence.id] = {sequence.sampling, TokenHistory(sequence.tokens, sequence.prompt_tokens)};
  }
  for (const SeqSlice& slice : step.slices) {
    const bool asked = slice.sample_from != kNoSample || !slice.scored.empty() || slice.pool != Pool::kNone;
    if (asked && !sequences_.contains(slice.id)) {
      return FailedPrecondition("step {}: sequence {} was never begun here", step.id, slice.id);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<StepResult> StageRunner::finish(Arena& scratch, StepMessage& message, MatView<float> x,
                                               const std::function<absl::Status(LayerId)>& before_layer) {
  StepResult result;
  result.id = message.step.id;
  RETURN_IF_ERROR(remember(message.step));
  RETURN_IF_ERROR(sample(scratch, message.step, x, result));
  if (mtp_) RETURN_IF_ERROR(predict(scratch, message.step, x, before_layer, result));
  RETURN_IF_ERROR(pool(scratch, message.step, x, result));
  drop_rows(message, x);
  drop_slices(message);
  if (message.step.want_logits) RETURN_IF_ERROR(all_logits(message, x, result));
  for (SeqFailure& failure : message.report.failures) {
    std::erase_if(result.sequences, [&](const SeqResult& sampled) { return sampled.id == failure.id; });
    result.sequences.push_back({failure.id, {}, std::move(failure.status)});
  }
  result.timings = std::move(message.report.timings);
  result.routing = std::move(message.report.routing);
  return result;
}

absl::Status StageRunner::sample(Arena& scratch, const Step& step, MatView<const float> x,
                                 StepResult& result) {
  const PhaseTimer timer(options_.profile, StepPhase::kSample);
  const ArenaScope scope(scratch);
  int64_t count = 0;
  for (const SeqSlice& slice : step.slices) count += SampledRows(slice) + std::ssize(slice.scored);
  const std::span<SampledRow> rows = scratch.allocate<SampledRow>(count);
  size_t at = 0;
  int64_t row = 0;
  for (size_t i = 0; i < step.slices.size(); ++i) {
    const SeqSlice& slice = step.slices[i];
    const auto end = std::ssize(slice.tokens);
    for (int64_t r = 0; r < std::ssize(slice.scored); ++r) {
      rows[at++] = {i, row + r, slice.position + r + 1, slice.scored[static_cast<size_t>(r)]};
    }
    for (int64_t r = end - SampledRows(slice); r < end; ++r)
      rows[at++] = {i, row + r, slice.position + r + 1};
    row += end;
  }
  const int64_t at_once = std::min(count, options_.logit_rows);
  const MatView<float> picked = scratch.allocate_rows<float>(at_once, options_.row_width);
  for (int64_t begin = 0; begin < count; begin += at_once) {
    const int64_t size = std::min(at_once, count - begin);
    const auto some = rows.subspan(static_cast<size_t>(begin), static_cast<size_t>(size));
    for (int64_t i = 0; i < size; ++i) {
      const int64_t from = some[static_cast<size_t>(i)].row;
      CopyRows(x.rows_between(from, from + 1), picked, i);
    }
    RETURN_IF_ERROR(TogetherOrApart(
        size,
        [&](Range part) {
          return options_.compute->head(picked.rows_between(part.begin, part.end), part.begin);
        },
        [&](int64_t i, const absl::Status& why) {
          const size_t slice = some[static_cast<size_t>(i)].slice;
          fail(step.slices[slice], slice, why);
        }));
    for (int64_t i = 0; i < size; ++i) {
      const SampledRow& one = some[static_cast<size_t>(i)];
      if (one.scored == kDraw) {
        RETURN_IF_ERROR(sample_row(step.slices[one.slice], one, i, result));
      } else {
        score_row(step.slices[one.slice], one, i, result);
      }
    }
  }
  return absl::OkStatus();
}

/// row: among those of the head.
absl::Status StageRunner::sample_row(const SeqSlice& slice, const SampledRow& sampled, int64_t row,
                                     StepResult& result) {
  if (!outcomes_[sampled.slice].ok()) return absl::OkStatus();
  TokenMask none;
  const TokenMask* mask = &none;
  if (slice.masked) {
    if (options_.masks == nullptr) return FailedPrecondition("sequence {}: no mask can come here", slice.id);
    ASSIGN_OR_RETURN(mask, options_.masks->wait_for(slice.id, sampled.position));
    if (!mask->status.ok()) {
      fail(slice, sampled.slice, mask->status);
      return absl::OkStatus();
    }
  }
  SequenceState& sequence = sequences_.at(slice.id);  // remember() saw to it.
  const auto known = static_cast<size_t>(sampled.position - slice.position);
  sequence.history.place(slice.position, std::span(slice.tokens).first(known));
  absl::StatusOr<SampledToken> token =
      options_.compute->sample(row, {sequence.sampling, sequence.history, sampled.position, mask->words});
  if (!token.ok()) {
    fail(slice, sampled.slice, token.status());
    return absl::OkStatus();
  }
  ResultOf(result, slice.id).tokens.push_back(*std::move(token));
  return absl::OkStatus();
}

/// row: among those of the head.
void StageRunner::score_row(const SeqSlice& slice, const SampledRow& scored, int64_t row,
                            StepResult& result) {
  if (!outcomes_[scored.slice].ok()) return;
  const SamplingParams& sampling = sequences_.at(slice.id).sampling;  // remember() saw to it.
  absl::StatusOr<SampledToken> score = options_.compute->score(
      row,
      {.id = scored.scored, .position = scored.position, .top = std::max(sampling.top_logprobs, int32_t{0})});
  if (!score.ok()) return fail(slice, scored.slice, score.status());
  ResultOf(result, slice.id).scores.push_back(*std::move(score));
}

/// A draft is worth no sequence: one that the head can't predict goes on without.
absl::Status StageRunner::predict(Arena& scratch, const Step& step, MatView<const float> x,
                                  const std::function<absl::Status(LayerId)>& before_layer,
                                  StepResult& result) {
  const ArenaScope scope(scratch);
  const std::span<MtpRunner::Slice> list = scratch.allocate<MtpRunner::Slice>(std::ssize(step.slices));
  size_t count = 0;
  int64_t row = 0;
  for (size_t i = 0; i < step.slices.size(); ++i) {
    const SeqSlice& slice = step.slices[i];
    const int64_t first = std::exchange(row, row + std::ssize(slice.tokens));
    const auto known = sequences_.find(slice.id);
    if (!outcomes_[i].ok() || (known != sequences_.end() && !known->second.predicts)) continue;
    MtpRunner::Slice& one = list[count++] = {.slice = &slice, .row = first};
    if (slice.sample_from == kNoSample) continue;
    one.tokens = ResultOf(result, slice.id).tokens;
    one.sampling = &known->second.sampling;  // remember() saw to it.
    one.history = &known->second.history;
  }
  RETURN_IF_ERROR(
      Annotate(mtp_->run(scratch, list.first(count), x, before_layer), fmt::format("step {}", step.id)));
  for (const MtpRunner::Slice& one : list.first(count)) {
    if (one.drafted != kNoToken) ResultOf(result, one.slice->id).drafted = {one.drafted};
    if (!one.failed) continue;
    LogDebug("step {}, sequence {}: the head that predicts leaves its range, and drafts no more for it",
             step.id, one.slice->id);
    if (const auto known = sequences_.find(one.slice->id); known != sequences_.end())
      known->second.predicts = false;
  }
  return absl::OkStatus();
}

absl::Status StageRunner::pool(Arena& scratch, const Step& step, MatView<const float> x, StepResult& result) {
  int64_t end = 0;
  for (size_t i = 0; i < step.slices.size(); ++i) {
    const SeqSlice& slice = step.slices[i];
    end += std::ssize(slice.tokens);
    const int64_t rows = PooledRows(slice);
    if (rows == 0 || !outcomes_[i].ok()) continue;
    const ArenaScope scope(scratch);
    const MatView<float> hidden = scratch.allocate_rows<float>(rows, options_.width);
    const absl::Status read = options_.compute->read_hidden(x.rows_between(end - rows, end), hidden);
    if (read.code() == absl::StatusCode::kOutOfRange) {
      fail(slice, i, read);
      continue;
    }
    RETURN_IF_ERROR(read);
    RETURN_IF_ERROR(Annotate(pool_rows(slice, hidden, result), fmt::format("step {}", step.id)));
  }
  return absl::OkStatus();
}

/// The sum is one chain over ascending positions, so that chunks leave no trace in it.
absl::Status StageRunner::pool_rows(const SeqSlice& slice, MatView<const float> hidden, StepResult& result) {
  if (slice.pool == Pool::kLast) {
    ResultOf(result, slice.id).embedding.assign(hidden.row(0), hidden.row(0) + hidden.cols);
    return absl::OkStatus();
  }
  SequenceState& sequence = sequences_.at(slice.id);  // remember() saw to it.
  if (slice.position != sequence.pooled_rows) {
    return FailedPrecondition(
        "sequence {}: rows from position {} on are to be pooled, expected those from {} on", slice.id,
        slice.position, sequence.pooled_rows);
  }
  sequence.pooled.resize(static_cast<size_t>(hidden.cols));
  for (int64_t r = 0; r < hidden.rows; ++r) {
    for (size_t c = 0; c < sequence.pooled.size(); ++c) sequence.pooled[c] += double{hidden.row(r)[c]};
  }
  sequence.pooled_rows += hidden.rows;
  if (slice.pool == Pool::kSum) return absl::OkStatus();
  std::vector<float>& mean = ResultOf(result, slice.id).embedding;
  for (const double sum : sequence.pooled) {
    mean.push_back(static_cast<float>(sum / static_cast<double>(sequence.pooled_rows)));
  }
  return absl::OkStatus();
}

absl::Status StageRunner::all_logits(StepMessage& message, MatView<float> x, StepResult& result) {
  const int64_t vocabulary = options_.limits.vocabulary;
  result.logits.resize(static_cast<size_t>(x.rows * vocabulary));
  MatView<float> logits(result.logits.data(), x.rows, vocabulary);
  const std::vector<SeqSlice>& slices = message.step.slices;
  std::vector<int64_t> begins(slices.size() + 1);
  for (size_t i = 0; i < slices.size(); ++i) begins[i + 1] = begins[i] + std::ssize(slices[i].tokens);
  RETURN_IF_ERROR(TogetherOrApart(
      std::ssize(slices),
      [&](Range part) {
        const Range rows{begins[static_cast<size_t>(part.begin)], begins[static_cast<size_t>(part.end)]};
        return options_.compute->read_logits(x.rows_between(rows.begin, rows.end),
                                             logits.rows_between(rows.begin, rows.end));
      },
      [&](int64_t i, const absl::Status& why) {
        const auto index = static_cast<size_t>(i);
        fail(slices[index], index, why);
      }));
  drop_rows(message, logits);
  drop_slices(message);
  result.logits.resize(static_cast<size_t>(logits.rows * vocabulary));
  return absl::OkStatus();
}

}  // namespace shoal
