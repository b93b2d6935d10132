// I6 beyond the layers: after warm-up a decode step allocates for its frames alone. What a frame is decoded
// into and encoded from (a step's slices, tokens and block tables; a result's sequences) is made anew for
// each, in proportion to the sequences and not to the model, and is counted here to be set against the whole.
// So is the check of a decoded step, which remembers ids. Its own binary, as it replaces the global operator
// new.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "compute/cpu_backend.h"
#include "convert/testing/checkpoints.h"
#include "exec/expert_use.h"
#include "exec/node_model.h"
#include "exec/stage_runner.h"
#include "harness/count_allocations.h"
#include "models/family.h"

namespace shoal {
namespace {

constexpr int32_t kSequences = 3;

/// One node that holds a tiny model, ready for steps.
class Node {
 public:
  Node(const std::string& family, int threads)
      : backend_({.isa = SupportedIsas().back(), .threads = threads}) {
    const auto weights = *ResolvedWeights::Open(TinyCheckpoint(family, AffineFormat{4, 64}));
    const ModelSpec& spec = weights->spec();
    plan_.epoch = Epoch{1};
    plan_.nodes = {{"alone", ""}};
    plan_.stages = {{NodeId{0}, {0, spec.layer_count()}}};
    plan_.experts.resize(static_cast<size_t>(spec.layer_count()));
    for (size_t layer = 0; layer < plan_.experts.size(); ++layer) {
      const MoeSpec* moe = MoeOf(spec.layers[layer]);
      plan_.experts[layer].assign(moe == nullptr ? 0 : moe->experts.size(), {NodeId{0}, {}});
    }
    model_ = *NodeModel::Load(weights, ShardOf(plan_, NodeId{0}), backend_, {});
    const int slots = KeepsState(spec) ? 2 * kSequences : 0;
    limits_ = {64, spec.vocabulary, 2 * kSequences, 64, slots};
    compute_ = *model_->held().open({.blocks = 2 * kSequences, .state_slots = slots, .rows_max = 64});
    runner_ = std::make_unique<StageRunner>(StageRunner::Options{&plan_, NodeId{0}, compute_.get(), limits_,
                                                                 spec.width, spec.row_width(),
                                                                 backend_.limits().logit_rows});
    std::vector<ExpertUse::Shape> shapes;
    for (const LayerSpec& layer : spec.layers) {
      const MoeSpec* moe = MoeOf(layer);
      shapes.push_back(moe == nullptr
                           ? ExpertUse::Shape{}
                           : ExpertUse::Shape{static_cast<int32_t>(moe->experts.size()), moe->top_k});
    }
    use_ = std::make_unique<ExpertUse>(plan_.layers_of(NodeId{0}), shapes);
    exchange_ = std::make_unique<PlannedExchange>(
        PlannedExchange::Options{
            .plan = &plan_, .self = NodeId{0}, .compute = compute_.get(), .use = use_.get()},
        [](Deadline) { return Internal("one node waits for nobody"); });
  }

  const ModelSpec& spec() const { return model_->spec(); }
  const StepLimits& limits() const { return limits_; }
  BackendSession& compute() const { return *compute_; }
  /// Bytes held, of the backend's scratch and of the runner's.
  int64_t scratch_bytes() const { return compute_->scratch_bytes() + arena_.bytes_held(); }
  absl::StatusOr<Outgoing> run(const Frame& frame) { return runner_->run(frame, arena_, *exchange_, {}); }

