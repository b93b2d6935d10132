#include "compute/step_profile.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "compute/testing/local_model.h"
#include "convert/testing/checkpoints.h"

namespace shoal {
namespace {

int64_t Sum(const StepPartNs& ns) { return std::accumulate(ns.begin(), ns.end(), int64_t{0}); }

int64_t Of(const StepPartNs& ns, StepPart part) { return ns[static_cast<size_t>(part)]; }

void Spend(int64_t ns) {
  for (const int64_t start = NowNs(); NowNs() - start < ns;) {
  }
}

// Clock readings around the borders bound every part, however often this thread is interrupted.
TEST(StepProfile, TimeOfAnInnerPartIsNotTheOuterOnes) {
  StepProfile profile;
  const ComputeContext context{.profile = &profile};
  int64_t inner_begin_ns = 0;
  int64_t inner_end_ns = 0;
  const int64_t begin_ns = NowNs();
  {
    PartTimer outer(context, StepPart::kQkv);
    Spend(10'000);
    {
      const PartTimer inner(context, StepPart::kNormQuantize);
      inner_begin_ns = NowNs();
      Spend(10'000);
      inner_end_ns = NowNs();
    }
    Spend(10'000);
    outer.next(StepPart::kAttention);
  }
  const int64_t end_ns = NowNs();
  const StepPartNs ns = profile.read().ns;
  EXPECT_GE(Of(ns, StepPart::kNormQuantize), inner_end_ns - inner_begin_ns);
  EXPECT_GE(Of(ns, StepPart::kQkv), 20'000);
  EXPECT_LE(Of(ns, StepPart::kQkv), (inner_begin_ns - begin_ns) + (end_ns - inner_end_ns));
}

TEST(StepProfile, PartsAddUpToTheTimeThatPassed) {
  const int64_t before = NowNs();
  StepProfile profile;
  const int64_t made = NowNs();
  const ComputeContext context{.profile = &profile};
  for (int i = 0; i < 100; ++i) {
    const PartTimer timer(context, StepPart::kDown);
    Spend(10'000);
  }
  const int64_t read = NowNs();
  const int64_t sum = Sum(profile.read().ns);
  EXPECT_GE(sum, read - made);
  EXPECT_LE(sum, NowNs() - before);
}

TEST(StepProfile, EveryPartHasANameOfItsOwn) {
  std::set<std::string_view> names;
  for (int i = 0; i < kStepParts; ++i) names.insert(StepPartName(static_cast<StepPart>(i)));
  EXPECT_EQ(names.size(), static_cast<size_t>(kStepParts));
  EXPECT_FALSE(names.contains(""));
}

/// The parts that a step of a whole model in one process is charged to.
std::set<StepPart> PartsOfAStep(std::string_view family) {
  StepProfile profile;
  auto model = LocalModel::Load(TinyCheckpoint(family, AffineFormat{4, 64}), {.profile = &profile});
  SHOAL_CHECK(model.ok());
  const StepPartNs before = profile.read().ns;
  const int32_t token = 7;
  const LocalSlice slice{0, {&token, 1}};
  SHOAL_CHECK((*model)->step({&slice, 1}).ok());
  const StepPartNs after = profile.read().ns;
  std::set<StepPart> parts;
  for (size_t i = 0; i < after.size(); ++i) {
    if (after[i] > before[i]) parts.insert(static_cast<StepPart>(i));
  }
  return parts;
}

TEST(StepProfile, AStepIsChargedToEachOfItsParts) {
  std::set<StepPart> dense = {StepPart::kIdle,         StepPart::kEmbed,      StepPart::kNormQuantize,
                              StepPart::kQkv,          StepPart::kRopeAppend, StepPart::kAttention,
                              StepPart::kAttentionOut, StepPart::kGateUp,     StepPart::kActivation,
                              StepPart::kDown,         StepPart::kHead};
  EXPECT_EQ(PartsOfAStep("qwen3"), dense);
  std::set<StepPart> routed = dense;
  routed.insert({StepPart::kRouter, StepPart::kExchange});
  EXPECT_EQ(PartsOfAStep("qwen3_moe"), routed);
}

}  // namespace
}  // namespace shoal
