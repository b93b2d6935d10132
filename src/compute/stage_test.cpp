// Loading (whole, partial, damaged) and what forward refuses.
#include "compute/stage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "base/status.h"
#include "compute/blocks/experts.h"
#include "compute/testing/local_model.h"
#include "convert/testing/checkpoints.h"
#include "loading/footprint.h"
#include "models/family.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

/// Opens `folder` and loads layers of it.
absl::StatusOr<std::unique_ptr<Stage>> LoadStage(const std::string& folder, const StageOptions& options,
                                                 const LoadProgress& progress = {}) {
  ThreadPool pool(1);
  ASSIGN_OR_RETURN(const auto weights, ResolvedWeights::Open(folder));
  return Stage::Load(*weights, options, pool, progress);
}

constexpr StageOptions kWhole{.layers = {0, 7}, .embed = true, .head = true};

/// A copy of the tiny checkpoint with `edit` applied fails to load with all of `words` in the message.
void ExpectDamageFound(std::string_view family, std::optional<AffineFormat> format,
                       const std::function<void(std::vector<EditableTensor>&)>& edit,
                       const std::vector<std::string>& words) {
  const TempFolder folder;
  CopyCheckpoint(TinyCheckpoint(family, format), folder.path(), edit);
  const auto stage = LoadStage(folder.path(), kWhole);
  ASSERT_FALSE(stage.ok());
  for (const std::string& word : words) EXPECT_THAT(Message(stage.status()), HasSubstr(word));
}

auto Remove(std::string name) {
  return [name](std::vector<EditableTensor>& tensors) {
    std::erase_if(tensors, [&](const EditableTensor& tensor) { return tensor.name == name; });
  };
}

/// One weight of each kind that stages of a model hold, by role and last part of its name; but for kinds that
/// are in `seen` already, to which it adds.
std::vector<std::string> OneOfEachKind(const std::string& folder, std::set<std::string>& seen) {
  const auto checkpoint = *Checkpoint::Open(folder);
  const ModelSpec spec = *SpecFor(checkpoint->config());
  std::map<std::string, std::string> kinds;
  ForEachWeight(spec, [&](const WeightUse& use) {
    if (use.expert >= 0 || (use.role == "head" && spec.tied_head)) return;
    const WeightSource& source = use.ref.sources[0];
    kinds[fmt::format("{} {} {}", use.role, source.base.substr(source.base.rfind('.') + 1), source.suffix)] =
        source.name();
  });
  std::vector<std::string> names;
  for (const auto& [kind, name] : kinds) {
    if (seen.insert(kind).second) names.push_back(name);
  }
  return names;
}

TEST(StageLoad, AMissingTensorOfAnyKindIsAnErrorThatNamesIt) {
  std::set<std::string> seen;  // Most families share most of their names.
  for (const Family* family : Families()) {
    for (const std::string& name : OneOfEachKind(TinyCheckpoint(family->model_type), seen)) {
      SCOPED_TRACE(name);
      ExpectDamageFound(family->model_type, std::nullopt, Remove(name), {name});
    }
  }
}

TEST(StageLoad, AQuantizedTensorWithoutScalesOrBiasesIsAnErrorThatNamesIt) {
  for (const char* name : {"model.layers.1.mlp.gate_proj.biases", "model.layers.1.mlp.gate_proj.scales"}) {
    ExpectDamageFound("qwen3", AffineFormat{4, 64}, Remove(name), {"model.layers.1.mlp.gate_proj"});
  }
}

TEST(StageLoad, AMissingExpertIsAnErrorThatNamesIt) {
  const std::string name = "model.layers.4.mlp.experts.12.down_proj.weight";
  const TempFolder folder;
  CopyCheckpoint(TinyCheckpoint("qwen3_moe"), folder.path(), Remove(name));
  EXPECT_THAT(Message(ResolvedWeights::Open(folder.path()).status()), HasSubstr(name));
}

TEST(StageLoad, AWrongShapeIsAnErrorWithExpectedAndFound) {
  const auto transpose = [](std::vector<EditableTensor>& tensors) {
    std::swap(TensorNamed(tensors, "model.layers.2.mlp.up_proj.weight").shape[0],
              TensorNamed(tensors, "model.layers.2.mlp.up_proj.weight").shape[1]);
  };
  ExpectDamageFound("llama", std::nullopt, transpose,
                    {"model.layers.2.mlp.up_proj.weight", "model.safetensors", "[384, 320]", "[320, 384]"});
}

