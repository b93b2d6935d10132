#include "compute/blocks/feed_forward_segments.h"

#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "compute/step_profile.h"
#include "models/spec.h"

namespace shoal {

absl::Status SegmentedMlp::forward(const ComputeContext& context, LayerId layer, LinearInput& input,
                                   ExpertExchange& exchange, MatView<float> y) const {
  SegmentRows rows{.x = input.x()};
  if (const int group = input_group(context.activations); group != 0) {
    ASSIGN_OR_RETURN(rows.codes, input.quantized(context, group));
  }
  const PhaseTimer timer(context, StepPhase::kExchange);
  return exchange.feed_forward(layer, rows, y);
}

absl::StatusOr<SegmentSet> SegmentSet::Load(const ResolvedWeights& weights, LayerId layer, int32_t count,
                                            std::span<const int32_t> held, ThreadPool& pool,
                                            PackedStore* store) {
  SegmentSet set;
  set.layer_ = layer;
  set.model_width_ = weights.spec().width;
  ASSIGN_OR_RETURN(set.shape_, CutIntoSegments(weights, layer, count));
  const DenseSpec& dense = *SharedByAllRows(*FindLayer(weights.spec(), layer.value));
  const WeightLoader loader(weights, store);
  ASSIGN_OR_RETURN(set.gating_, GatingRule::Load(loader, dense));
  set.segments_.resize(static_cast<size_t>(count));
  for (const int32_t segment : held) {
    if (segment < 0 || segment >= count) {
      return InvalidArgument("layer {}: segment {} of a feed-forward that has {}", layer, segment, count);
    }
    const auto i = static_cast<size_t>(segment);
    std::vector<Linear::Rows> parts;
    for (const LinearSpec* input : dense.inputs()) parts.push_back({input, set.shape_.hidden[i]});
    parts.push_back({&dense.down, set.shape_.out[i]});
    const PackedUnit unit{
        .kind = PackedUnit::Kind::kSegment, .layer = layer.value, .block = segment, .of = count};
    ASSIGN_OR_RETURN(std::vector<Linear> linears, Linear::LoadRows(loader, parts, unit, pool));
    Segment& made = set.segments_[i].emplace();
    auto next = linears.begin();
    if (set.gating_.has_gate()) made.gate = std::move(*next++);
    made.up = std::move(*next++);
    made.down = std::move(*next++);
  }
  return set;
}

int64_t SegmentSet::bytes() const {
  int64_t bytes = 0;
  for (const auto& segment : segments_) {
    if (segment) bytes += segment->gate.bytes() + segment->up.bytes() + segment->down.bytes();
  }
  return bytes == 0 ? 0 : bytes + gating_.bytes();
}

absl::StatusOr<const SegmentSet::Segment*> SegmentSet::find(int32_t segment) const {
  if (segment >= 0 && segment < std::ssize(segments_) && segments_[static_cast<size_t>(segment)])
    return &*segments_[static_cast<size_t>(segment)];
  return FailedPrecondition(
      "layer {}: segment {} of the feed-forward is not held here; the asker's plan is another", layer_,
      segment);
}

absl::Status SegmentSet::hidden(const ComputeContext& context, std::span<const int32_t> segments,
                                const SegmentRows& rows, SegmentRows& hidden) const {
  Arena& arena = *context.arena;
  const int group = context.activations == ActivationMode::kInt8 ? shape_.input_group : 0;
  const int got = rows.codes ? rows.codes->group : 0;
  if (rows.x.cols != model_width_ || (got != group && (got != 0 || rows.x.data == nullptr))) {
    return InvalidArgument(
        "layer {}: rows of {} in groups of {}; its feed-forward takes {} in groups of {} (0 is f32)", layer_,
        rows.x.cols, got, model_width_, group);
  }
  for (const int32_t segment : segments) RETURN_IF_ERROR(find(segment).status());
  const int64_t width = TotalSize(shape_.hidden, segments);
  const bool gated = gating_.has_gate();
  const MatView<float> up = arena.allocate_rows<float>(rows.x.rows, width);
  const MatView<float> mixed = gated ? arena.allocate_rows<float>(rows.x.rows, width) : up;
  const std::span<LinearTask> tasks = arena.allocate<LinearTask>((gated ? 2 : 1) * std::ssize(segments));
  auto next = tasks.begin();
  LinearInput input = rows.codes ? LinearInput(rows.x, *rows.codes) : LinearInput(rows.x);
  int64_t at = 0;
  for (size_t i = 0; i < segments.size(); ++i) {
    ASSIGN_OR_RETURN(const Segment* const segment, find(segments[i]));
    const int64_t end = at + segment->up.rows();
    if (gated) *next++ = {&segment->gate, mixed.cols_between(at, end), input.all_rows()};
    *next++ = {&segment->up, up.cols_between(at, end), input.all_rows()};
    at = end;
  }
  PhaseTimer timer(context, StepPhase::kGateUp);
  RETURN_IF_ERROR(RunLinears(context, input, tasks));
  timer.next(StepPhase::kActivation);
  // Groups end where segments do, so the codes are those of the whole row.
  LinearInput coded(mixed);
  const int hidden_group = context.activations == ActivationMode::kInt8 ? shape_.hidden_group : 0;
  RETURN_IF_ERROR(
      coded.fill(context, hidden_group, [&](Range part) { gating_.apply(context, mixed, up, part); }));
  hidden.x = mixed;
  hidden.codes.reset();
  if (hidden_group != 0) hidden.codes = coded.known(hidden_group);
  return absl::OkStatus();
}

absl::Status SegmentSet::down(const ComputeContext& context, std::span<const int32_t> segments,
                              const SegmentRows& hidden, MatView<float> y) const {
  const int group = context.activations == ActivationMode::kInt8 ? shape_.hidden_group : 0;
  const int got = hidden.codes ? hidden.codes->group : 0;
  if (hidden.cols() != shape_.width || got != group) {
    return InvalidArgument(
        "layer {}: {} hidden values in groups of {}; expected {} in groups of {} (0 is f32)", layer_,
        hidden.cols(), got, shape_.width, group);
  }
  SHOAL_CHECK(y.rows == hidden.rows());
  const ArenaScope scope(*context.arena);
  const std::span<LinearTask> tasks = context.arena->allocate<LinearTask>(std::ssize(segments));
  const MatView<const float> x =
      hidden.codes ? MatView<const float>(nullptr, hidden.rows(), hidden.cols()) : hidden.x;
  LinearInput input = hidden.codes ? LinearInput(x, *hidden.codes) : LinearInput(x);
  int64_t at = 0;
  for (size_t i = 0; i < segments.size(); ++i) {
    ASSIGN_OR_RETURN(const Segment* const segment, find(segments[i]));
    tasks[i] = {&segment->down, y.cols_between(at, at + segment->down.rows()), input.all_rows()};
    at += segment->down.rows();
  }
  SHOAL_CHECK_EQ(at, y.cols);
  const PhaseTimer timer(context, StepPhase::kDown);
  return RunLinears(context, input, tasks);
}

absl::StatusOr<std::unique_ptr<SegmentBank>> SegmentBank::Load(const ResolvedWeights& weights,
                                                               const HeldSegments& held, ThreadPool& pool,
                                                               PackedStore* store) {
  auto bank = std::make_unique<SegmentBank>();
  bank->layers_.resize(held.counts.size());
  for (size_t i = 0; i < held.counts.size(); ++i) {
    if (held.counts[i] == 0) continue;
    const auto layer = static_cast<int32_t>(i);
    ASSIGN_OR_RETURN(bank->layers_[i],
                     SegmentSet::Load(weights, LayerId{layer}, held.counts[i], held.of(layer), pool, store));
  }
  return bank;
}

int64_t SegmentBank::bytes() const {
  int64_t bytes = 0;
  for (const auto& layer : layers_) bytes += layer ? layer->bytes() : 0;
  return bytes;
}

const SegmentSet* SegmentBank::find(LayerId layer) const {
  const auto i = static_cast<size_t>(layer.value);
  return layer.value >= 0 && i < layers_.size() && layers_[i] ? &*layers_[i] : nullptr;
}

}  // namespace shoal