  /// A decode of every sequence at `position`; the first is greedy, the others draw. Each is fed one id again
  /// and again, so that its history learns no new one.
  Frame step(int32_t position) const {
    Step step;
    step.id = StepId{static_cast<uint64_t>(position) + 1};
    for (int32_t i = 0; i < kSequences; ++i) {
      const SeqId id{static_cast<uint64_t>(i) + 1};
      if (position == 0) {
        step.begins.push_back({id, {.temperature = i == 0 ? 0.0f : 0.8f, .top_p = 0.9f}, {7 + i}, 0});
      }
      step.slices.push_back({id, position, {7 + i}, {BlockId{2 * i + 1}, BlockId{2 * i}}, 0});
      if (limits_.state_slots == 0) continue;
      const auto slot = [i](int32_t at) { return SlotId{2 * i + at % 2}; };
      if (position > 0) step.slices.back().state_from = slot(position);
      step.slices.back().state_to = {{position + 1, slot(position + 1)}};
    }
    return EncodeStep(Epoch{1}, step, {}, {});
  }

 private:
  CpuBackend backend_;
  Arena arena_;
  Plan plan_;
  std::unique_ptr<NodeModel> model_;
  std::unique_ptr<BackendSession> compute_;
  StepLimits limits_;
  std::unique_ptr<StageRunner> runner_;
  std::unique_ptr<ExpertUse> use_;
  std::unique_ptr<PlannedExchange> exchange_;
};

/// What decoding, checking and answering such a step allocates without computing it.
int64_t AllocationsOfFrames(const Node& node, const Frame& step) {
  const int64_t before = Allocations();
  {
    const absl::StatusOr<StepMessage> message = DecodeStep(step);
    SHOAL_CHECK(message.ok() && ValidateStep(message->step, node.limits()).ok());
    StepResult result;
    result.id = message->step.id;
    for (const SeqSlice& slice : message->step.slices) result.sequences.push_back({slice.id, {{0}}});
    result.timings.push_back({});
    const Frame frame = EncodeResult(Epoch{1}, result);
  }
  return Allocations() - before;
}

TEST(StageRunner, ADecodeStepAllocatesForItsFramesAlone) {
  for (const std::string& name : FamiliesToSweep()) {
    for (const int threads : {1, 2}) {
      SCOPED_TRACE(name);
      Node node(name, threads);
      int64_t scratch = 0;
      for (int32_t position = 0; position < 41; ++position) {  // Crosses a block border.
        const Frame frame = node.step(position);
        const int64_t frames = AllocationsOfFrames(node, frame);
        const int64_t before = Allocations();
        {
          const absl::StatusOr<Outgoing> out = node.run(frame);
          ASSERT_TRUE(out.ok()) << ToString(out.status());
        }
        if (position >= 2) {
          EXPECT_EQ(Allocations() - before, frames) << "at position " << position;
        }
        if (position == 2) scratch = node.scratch_bytes();
      }
      EXPECT_EQ(node.scratch_bytes(), scratch);
    }
  }
}

TEST(BackendSession, RunningExpertsAllocatesNothingAfterWarmUp) {
  Node node("qwen3_moe", 2);
  const int64_t width = node.spec().width;
  constexpr int64_t kRows = 5;
  std::vector<float> x(static_cast<size_t>(kRows * width), 0.5f);
  std::vector<int64_t> acc(x.size());
  std::vector<ExpertCall> calls;
  for (int32_t row = 0; row < kRows; ++row) {
    for (int32_t k = 0; k < 3; ++k) calls.push_back({row, ExpertId{(row + k) % 4}, 0.25f});
  }
  LayerId layer{0};
  while (MoeOf(node.spec().layers[static_cast<size_t>(layer.value)]) == nullptr) ++layer.value;
  int64_t before = 0;
  int64_t scratch = 0;
  for (int round = 0; round < 10; ++round) {
    if (round == 2) {
      before = Allocations();
      scratch = node.scratch_bytes();
    }
    const ExpertRows rows{.x = MatView<const float>(x.data(), kRows, width)};
    ASSERT_TRUE(
        node.compute().run_experts(layer, rows, calls, MatView<int64_t>(acc.data(), kRows, width)).ok());
  }
  EXPECT_EQ(Allocations(), before);
  EXPECT_EQ(node.scratch_bytes(), scratch);
  EXPECT_NE(acc[0], 0);
}

}  // namespace
}  // namespace shoal
