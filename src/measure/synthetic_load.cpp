#include "measure/synthetic_load.h"

#include <algorithm>
#include <deque>
#include <future>
#include <iterator>
#include <memory>
#include <set>
#include <utility>

#include "base/check.h"
#include "base/random.h"
#include "base/status.h"
#include "kv/block_pool.h"

namespace shoal {
namespace {

/// Adds a step to the size of a run. Rows of a slice attend to all positions up to their own.
void Count(const Step& step, StepSize& size) {
  ++size.steps;
  for (const SeqSlice& slice : step.slices) {
    const auto rows = static_cast<int64_t>(slice.tokens.size());
    const int64_t end = slice.position + rows;
    size.rows += rows;
    if (slice.sample_from != kNoSample) size.sampled += rows - slice.sample_from;
    size.cached += end;
    ++size.states;
    size.attended += rows * (int64_t{slice.position} + 1 + end) / 2;
  }
}

void Count(const StepResult& result, int32_t experts, LoadRun& run) {
  for (const StageTiming& timing : result.timings) {
    run.busy_ns[timing.node] += timing.busy_ns;
    run.expert_overhead_ns += timing.expert_overhead_ns;
  }
  for (const RoutingTrace& trace : result.routing) {
    const std::set used(trace.ids.begin(), trace.ids.end());
    run.size.experts += static_cast<double>(std::distance(used.begin(), used.lower_bound(experts)));
  }
}

}  // namespace

SyntheticLoad::SyntheticLoad(Engine& engine, const Options& options)
    : engine_(engine), session_(engine.state()), options_(options) {
  SHOAL_CHECK_GE(options.fill_chunk, 1);
  SHOAL_CHECK_EQ(options.fill_chunk % kBlockPositions, 0);  // Chunks begin at a block boundary.
}

int64_t SyntheticLoad::PrefillPositions(int64_t tokens) { return BlocksFor(tokens) * kBlockPositions; }

int64_t SyntheticLoad::DecodePositions(int64_t sequences, int64_t positions, int64_t room) {
  return sequences * BlocksFor(positions + room) * kBlockPositions;
}

absl::Status SyntheticLoad::make_sequences(int64_t count, int64_t positions) {
  const EngineLimits& limits = session_.limits;
  if (positions > limits.context) {
    return InvalidArgument("{} positions in a sequence: the model's context is {}", positions,
                           limits.context);
  }
  const int64_t each = BlocksFor(positions);
  if (count * each > limits.blocks) {
    return ResourceExhausted("{} sequences of {} positions need {} KV blocks, there are {}", count, positions,
                             count * each, limits.blocks);
  }
  const int slots = 2 * limits.state_slots_each();  // Two rings.
  if (count * slots > limits.state_slots) {
    return ResourceExhausted("{} sequences need {} state slots, there are {}", count, count * slots,
                             limits.state_slots);
  }
  sequences_.clear();
  for (int64_t i = 0; i < count; ++i) {
    Sequence sequence;
    sequence.id = SeqId{static_cast<uint64_t>(i + 1)};
    const auto room = [&](int64_t first_slot) {
      return SequenceRoom{IdsFrom(BlockId{static_cast<int32_t>(i * each)}, each),
                          IdsFrom(SlotId{static_cast<int32_t>(first_slot)}, slots / 2),
                          limits.long_rope(positions)};
    };
    sequence.filling = SequenceCursor(sequence.id, room(i * slots));
    sequence.decoding = SequenceCursor(sequence.id, room(i * slots + slots / 2));
    sequences_.push_back(std::move(sequence));
  }
  return absl::OkStatus();
}

std::vector<int32_t> SyntheticLoad::random_tokens(int64_t count) {
  RandomStream random(1, next_id_.value);
  const auto vocabulary = static_cast<uint64_t>(session_.limits.vocabulary);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& token : tokens) token = static_cast<int32_t>(random.below(vocabulary));
  return tokens;
}

absl::StatusOr<LoadRun> SyntheticLoad::run(int64_t in_flight, NextStep next, OnResult on_result) {
  using Result = absl::StatusOr<StepResult>;
  LoadRun out;
  out.size.steps = 0;
  std::deque<std::pair<StepId, std::future<Result>>> outstanding;
  out.begin_ns = NowNs();
  for (bool more = true;;) {
    while (more && std::ssize(outstanding) < in_flight) {
      std::optional<Step> step = next();
      more = step.has_value();
      if (!more) break;
      step->id = next_id_;
      ++next_id_.value;
      Count(*step, out.size);
      // Shared with the callback, which may run after the wait below has timed out.
      auto done = std::make_shared<std::promise<Result>>();
      outstanding.emplace_back(step->id, done->get_future());
      engine_.submit(session_.generation, std::move(*step),
                     [done](Result result) { done->set_value(std::move(result)); });
    }
    if (outstanding.empty()) break;
    auto [id, future] = std::move(outstanding.front());
    outstanding.pop_front();
    if (future.wait_for(options_.step_timeout) != std::future_status::ready) {
      return DeadlineExceeded("step {}: no result within {} s", id,
                              options_.step_timeout / std::chrono::seconds(1));
    }
    ASSIGN_OR_RETURN(const StepResult result, future.get());
    for (const SeqResult& one : result.sequences) RETURN_IF_ERROR(one.status);
    Count(result, options_.experts, out);
    RETURN_IF_ERROR(on_result(result));
  }
  out.end_ns = NowNs();
  return out;
}