TEST(StageLoad, AWrongDtypeIsAnError) {
  const auto to_integers = [](std::vector<EditableTensor>& tensors) {
    TensorNamed(tensors, "model.norm.weight").dtype = DType::kI16;
  };
  ExpectDamageFound("llama", std::nullopt, to_integers, {"model.norm.weight", "i16"});
}

TEST(StageLoad, ABiasThatTheConfigDenies) {
  const auto add_bias = [](std::vector<EditableTensor>& tensors) {
    tensors.push_back(
        {"model.layers.1.self_attn.q_proj.bias", DType::kF32, {320}, std::vector<std::byte>(1280)});
  };
  ExpectDamageFound("qwen3", std::nullopt, add_bias, {"model.layers.1.self_attn.q_proj.bias", "no bias"});
}

TEST(StageLoad, AFolderWithPartOfTheTensorsIsAnErrorThatNamesOneThatIsMissing) {
  const TempFolder folder;  // A shard has a table of all tensors (formats/shard.h); this folder has none.
  CopyCheckpoint(TinyCheckpoint("llama"), folder.path(), [](std::vector<EditableTensor>& tensors) {
    std::erase_if(tensors,
                  [](const EditableTensor& tensor) { return !tensor.name.starts_with("model.layers.3."); });
  });
  EXPECT_THAT(Message(LoadStage(folder.path(), {.layers = {3, 4}}).status()),
              HasSubstr("'model.embed_tokens.weight'"));
}

TEST(StageLoad, ReportsProgressUpToTheStoredBytesOfTheStage) {
  const std::string& folder = TinyCheckpoint("qwen3_moe", AffineFormat{4, 64});
  std::vector<std::pair<int64_t, int64_t>> reports;
  const auto stage =
      LoadStage(folder, kWhole, [&](int64_t done, int64_t total) { reports.emplace_back(done, total); });
  ASSERT_TRUE(stage.ok()) << stage.status();
  ASSERT_GE(reports.size(), 8u);
  EXPECT_TRUE(std::is_sorted(reports.begin(), reports.end()));
  EXPECT_EQ(reports.back().first, reports.back().second);
  const Footprint footprint = MeasureFootprint(**ResolvedWeights::Open(folder));
  EXPECT_EQ(reports.back().second, footprint.total.stored - footprint.by_role.at("expert").stored);
}

TEST(Footprint, IsWhatStagesAndExpertSetsHold) {
  ThreadPool pool(1);
  for (const Family* family : Families()) {
    for (const auto& format : {std::optional<AffineFormat>(), std::optional(AffineFormat{4, 64})}) {
      SCOPED_TRACE(family->model_type);
      const auto weights = *ResolvedWeights::Open(TinyCheckpoint(family->model_type, format));
      const Footprint footprint = MeasureFootprint(*weights);
      EXPECT_TRUE(footprint.unused_tensors.empty());
      EXPECT_EQ(footprint.total.stored, weights->checkpoint().total_bytes());
      for (int64_t layer = 0; layer < 7; ++layer) {
        const auto stage = Stage::Load(*weights, {.layers = {layer, layer + 1}}, pool, {});
        ASSERT_TRUE(stage.ok()) << stage.status();
        const LayerFootprint& expected = footprint.layers[static_cast<size_t>(layer)];
        EXPECT_EQ((*stage)->bytes(), expected.fixed.packed);
        const KvLayerShape kept = (*stage)->kv_shapes().at(0);
        EXPECT_EQ(expected.cached_values_per_position, kept.values_per_position());
        EXPECT_EQ(expected.state_values, kept.state_values);
        if (expected.experts.empty()) continue;
        const ExpertId last{12};
        const auto set = ExpertSet::Load(*weights, LayerId{static_cast<int32_t>(layer)}, {&last, 1}, pool);
        ASSERT_TRUE(set.ok()) << set.status();
        EXPECT_EQ(set->bytes(), expected.experts[12].packed);
      }
      const auto head = Stage::Load(*weights, {.layers = {7, 7}, .head = true}, pool, {});
      ASSERT_TRUE(head.ok()) << head.status();
      EXPECT_EQ((*head)->bytes(), footprint.head.packed);
    }
  }
}

