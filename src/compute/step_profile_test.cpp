#include "compute/step_profile.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "compute/testing/local_model.h"
#include "convert/testing/checkpoints.h"

namespace shoal {
namespace {

int64_t Sum(const StepPhaseNs& ns) { return std::accumulate(ns.begin(), ns.end(), int64_t{0}); }

int64_t Of(const StepPhaseNs& ns, StepPhase phase) { return ns[static_cast<size_t>(phase)]; }

void Spend(int64_t ns) {
  for (const int64_t start = NowNs(); NowNs() - start < ns;) {
  }
}

// Clock readings around the borders bound every phase, however often this thread is interrupted.
TEST(StepProfile, TimeOfAnInnerPartIsNotTheOuterOnes) {
  StepProfile profile;
  const ComputeContext context{.profile = &profile};
  int64_t inner_begin_ns = 0;
  int64_t inner_end_ns = 0;
  const int64_t begin_ns = NowNs();
  {
    PhaseTimer outer(context, StepPhase::kQkv);
    Spend(10'000);
    {
      const PhaseTimer inner(context, StepPhase::kNormQuantize);
      inner_begin_ns = NowNs();
      Spend(10'000);
      inner_end_ns = NowNs();
    }
    Spend(10'000);
    outer.next(StepPhase::kAttention);
  }
  const int64_t end_ns = NowNs();
  const StepPhaseNs ns = profile.read().ns;
  EXPECT_GE(Of(ns, StepPhase::kNormQuantize), inner_end_ns - inner_begin_ns);
  EXPECT_GE(Of(ns, StepPhase::kQkv), 20'000);
  EXPECT_LE(Of(ns, StepPhase::kQkv), (inner_begin_ns - begin_ns) + (end_ns - inner_end_ns));
}

TEST(StepProfile, PartsAddUpToTheTimeThatPassed) {
  const int64_t before = NowNs();
  StepProfile profile;
  const int64_t made = NowNs();
  const ComputeContext context{.profile = &profile};
  for (int i = 0; i < 100; ++i) {
    const PhaseTimer timer(context, StepPhase::kDown);
    Spend(10'000);
  }
  const int64_t read = NowNs();
  const int64_t sum = Sum(profile.read().ns);
  EXPECT_GE(sum, read - made);
  EXPECT_LE(sum, NowNs() - before);
}

TEST(StepProfile, EveryPartHasANameOfItsOwn) {
  std::set<std::string_view> names;
  for (int i = 0; i < kStepPhases; ++i) names.insert(StepPhaseName(static_cast<StepPhase>(i)));
  EXPECT_EQ(names.size(), static_cast<size_t>(kStepPhases));
  EXPECT_FALSE(names.contains(""));
}

/// The phases that a step of a whole model in one process is charged to.
std::set<StepPhase> PhasesOfAStep(std::string_view family) {
  StepProfile profile;
  auto model = LocalModel::Load(TinyCheckpoint(family, AffineFormat{4, 64}), {.profile = &profile});
  SHOAL_CHECK(model.ok());
  const StepPhaseNs before = profile.read().ns;
  const int32_t token = 7;
  const LocalSlice slice{0, {&token, 1}};
  SHOAL_CHECK((*model)->step({&slice, 1}).ok());
  const StepPhaseNs after = profile.read().ns;
  std::set<StepPhase> phases;
  for (size_t i = 0; i < after.size(); ++i) {
    if (after[i] > before[i]) phases.insert(static_cast<StepPhase>(i));
  }
  return phases;
}

TEST(StepProfile, AStepIsChargedToEachOfItsParts) {
  std::set<StepPhase> dense = {StepPhase::kIdle,         StepPhase::kEmbed,      StepPhase::kNormQuantize,
                               StepPhase::kQkv,          StepPhase::kRopeAppend, StepPhase::kAttention,
                               StepPhase::kAttentionOut, StepPhase::kGateUp,     StepPhase::kActivation,
                               StepPhase::kDown,         StepPhase::kHead};
  EXPECT_EQ(PhasesOfAStep("qwen3"), dense);
  std::set<StepPhase> routed = dense;
  routed.insert({StepPhase::kRouter, StepPhase::kExchange});
  EXPECT_EQ(PhasesOfAStep("qwen3_moe"), routed);
}

}  // namespace
}  // namespace shoal
