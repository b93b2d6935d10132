#include "compute/testing/local_model.h"

#include <algorithm>
#include <deque>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "compute/expert_bank.h"
#include "models/family.h"

namespace shoal {

absl::StatusOr<std::unique_ptr<LocalModel>> LocalModel::Load(const std::string& folder,
                                                             const LocalOptions& options) {
  std::unique_ptr<LocalModel> model(new LocalModel(options.threads));
  RETURN_IF_ERROR(model->load(folder, options));
  return model;
}

absl::Status LocalModel::load(const std::string& folder, const LocalOptions& options) {
  ASSIGN_OR_RETURN(const Isa isa, ChooseIsa(options.isa));
  context_ = {.kernels = &SelectKernels(isa),
              .pool = &pool_,
              .arena = &arena_,
              .activations = options.activations,
              .profile = options.profile};
  snapshots_ = options.snapshots;
  ASSIGN_OR_RETURN(weights_, ResolvedWeights::Open(folder));
  std::vector<int64_t> split = options.split.empty() ? std::vector{spec().layer_count()} : options.split;
  split.back() += spec().layer_count() - std::accumulate(split.begin(), split.end(), int64_t{0});
  SHOAL_CHECK_GE(split.back(), 1);
  int64_t begin = 0;
  for (size_t i = 0; i < split.size(); ++i) {
    const StageOptions stage_options{
        .layers = {begin, begin + split[i]}, .embed = i == 0, .head = i + 1 == split.size()};
    ASSIGN_OR_RETURN(auto stage, Stage::Load(*weights_, stage_options, pool_, {}));
    ASSIGN_OR_RETURN(auto cache, KvCache::Create(stage_options.layers, stage->kv_shapes(), options.kv,
                                                 kBlocks, KeepsState(spec()) ? kStateSlots : 0));
    stages_.push_back(std::move(stage));
    caches_.push_back(std::move(cache));
    begin += split[i];
  }
  std::vector<ExpertSet> sets;
  for (int32_t layer = 0; layer < spec().layer_count(); ++layer) {
    const std::vector<ExpertId> all = AllExperts(spec().layers[static_cast<size_t>(layer)]);
    if (all.empty()) continue;
    ASSIGN_OR_RETURN(ExpertSet set, ExpertSet::Load(*weights_, LayerId{layer}, all, pool_));
    sets.push_back(std::move(set));
  }
  experts_ = std::make_unique<LocalExchange>(context_, std::move(sets));
  return absl::OkStatus();
}

SlotId LocalModel::new_slot() {
  SHOAL_CHECK_LT(slots_used_, kStateSlots);
  return SlotId{slots_used_++ * 5 % kStateSlots};  // 5 is coprime to the number of slots.
}

std::vector<StateWrite> LocalModel::states_of_step(Sequence& sequence, int64_t rows) {
  if (!KeepsState(spec())) return {};
  const int64_t end = sequence.length + rows;
  std::vector<StateWrite> writes;
  for (int64_t at = sequence.length / kBlockPositions * kBlockPositions + kBlockPositions;
       snapshots_ && at < end; at += kBlockPositions) {
    if (!sequence.snapshots.contains(at)) sequence.snapshots[at] = new_slot();
    writes.push_back({static_cast<int32_t>(at), sequence.snapshots[at]});
  }
  if (sequence.spare == kNoState) sequence.spare = new_slot();
  writes.push_back({static_cast<int32_t>(end), sequence.spare});
  return writes;
}

void LocalModel::continue_from(int from, int to, int64_t position) {
  const Sequence& source = sequences_.at(from);
  Sequence& sequence = sequences_[to];
  SHOAL_CHECK(sequence.length == 0 && position % kBlockPositions == 0);
  sequence.length = position;
  sequence.blocks.assign(source.blocks.begin(), source.blocks.begin() + position / kBlockPositions);
  sequence.state = sequence.begun_from = source.snapshots.at(position);
}

absl::StatusOr<std::vector<float>> LocalModel::step(std::span<const LocalSlice> slices,
                                                    std::map<int32_t, std::vector<int32_t>>* router) {
  arena_.reset();
  std::vector<int32_t> tokens;
  std::vector<StepSlice> step_slices;
  std::deque<std::vector<StateWrite>> states;  // Slices point into them.
  for (const LocalSlice& slice : slices) {
    Sequence& sequence = sequences_[slice.sequence];
    const auto rows = static_cast<int64_t>(slice.tokens.size());
    while (static_cast<int64_t>(sequence.blocks.size()) < BlocksFor(sequence.length + rows)) {
      const int next = blocks_used_++;
      SHOAL_CHECK_LT(next, kBlocks);
      sequence.blocks.push_back(BlockId{next * 37 % kBlocks});  // 37 is coprime to the number of blocks.
    }
    step_slices.push_back({.row_begin = static_cast<int64_t>(tokens.size()),
                           .rows = rows,
                           .position = sequence.length,
                           .blocks = sequence.blocks,
                           .long_rope = slice.long_rope,
                           .state_from = sequence.state,
                           .state_to = states.emplace_back(states_of_step(sequence, rows)),
                           .tokens = slice.tokens});
    tokens.insert(tokens.end(), slice.tokens.begin(), slice.tokens.end());
  }
  const auto rows = static_cast<int64_t>(tokens.size());
  std::vector<float> hidden(static_cast<size_t>(rows * spec().row_width()));
  const MatView<float> x(hidden.data(), rows, spec().row_width());
  StageStep step{.slices = step_slices, .experts = experts_.get(), .before_layer = before_layer_};
  if (router != nullptr) {
    step.on_routing = [router](LayerId layer, const Routing& routing) {
      std::vector<int32_t>& ids = (*router)[layer.value];
      ids.insert(ids.end(), routing.ids.data, routing.ids.data + routing.ids.rows * routing.ids.cols);
    };
  }
  RETURN_IF_ERROR(stages_.front()->embed(context_, tokens, x));
  for (size_t i = 0; i < stages_.size(); ++i) {
    RETURN_IF_ERROR(stages_[i]->forward(context_, step, *caches_[i], x));
  }
  for (const LocalSlice& slice : slices) {
    Sequence& sequence = sequences_[slice.sequence];
    sequence.length += std::ssize(slice.tokens);
    if (!KeepsState(spec())) continue;
    const SlotId before = std::exchange(sequence.state, sequence.spare);
    sequence.spare = std::exchange(sequence.begun_from, kNoState) == before ? kNoState : before;
  }
  std::vector<float> logits(static_cast<size_t>(rows * spec().vocabulary));
  RETURN_IF_ERROR(stages_.back()->head(context_, x, MatView<float>(logits.data(), rows, spec().vocabulary)));
  return logits;
}

absl::StatusOr<LocalModel::Run> LocalModel::run(std::span<const int32_t> prompt, int greedy, int64_t chunk) {
  Run run;
  ASSIGN_OR_RETURN(run.logits, prefill(prompt, chunk, &run.router));
  const auto last_row = [this](const std::vector<float>& logits) {
    return std::vector<float>(logits.end() - static_cast<std::ptrdiff_t>(spec().vocabulary), logits.end());
  };
  std::vector<float> last = last_row(run.logits);
  std::vector<int32_t> tokens(prompt.begin(), prompt.end());
  while (static_cast<int>(run.greedy.size()) < greedy) {
    const int64_t token =
        context_.kernels->argmax({.values = last.data(), .size = static_cast<int64_t>(last.size())});
    run.greedy.push_back(static_cast<int32_t>(token));
    tokens.push_back(run.greedy.back());
    const bool was_long = long_rope(tokens.size() - 1);
    if (long_rope(tokens.size()) != was_long) {
      ASSIGN_OR_RETURN(const std::vector<float> logits, prefill(tokens, chunk, nullptr));
      last = last_row(logits);
      continue;
    }
    const LocalSlice slice{0, std::span(tokens).last(1), was_long};
    ASSIGN_OR_RETURN(last, step({&slice, 1}));
  }
  return run;
}

absl::StatusOr<std::vector<float>> LocalModel::prefill(std::span<const int32_t> tokens, int64_t chunk,
                                                       std::map<int32_t, std::vector<int32_t>>* router) {
  reset();
  std::vector<float> all;
  const size_t step_rows = chunk == 0 ? tokens.size() : static_cast<size_t>(chunk);
  for (size_t begin = 0; begin < tokens.size(); begin += step_rows) {
    const LocalSlice slice{0, tokens.subspan(begin, std::min(step_rows, tokens.size() - begin)),
                           long_rope(tokens.size())};
    ASSIGN_OR_RETURN(const std::vector<float> logits, step({&slice, 1}, router));
    all.insert(all.end(), logits.begin(), logits.end());
  }
  return all;
}

}  // namespace shoal