TEST(Footprint, ListsTensorsThatNothingUses) {
  const TempFolder folder;
  CopyCheckpoint(TinyCheckpoint("qwen3"), folder.path(), [](std::vector<EditableTensor>& tensors) {
    tensors.push_back({"model.rotary_emb.inv_freq", DType::kF32, {2}, std::vector<std::byte>(8)});
  });
  const Footprint footprint = MeasureFootprint(**ResolvedWeights::Open(folder.path()));
  EXPECT_EQ(footprint.unused_tensors, std::vector<std::string>{"model.rotary_emb.inv_freq"});
}

TEST(ExpertSet, LoadsThoseNamedAndNoOthers) {
  ThreadPool pool(1);
  const auto weights = *ResolvedWeights::Open(TinyCheckpoint("qwen3_moe"));
  const std::vector<ExpertId> ids = {{9}, {2}};
  const auto set = ExpertSet::Load(*weights, LayerId{1}, ids, pool);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_TRUE(set->holds({2}) && set->holds({9}));
  EXPECT_FALSE(set->holds({3}));
  EXPECT_EQ(set->experts(), (std::vector<ExpertId>{{2}, {9}}));

  const auto load = [&](int32_t layer, std::vector<ExpertId> experts) {
    return Message(ExpertSet::Load(*weights, LayerId{layer}, experts, pool).status());
  };
  EXPECT_THAT(load(2, {{0}}), HasSubstr("layer 2"));  // Dense.
  EXPECT_THAT(load(7, {{0}}), HasSubstr("layer 7"));
  EXPECT_THAT(load(1, {{13}}), HasSubstr("expert 13"));
  EXPECT_THAT(load(1, {{4}, {4}}), HasSubstr("twice"));
}

TEST(StageForward, ATokenOutsideTheVocabularyIsRefused) {
  auto model = LocalModel::Load(TinyCheckpoint("qwen3"), {});
  ASSERT_TRUE(model.ok()) << model.status();
  for (const int32_t token : {-1, 331}) {
    const LocalSlice slice{0, {&token, 1}};
    const auto logits = (*model)->step({&slice, 1});
    EXPECT_EQ(logits.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Message(logits.status()),
                HasSubstr(fmt::format("token {} is outside the vocabulary", token)));
  }
}

/// Sets element 0 of a bf16 vector.
auto SetFirst(std::string name, float value) {
  return [name, value](std::vector<EditableTensor>& tensors) {
    const uint16_t bits = F32ToBF16(value);
    std::memcpy(TensorNamed(tensors, name).bytes.data(), &bits, sizeof(bits));
  };
}

TEST(StageForward, ANonFiniteActivationNamesTheLayer) {
  for (const auto& format : {std::optional<AffineFormat>(), std::optional(AffineFormat{4, 64})}) {
    for (const ActivationMode mode : {ActivationMode::kInt8, ActivationMode::kF32}) {
      const TempFolder folder;
      CopyCheckpoint(
          TinyCheckpoint("qwen3_moe", format), folder.path(),
          SetFirst("model.layers.3.input_layernorm.weight", std::numeric_limits<float>::infinity()));
      auto model = LocalModel::Load(folder.path(), {.activations = mode});
      ASSERT_TRUE(model.ok()) << model.status();
      const int32_t token = 7;
      const LocalSlice slice{0, {&token, 1}};
      const auto logits = (*model)->step({&slice, 1});
      EXPECT_EQ(logits.status().code(), absl::StatusCode::kOutOfRange);
      EXPECT_THAT(Message(logits.status()), HasSubstr("layer 3: "));
      EXPECT_THAT(Message(logits.status()), HasSubstr("not finite"));
    }
  }
}

TEST(StageForward, KeysBeyondTheCachesRangeSaturateAndAreCounted) {
  const TempFolder folder;
  CopyCheckpoint(TinyCheckpoint("qwen3"), folder.path(),
                 SetFirst("model.layers.0.self_attn.k_norm.weight", 1e8f));
  for (const DType kv : {DType::kF16, DType::kF32, DType::kI8}) {
    auto model = LocalModel::Load(folder.path(), {.kv = kv});
    ASSERT_TRUE(model.ok()) << model.status();
    const int32_t token = 7;
    const LocalSlice slice{0, {&token, 1}};
    ASSERT_TRUE((*model)->step({&slice, 1}).ok());
    EXPECT_EQ((*model)->stage(0).kv_saturated() > 0, kv == DType::kF16);
  }
}

}  // namespace
}  // namespace shoal
