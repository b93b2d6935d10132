// I6: after warm-up the layers and the head of a decode step allocate nothing; exec/allocation_test.cpp holds
// the rest of a step against it. Its own binary, as it replaces the global operator new.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "compute/stage.h"
#include "compute/testing/local_exchange.h"
#include "convert/testing/checkpoints.h"
#include "harness/count_allocations.h"

namespace shoal {
namespace {

/// Heap allocations and arena growths of 40 decode steps (they cross a block border) after one.
void ExpectQuietDecode(const std::string& family, int threads, ActivationMode mode) {
  ThreadPool pool(threads);
  Arena arena;
  const ComputeContext context{
      .kernels = &SelectKernels(SupportedIsas().back()), .pool = &pool, .arena = &arena, .activations = mode};
  const auto weights = *ResolvedWeights::Open(TinyCheckpoint(family, AffineFormat{4, 64}));
  const ModelSpec& spec = weights->spec();
  const auto stage = *Stage::Load(*weights, {.layers = {0, 7}, .embed = true, .head = true}, pool, {});
  const auto cache = *KvCache::Create({0, 7}, stage->kv_shapes(), DType::kF16, 2, KeepsState(spec) ? 2 : 0);
  std::vector<ExpertSet> sets;
  for (int32_t layer = 0; layer < 7; ++layer) {
    const std::vector<ExpertId> ids = AllExperts(spec.layers[static_cast<size_t>(layer)]);
    if (!ids.empty()) sets.push_back(*ExpertSet::Load(*weights, LayerId{layer}, ids, pool));
  }
  LocalExchange experts(context, std::move(sets));
  const BlockId blocks[] = {{1}, {0}};
  std::vector<float> x(static_cast<size_t>(spec.row_width()));
  std::vector<float> logits(static_cast<size_t>(spec.vocabulary));
  const MatView<float> row(x.data(), 1, spec.row_width());

  int64_t heap_before = 0;
  int64_t growths_before = 0;
  for (int32_t position = 0; position < 41; ++position) {
    if (position == 1) {
      heap_before = Allocations();
      growths_before = arena.growths();
    }
    arena.reset();
    const StateWrite write{position + 1, SlotId{(position + 1) % 2}};
    StepSlice slice{.row_begin = 0, .rows = 1, .position = position, .blocks = blocks};
    if (KeepsState(spec)) {
      slice.state_from = position == 0 ? kNoState : SlotId{position % 2};
      slice.state_to = {&write, 1};
    }
    slice.tokens = {&position, 1};
    const StageStep step{.slices = {&slice, 1}, .experts = &experts};
    ASSERT_TRUE(stage->embed(context, {&position, 1}, row).ok());
    ASSERT_TRUE(stage->forward(context, step, *cache, row).ok());
    ASSERT_TRUE(stage->head(context, row, MatView<float>(logits.data(), 1, spec.vocabulary)).ok());
  }
  EXPECT_GT(heap_before, 0);  // The counter counts: loading allocates.
  EXPECT_EQ(Allocations() - heap_before, 0);
  EXPECT_EQ(arena.growths() - growths_before, 0);
}

TEST(DecodeStep, AllocatesNothingAfterWarmUp) {
  for (const std::string& name : FamiliesToSweep()) {
    for (const int threads : {1, 2}) {
      for (const ActivationMode mode : {ActivationMode::kInt8, ActivationMode::kF32}) {
        SCOPED_TRACE(name);
        ExpectQuietDecode(name, threads, mode);
      }
    }
  }
}

}  // namespace
}  // namespace shoal
