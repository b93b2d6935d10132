#include "measure/step_work.h"

#include <gtest/gtest.h>

#include "base/status.h"
#include "convert/testing/checkpoints.h"
#include "loading/footprint.h"
#include "models/family.h"

namespace shoal {
namespace {

struct Subject {
  std::shared_ptr<const ResolvedWeights> weights;
  ModelSpec spec;
  Footprint footprint;
  WorkModel int8;
  WorkModel exact;
};

Subject Make(std::string_view family, std::optional<AffineFormat> format) {
  const auto weights = *ResolvedWeights::Open(TinyCheckpoint(family, format));
  return {weights, weights->spec(), MeasureFootprint(*weights),
          WorkModel(*weights, ActivationMode::kInt8, DType::kF16),
          WorkModel(*weights, ActivationMode::kF32, DType::kF32)};
}

StepWork Of(const WorkModel& model, const StepSize& size) { return SumOf(model.of(size)); }

/// Packed bytes of all weights that a step with every expert reads: of tables of embeddings only its rows; one that is also
/// the head is there a second time, as the head. Of a table of choices a row reads a few numbers, which do not count.
double AllBytes(const Subject& subject, int64_t rows) {
  double bytes = 0;
  for (const ResolvedWeight& weight : subject.weights->all()) {
    const auto packed = static_cast<double>(weight.packed_bytes);
    if (weight.use.role == "choice") continue;
    if (weight.use.role != "embedding") {
      bytes += packed;
    } else {
      bytes += packed * static_cast<double>(rows) / static_cast<double>(weight.use.ref.shape[0]);
    }
  }
  return bytes;
}

TEST(StepWork, AStepReadsEveryWeightOnceAndTheEmbeddingsOfItsRows) {
  for (const Family* family : Families()) {
    for (const auto& format : {std::optional<AffineFormat>(), std::optional(AffineFormat{4, 64})}) {
      SCOPED_TRACE(family->model_type);
      const Subject subject = Make(family->model_type, format);
      const auto all = static_cast<double>(subject.int8.experts());
      for (const int64_t rows : {1, 9}) {
        const StepWork work = Of(subject.int8, {.steps = 1, .rows = rows, .sampled = 1, .experts = all});
        EXPECT_NEAR(work.weight_bytes, AllBytes(subject, rows), 16.0 * rows);
        EXPECT_NEAR(
            Of(subject.int8, {.steps = 3, .rows = rows, .sampled = 3, .experts = 3 * all}).weight_bytes,
            3 * AllBytes(subject, 0) + AllBytes(subject, rows) - AllBytes(subject, 0), 16.0 * rows);
      }
    }
  }
}

TEST(StepWork, AStepWithoutSamplesDoesNotReadTheHead) {
  const Subject subject = Make("qwen3", AffineFormat{4, 64});
  const StepSize size{.steps = 1, .rows = 4, .sampled = 1};
  StepSize silent = size;
  silent.sampled = 0;
  EXPECT_DOUBLE_EQ(Of(subject.int8, size).weight_bytes - Of(subject.int8, silent).weight_bytes,
                   static_cast<double>(subject.footprint.head.packed));
}

TEST(StepWork, ARowMultipliesEveryMatrixOnceAndItsExpertsOnly) {
  for (const Family* family : Families()) {
    SCOPED_TRACE(family->model_type);
    const Subject subject = Make(family->model_type, AffineFormat{4, 64});
    double multiplies = 0;
    double int8 = 0;
    ForEachWeight(subject.spec, [&](const WeightUse& use) {
      if (use.ref.shape.size() != 2 || use.role == "embedding" || use.role == "choice") return;
      auto elements = static_cast<double>(use.ref.elements());
      if (use.expert >= 0) {
        const MoeSpec& moe = *MoeOf(subject.spec.layers[static_cast<size_t>(use.layer)]);
        elements *= static_cast<double>(moe.computed_per_row()) / static_cast<double>(moe.experts.size());
      }
      multiplies += elements;
      // Of what reads and writes streams, no checkpoint has codes.
      if (use.role != "router" && !use.ref.sources[0].name().ends_with("_fn")) int8 += elements;
    });
    // Three passes over each state, and its convolution.
    const auto of_mamba2 = [](const Mamba2Spec& mamba) {
      return static_cast<double>(3 * mamba.inner() * mamba.state_dim + mamba.conv.elements());
    };
    double states = 0;
    for (const LayerSpec& layer : subject.spec.layers) {
      if (const auto* conv = std::get_if<ShortConvSpec>(&layer.mixer)) {
        states += static_cast<double>(conv->conv.elements());
      }
      if (const auto* mamba = std::get_if<Mamba2Spec>(&layer.mixer)) states += of_mamba2(*mamba);
      if (const auto* both = std::get_if<AttentionBesideMamba2Spec>(&layer.mixer)) {
        states += of_mamba2(both->mamba);
      }
      if (const auto* mamba = std::get_if<Mamba1Spec>(&layer.mixer)) {  // With an exponential of each value.
        states += static_cast<double>(15 * mamba->decay_log.elements() + mamba->conv.elements());
      }
      if (const auto* pooled = std::get_if<PooledAttentionSpec>(&layer.mixer)) {
        const int64_t top = pooled->indexer ? pooled->indexer->top : 0;
        states += static_cast<double>(2 * pooled->heads * pooled->head_dim * (pooled->window + top));
      }
      const auto* delta = std::get_if<GatedDeltaNetSpec>(&layer.mixer);
      if (delta == nullptr) continue;
      states += 3.0 * delta->value_heads * delta->key_dim * delta->value_dim;
      for (const WeightRef& part : delta->conv) states += static_cast<double>(part.elements());
    }
    const StepSize size{.steps = 1, .rows = 5, .sampled = 5};
    EXPECT_NEAR(Of(subject.int8, size).int8_ops, 5 * 2 * int8, 1.0);
    EXPECT_NEAR(Of(subject.int8, size).f32_ops, 5 * 2 * (multiplies - int8 + states), 1.0);
    EXPECT_NEAR(Of(subject.exact, size).f32_ops, 5 * 2 * (multiplies + states), 1.0);
    EXPECT_EQ(Of(subject.exact, size).int8_ops, 0);
  }
}

TEST(StepWork, AttentionReadsTheCacheAndMultipliesPerHead) {
  const Subject subject = Make("qwen3", std::nullopt);
  const GqaSpec& gqa = std::get<GqaSpec>(subject.spec.layers[0].mixer);
  const auto layers = static_cast<double>(subject.spec.layer_count());
  const StepSize size{.steps = 1, .rows = 2, .sampled = 0, .cached = 100, .attended = 199};
  const double padded = (gqa.head_dim + 15) / 16 * 16;
  EXPECT_EQ(Of(subject.int8, size).kv_bytes, layers * 100 * 2 * gqa.kv_heads * padded * 2);
  EXPECT_EQ(Of(subject.exact, size).kv_bytes, layers * 100 * 2 * gqa.kv_heads * padded * 4);
  EXPECT_EQ(Of(subject.int8, size).attention_ops, layers * 199 * 4 * gqa.heads * gqa.head_dim);
}

TEST(StepWork, RowsThatPickReadWhatTheyPickAndTheKeysOfTheIndexer) {
  const Subject subject = Make("glm_moe_dsa", std::nullopt);  // 14 positions; 3 of 7 layers pick.
  const MlaSpec& mla = std::get<MlaSpec>(subject.spec.layers[0].mixer);
  const double padded = (320 + 20 + 15) / 16 * 16;
  const double products = mla.heads * (2.0 * 320 + 20);
  StepSize size{.steps = 1, .rows = 2, .sampled = 0, .cached = 28, .attended = 28};
  EXPECT_EQ(Of(subject.int8, size).kv_bytes, 7 * 28 * 2 * padded * 2);
  EXPECT_EQ(Of(subject.int8, size).attention_ops, 7 * 28 * 2 * products);
  size.cached = size.attended = 1000;
  EXPECT_EQ(Of(subject.int8, size).kv_bytes, 7 * 28 * 2 * padded * 2 + 3 * 1000 * 36 * 2);
  EXPECT_EQ(Of(subject.int8, size).attention_ops, 7 * 28 * 2 * products + 3 * 1000 * 2.0 * 11 * 36);
}

TEST(StepWork, EveryPhaseHasItsOwnNumberOfRows) {
  const Subject subject = Make("qwen3_moe", AffineFormat{4, 64});
  const StepSize size{.steps = 1, .rows = 7, .sampled = 2, .cached = 7, .attended = 28, .experts = 5};
  const WorkPerPhase parts = subject.int8.of(size);
  const auto part = [&](WorkPhase which) { return parts[static_cast<size_t>(which)]; };
  EXPECT_DOUBLE_EQ(part(WorkPhase::kHead).weight_bytes,
                   Of(subject.int8, size).weight_bytes -
                       Of(subject.int8, {.steps = 1, .rows = 7, .experts = 5}).weight_bytes);
  EXPECT_DOUBLE_EQ(part(WorkPhase::kExperts).weight_bytes,
                   Of(subject.int8, size).weight_bytes -
                       Of(subject.int8, {.steps = 1, .rows = 7, .sampled = 2}).weight_bytes);
  EXPECT_GT(part(WorkPhase::kExperts).int8_ops, 0);
  EXPECT_GT(part(WorkPhase::kLayers).int8_ops, 0);
  EXPECT_EQ(part(WorkPhase::kLayers).kv_bytes, 0);
  EXPECT_EQ(part(WorkPhase::kAttention).weight_bytes, 0);
  EXPECT_GT(part(WorkPhase::kAttention).attention_ops, 0);
}

TEST(StepWork, TheRooflineTimePerPhaseIsLongerThanThatOfTheSum) {
  const MachineRates rates{.read_gbs = 2, .int8_gops = 4, .f32_gflops = 1};
  WorkPerPhase parts;
  parts[0] = {.weight_bytes = 2e9, .int8_ops = 12e9};     // 1 s of reading, 3 s of multiplying.
  parts[1] = {.weight_bytes = 10e9, .int8_ops = 4e9};     // 5 s and 1 s.
  parts[2] = {.kv_bytes = 1e9, .attention_ops = 0.25e9};  // 0.5 s and 0.25 s.
  parts[3] = {.weight_bytes = 1e9, .int8_ops = 2e9, .f32_ops = 0.25e9};  // 0.5 s and 0.75 s.
  const RooflineTime whole = RooflineTimeOf(SumOf(parts), rates);
  EXPECT_DOUBLE_EQ(whole.seconds, 7);  // Reading takes 1 + 5 + 0.5 + 0.5, multiplying 5.
  EXPECT_EQ(whole.by, "read");
  const RooflineTime added = RooflineTimePerPhase(parts, rates);
  EXPECT_DOUBLE_EQ(added.seconds, 3 + 5 + 0.5 + 0.75);
  EXPECT_EQ(added.by, "read");  // 5.5 s of the time.
  EXPECT_EQ(RooflineTimePerPhase({parts[0], {}, {}, parts[3]}, rates).by, "multiply");
}

TEST(StepWork, AStateIsReadAndWrittenOncePerStepForAnyNumberOfRows) {
  const Subject subject = Make("qwen3_5_moe", std::nullopt);
  double state_bytes = 0;
  for (const LayerFootprint& layer : subject.footprint.layers) {
    state_bytes += static_cast<double>(layer.state_values) * 4;
  }
  EXPECT_GT(state_bytes, 0);
  EXPECT_EQ(Of(subject.int8, {.steps = 1, .rows = 40, .states = 3}).kv_bytes, 2 * 3 * state_bytes);
}

}  // namespace
}  // namespace shoal