absl::StatusOr<LoadRun> SyntheticLoad::prefill(int64_t tokens, bool trace) {
  RETURN_IF_ERROR(make_sequences(1, tokens));
  Sequence& sequence = sequences_[0];
  const std::vector<int32_t> prompt = random_tokens(tokens);
  const auto next = [&]() -> std::optional<Step> {
    const int64_t at = sequence.filling.position();
    if (at == tokens) return std::nullopt;
    const int64_t end = std::min(tokens, at + options_.chunk_rows(tokens - at));
    Step step;
    step.want_routing = trace;
    if (at == 0) step.begins.push_back({sequence.id, {.temperature = 0}, {}, 0});
    step.slices.push_back(sequence.filling.next({prompt.begin() + at, prompt.begin() + end}, end == tokens));
    return step;
  };
  const auto nothing = [](const StepResult&) { return absl::OkStatus(); };
  ASSIGN_OR_RETURN(LoadRun out, run(session_.limits.steps_in_flight, next, nothing));
  out.tokens = tokens;
  return out;
}

// Each chunk is a sequence of its own, so that it does not attend to the others. A state, however, depends on
// all positions before it, so a sequence with states is one.
SeqSlice SyntheticLoad::fill_chunk(Sequence& sequence, int64_t rows) {
  const std::vector<int32_t> tokens = random_tokens(rows);
  const int64_t first_block = std::exchange(sequence.filled, sequence.filled + rows) / kBlockPositions;
  SequenceCursor& whole = sequence.filling;
  if (!whole.slots().empty()) return whole.next(tokens, false);
  SequenceCursor chunk(sequence.id, {.blocks = {whole.blocks().begin() + first_block, whole.blocks().end()},
                                     .long_rope = whole.long_rope()});
  return chunk.next(tokens, false);
}

absl::Status SyntheticLoad::fill(int64_t sequences, int64_t positions, int64_t room) {
  RETURN_IF_ERROR(make_sequences(sequences, positions + room));
  size_t index = 0;
  const auto next = [&]() -> std::optional<Step> {
    if (index < sequences_.size() && sequences_[index].filled == positions) ++index;
    if (index == sequences_.size() || positions == 0) return std::nullopt;
    Sequence& sequence = sequences_[index];
    Step step;
    step.slices.push_back(fill_chunk(sequence, std::min(positions - sequence.filled, options_.fill_chunk)));
    return step;
  };
  const auto nothing = [](const StepResult&) { return absl::OkStatus(); };
  return run(session_.limits.steps_in_flight, next, nothing).status();
}

absl::StatusOr<LoadRun> SyntheticLoad::decode(int64_t tokens, int64_t groups, bool trace) {
  const auto count = static_cast<int64_t>(sequences_.size());
  SHOAL_CHECK(1 <= groups && groups <= count);
  const std::vector<int32_t> first = random_tokens(count);
  for (int64_t i = 0; i < count; ++i) {
    sequences_[static_cast<size_t>(i)].last_token = first[static_cast<size_t>(i)];
  }
  // Groups take turns, in the order of their results: the result of a group comes before its next turn.
  int64_t turn = 0;
  const auto next = [&]() -> std::optional<Step> {
    const int64_t token = turn / groups;
    if (token == tokens) return std::nullopt;
    Step step;
    step.want_routing = trace;
    const Range members = StaticRange(count, 1, static_cast<int>(turn % groups), static_cast<int>(groups));
    for (int64_t i = members.begin; i < members.end; ++i) {
      Sequence& sequence = sequences_[static_cast<size_t>(i)];
      if (token == 0) {
        step.begins.push_back({sequence.id, {.temperature = 0}, {}, 0});
        sequence.decoding.start_at(sequence.filled, sequence.filling.state());
      }
      step.slices.push_back(sequence.decoding.next({&sequence.last_token, 1}, true));
    }
    ++turn;
    return step;
  };
  const auto remember = [&](const StepResult& result) -> absl::Status {
    for (const SeqResult& sampled : result.sequences) {
      if (sampled.tokens.size() != 1 || sampled.id.value < 1 ||
          static_cast<int64_t>(sampled.id.value) > count) {
        return Internal("step {}: expected one token of each sequence", result.id);
      }
      sequences_[sampled.id.value - 1].last_token = sampled.tokens[0].id;
    }
    return absl::OkStatus();
  };
  ASSIGN_OR_RETURN(LoadRun out, run(groups, next, remember));
  out.tokens = tokens * count;
  return out;
}

}  // namespace shoal
