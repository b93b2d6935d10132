#include "formats/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/random.h"
#include "base/status.h"
#include "formats/mlx_quant.h"
#include "formats/test_files.h"

namespace shoal {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr char kOneTensor[] = R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})";
constexpr char kOtherTensor[] = R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";

std::shared_ptr<const Checkpoint> OpenGood(const std::string& folder) {
  auto checkpoint = Checkpoint::Open(folder);
  EXPECT_TRUE(checkpoint.ok()) << ToString(checkpoint.status());
  return checkpoint.ok() ? *checkpoint : nullptr;
}

/// The error of a folder with config.json and the given files.
std::string ErrorOf(const std::vector<std::pair<std::string, std::string>>& files) {
  const TemporaryFolder folder;
  folder.write("config.json", "{}");
  for (const auto& [name, bytes] : files) folder.write(name, bytes);
  const auto checkpoint = Checkpoint::Open(folder.path());
  EXPECT_FALSE(checkpoint.ok());
  return Message(checkpoint.status());
}

/// Every golden folder of the families that are built.
std::vector<std::string> GoldenFolders() {
  std::vector<std::string> names;
  for (const char* family : {"llama", "qwen3", "qwen3_moe"}) {
    for (const auto& entry : std::filesystem::directory_iterator(GoldenModel(family))) {
      names.push_back(fmt::format("{}/{}", family, entry.path().filename().string()));
    }
  }
  return names;
}

TEST(Checkpoint, OpensEveryGoldenFolder) {
  const std::vector<std::string> names = GoldenFolders();
  EXPECT_GE(names.size(), 14u) << "goldens are missing";
  for (const std::string& name : names) {
    const auto checkpoint = OpenGood(GoldenModel(name));
    ASSERT_NE(checkpoint, nullptr) << name;
    EXPECT_FALSE(checkpoint->generation().eos_token_ids.empty()) << name;
    const auto width = checkpoint->config().required_int("hidden_size");
    ASSERT_TRUE(width.ok());
    EXPECT_TRUE(checkpoint->view("model.norm.weight", kFloatWeights, {*width}).ok()) << name;
  }
}

TEST(Checkpoint, TheEosIdsAreThoseOfAllConfigs) {
  const TemporaryFolder folder;
  folder.write("config.json", R"({"eos_token_id": 7, "text_config": {"eos_token_id": [5, 9]}})");
  folder.write("model.safetensors", SafetensorsFile(kOneTensor, 2));
  EXPECT_THAT(OpenGood(folder.path())->generation().eos_token_ids, testing::ElementsAre(7, 5, 9));
  folder.write("generation_config.json", R"({"eos_token_id": [9, 3]})");
  EXPECT_THAT(OpenGood(folder.path())->generation().eos_token_ids, testing::ElementsAre(9, 3, 7, 5));
}

TEST(Checkpoint, AWrongShapeNamesFileTensorExpectedAndGot) {
  const auto checkpoint = OpenGood(GoldenModel("llama/plain"));
  const auto view = checkpoint->view("model.norm.weight", kFloatWeights, {3});
  EXPECT_EQ(view.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(view.status()), AllOf(HasSubstr("tensor 'model.norm.weight' in model.safetensors"),
                                            HasSubstr("expected bf16 or f16 or f32 [3], found bf16 [128]")));
  static constexpr DType kWords[] = {DType::kU32};
  EXPECT_THAT(Message(checkpoint->view("model.norm.weight", kWords, {128}).status()),
              HasSubstr("expected u32 [128], found bf16 [128]"));
}

TEST(Checkpoint, AMissingTensorIsAnErrorWithTheNearestName) {
  const auto checkpoint = OpenGood(GoldenModel("llama/plain"));
  const auto view = checkpoint->view("model.norm.wieght", kFloatWeights, {128});
  EXPECT_EQ(view.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(view.status()),
              AllOf(HasSubstr("'model.norm.wieght'"), HasSubstr("'model.norm.weight'")));
}

TEST(Checkpoint, AFolderWithoutItsFilesSaysWhatIsMissing) {
  const TemporaryFolder folder;
  EXPECT_THAT(Message(Checkpoint::Open(folder / "absent").status()), HasSubstr("found nothing"));
  EXPECT_THAT(Message(Checkpoint::Open(folder.path()).status()), HasSubstr("config.json"));
  EXPECT_THAT(ErrorOf({}), HasSubstr("expected model.safetensors or model.safetensors.index.json"));
  EXPECT_THAT(ErrorOf({{"model.safetensors", SafetensorsFile("{}", 0)}}),
              HasSubstr("expected tensors, found none"));
}

TEST(Checkpoint, AnIndexThatDoesNotFitItsShardsIsRefused) {
  const auto with_index = [](std::string_view map) {
    return ErrorOf({{"model.safetensors.index.json", fmt::format(R"({{"weight_map": {}}})", map)},
                    {"1.safetensors", SafetensorsFile(kOneTensor, 2)},
                    {"2.safetensors", SafetensorsFile(kOtherTensor, 1)},
                    {"3.safetensors", SafetensorsFile(kOneTensor, 2)}});
  };
  EXPECT_THAT(with_index(R"({"a": "9.safetensors"})"), HasSubstr("9.safetensors"));
  EXPECT_THAT(with_index(R"({"a": "1.safetensors", "c": "2.safetensors"})"),
              AllOf(HasSubstr("tensor 'c': expected in 2.safetensors"), HasSubstr("found in no file")));
  EXPECT_THAT(with_index(R"({"a": "2.safetensors", "b": "1.safetensors"})"),
              AllOf(HasSubstr("tensor 'a': expected in 2.safetensors"), HasSubstr("found in 1.safetensors")));
  EXPECT_THAT(
      with_index(R"({"a": "1.safetensors", "x": "3.safetensors"})"),
      HasSubstr(
          "tensor 'x': expected in 3.safetensors (says model.safetensors.index.json), found in no file"));
  EXPECT_THAT(with_index(R"({"a": "../1.safetensors"})"), HasSubstr("name of a file in the same folder"));
  EXPECT_THAT(with_index(R"({"a": 1})"), HasSubstr("found 1"));
  EXPECT_THAT(with_index("{}"), HasSubstr("weight_map"));
}

TEST(Checkpoint, TheIndexDecidesOfTensorsThatAreInTwoShards) {
  const TemporaryFolder folder;
  folder.write("config.json", "{}");
  folder.write("model.safetensors.index.json",
               R"({"weight_map": {"a": "3.safetensors", "b": "2.safetensors", "c": "1.safetensors"}})");
  folder.write("1.safetensors", SafetensorsFile(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                                                R"("c":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
                                                3));
  folder.write("2.safetensors", SafetensorsFile(kOtherTensor, 1));
  folder.write("3.safetensors", SafetensorsFile(kOneTensor, 2));
  const auto checkpoint = OpenGood(folder.path());
  EXPECT_EQ(checkpoint->tensors().size(), 3u);
  EXPECT_EQ(checkpoint->file_name(*checkpoint->find("a")), "3.safetensors");
}

TEST(Checkpoint, ACompleteSingleFileComesBeforeAnIndexThatWasLeftBeside) {
  const TemporaryFolder folder;
  folder.write("config.json", "{}");
  folder.write("model.safetensors.index.json", R"({"weight_map": {"a": "gone.safetensors"}})");
  folder.write("model.safetensors", SafetensorsFile(kOneTensor, 2));
  EXPECT_TRUE(OpenGood(folder.path())->has("a"));
}

TEST(Checkpoint, HashDependsOnConfigAndTableAndNotOnShardingOrLayout) {
  const TemporaryFolder single, sharded, other_config, other_shape;
  const std::string both = R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                           R"("b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})";
  single.write("config.json", R"({"x": 1, "y": 2})");
  single.write("model.safetensors", SafetensorsFile(both, 3));
  sharded.write("config.json", "{\"y\":2,\n\"x\":1}");
  sharded.write("model.safetensors.index.json",
                R"({"weight_map": {"a": "2.safetensors", "b": "1.safetensors"}})");
  sharded.write("2.safetensors", SafetensorsFile(kOneTensor, 2));
  sharded.write("1.safetensors", SafetensorsFile(kOtherTensor, 1));
  other_config.write("config.json", R"({"x": 1, "y": 3})");
  other_config.write("model.safetensors", SafetensorsFile(both, 3));
  other_shape.write("config.json", R"({"x": 1, "y": 2})");
  other_shape.write("model.safetensors",
                    SafetensorsFile(R"({"a":{"dtype":"U8","shape":[2,1],"data_offsets":[0,2]},)"
                                    R"("b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
                                    3));
  const std::string hash = OpenGood(single.path())->hash();
  EXPECT_EQ(hash.size(), 32u);
  EXPECT_EQ(OpenGood(sharded.path())->hash(), hash);
  EXPECT_NE(OpenGood(other_config.path())->hash(), hash);
  EXPECT_NE(OpenGood(other_shape.path())->hash(), hash);
}

TEST(Checkpoint, DroppedTensorsReadTheSame) {
  const auto checkpoint = OpenGood(GoldenModel("llama/plain"));
  const TensorView view = checkpoint->view(*checkpoint->find("lm_head.weight"));
  const std::vector<std::byte> before(view.data, view.data + view.bytes);
  checkpoint->drop(view.data, view.bytes);
  checkpoint->will_need(view.data, view.bytes);
  EXPECT_EQ(std::memcmp(before.data(), view.data, before.size()), 0);
}

/// Bytes of mapped files that are resident in this process now (/proc/self/status, RssFile).
int64_t ResidentFileBytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    int64_t kib = 0;
    if (word == "RssFile:" && status >> kib) return kib * 1024;
  }
  ADD_FAILURE() << "no RssFile in /proc/self/status";
  return 0;
}

TEST(Checkpoint, DroppingATensorGivesItsMemoryBack) {
  constexpr int64_t kBytes = 32 << 20;
  if (!std::filesystem::exists("/proc/self/status")) {
    GTEST_SKIP() << "no /proc/self/status says what of a file is in memory";
  }
  const TemporaryFolder folder;
  folder.write("config.json", "{}");
  folder.write(
      "model.safetensors",
      SafetensorsFile(fmt::format(R"({{"a":{{"dtype":"U8","shape":[{0}],"data_offsets":[0,{0}]}}}})", kBytes),
                      kBytes));
  const auto checkpoint = OpenGood(folder.path());
  const TensorView view = checkpoint->view(*checkpoint->find("a"));
  const int64_t before = ResidentFileBytes();
  int64_t sum = 0;
  for (int64_t i = 0; i < view.bytes; i += 512) sum += std::to_integer<int64_t>(view.data[i]);
  EXPECT_EQ(sum, 0);
  const int64_t touched = ResidentFileBytes();
  checkpoint->drop(view.data, view.bytes);
  EXPECT_GT(touched - before, kBytes * 9 / 10);
  EXPECT_LT(ResidentFileBytes() - before, kBytes / 10);
}

/// A quantized matrix and what it was made from.
struct Pair {
  std::string base;
  std::string source;
  MatrixShape shape;
};

/// Every quantized matrix of a folder; the experts of a stack one by one, against the plain folder's own
/// tensors.
std::vector<Pair> QuantizedMatrices(const Checkpoint& quantized, const Checkpoint& plain) {
  std::vector<Pair> pairs;
  for (const TensorInfo& info : quantized.tensors()) {
    if (!info.name.ends_with(".scales")) continue;
    const std::string base = info.name.substr(0, info.name.size() - 7);
    const bool stacked = info.shape.size() == 3;
    for (int64_t e = 0; e < (stacked ? info.shape[0] : 1); ++e) {
      std::string source = base;
      if (stacked) source.replace(source.find("switch_mlp"), 10, fmt::format("experts.{}", e));
      const TensorInfo* original = plain.find(source + ".weight");
      if (original == nullptr) {
        ADD_FAILURE() << "no plain " << source;
        continue;
      }
      pairs.push_back(
          {base, source, {original->shape[0], original->shape[1], stacked ? info.shape[0] : 0, e}});
    }
  }
  return pairs;
}

/// Every element lies within half a step of the weight that mlx quantized, or within one where mlx clipped
/// it: it moves the scale so that zero is exact, which may cut a step off the far end. Scale and bias were
/// rounded to bf16: 2^-9 each, relative. A code that is read from the wrong place misses by more.
void ExpectNearPlain(const AffineView& view, const TensorView& plain, const std::string& name) {
  int64_t wrong = 0;
  for (int64_t row = 0; row < view.rows; ++row) {
    for (int64_t col = 0; col < view.cols; ++col) {
      const float scale = std::abs(AffineScale(view, row, col / view.group));
      const float bias = std::abs(AffineBias(view, row, col / view.group));
      const float code = static_cast<float>(AffineCode(view, row, col));
      const bool clipped = code == 0 || code == static_cast<float>((1 << view.bits) - 1);
      const float bound = (clipped ? 1.0f : 0.5f) * scale + 0x1p-8f * (code * scale + bias);
      const float expected = LoadFloatWeight(plain.data, plain.dtype, row * view.cols + col);
      if (!(std::abs(AffineValue(view, row, col) - expected) <= bound)) ++wrong;
    }
  }
  EXPECT_EQ(wrong, 0) << name;
}

TEST(MlxQuant, UnpacksToTheWeightsThatMlxQuantized) {
  const std::pair<const char*, const char*> folders[] = {
      {"llama/plain-q3g64", "llama/plain"},         {"llama/plain-q4g64", "llama/plain"},
      {"qwen3/tied-q4g32", "qwen3/tied"},           {"qwen3/tied-q4g64", "qwen3/tied"},
      {"qwen3/tied-q6g64", "qwen3/tied"},           {"qwen3/tied-q8g64", "qwen3/tied"},
      {"qwen3_moe/plain-q4g64", "qwen3_moe/plain"}, {"qwen3_moe/plain-mixed46", "qwen3_moe/plain"},
  };
  for (const auto& [quantized_name, plain_name] : folders) {
    const auto quantized = OpenGood(GoldenModel(quantized_name));
    const auto plain = OpenGood(GoldenModel(plain_name));
    const auto quantization = Quantization::FromConfig(quantized->config());
    ASSERT_TRUE(quantization.ok()) << ToString(quantization.status());
    const std::vector<Pair> pairs = QuantizedMatrices(*quantized, *plain);
    EXPECT_GE(pairs.size(), 22u) << quantized_name;
    for (const Pair& pair : pairs) {
      const auto view = ViewAffine(*quantized, *quantization, pair.base, pair.shape);
      ASSERT_TRUE(view.ok()) << ToString(view.status());
      ExpectNearPlain(*view, plain->view(*plain->find(pair.source + ".weight")),
                      quantized_name + (": " + pair.source));
    }
  }
}

TEST(MlxQuant, ReadsEveryWidthFromOneBitStreamPerRow) {
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    constexpr int64_t kRows = 3, kCols = 96;
    std::vector<uint32_t> words(static_cast<size_t>(kRows * kCols * bits / 32));
    const auto code_of = [bits](int64_t row, int64_t col) {
      return static_cast<int>(RandomBits(5, static_cast<uint64_t>(row), static_cast<uint64_t>(col)) &
                              ((1u << bits) - 1));
    };
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t bit = 0; bit < kCols * bits; ++bit) {  // Bit by bit, as the format is defined.
        const uint32_t value = static_cast<uint32_t>(code_of(row, bit / bits) >> (bit % bits)) & 1u;
        const int64_t at = row * kCols * bits + bit;
        words[static_cast<size_t>(at / 32)] |= value << (at % 32);
      }
    }
    const AffineView view{.words = words.data(), .rows = kRows, .cols = kCols, .bits = bits, .group = 32};
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t col = 0; col < kCols; ++col)
        ASSERT_EQ(AffineCode(view, row, col), code_of(row, col)) << bits;
    }
  }
}

TEST(MlxQuant, WordsOfAnotherWidthSayWhichOneTheyHold) {
  const auto checkpoint = OpenGood(GoldenModel("qwen3/tied-q6g64"));
  const auto wrong = ModelConfig::Parse(R"({"quantization": {"bits": 4, "group_size": 64}})", "config.json");
  const auto view =
      ViewAffine(*checkpoint, *Quantization::FromConfig(*wrong), "model.layers.0.mlp.up_proj", {128, 128});
  EXPECT_EQ(view.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(view.status()),
              AllOf(HasSubstr("tensor 'model.layers.0.mlp.up_proj.weight' in model.safetensors"),
                    HasSubstr("expected u32 [128, 16]"), HasSubstr("found u32 [128, 24]"),
                    HasSubstr("(4-bit, D=128, 8 per word)"),
                    HasSubstr("24 words hold D=128 at 6 bits: config.json \"quantization\" says bits=4")));
}

TEST(MlxQuant, ScalesOfAnotherGroupSayWhichOneTheyHold) {
  const auto checkpoint = OpenGood(GoldenModel("qwen3/tied-q4g32"));
  const auto wrong = ModelConfig::Parse(R"({"quantization": {"bits": 4, "group_size": 64}})", "config.json");
  const auto view =
      ViewAffine(*checkpoint, *Quantization::FromConfig(*wrong), "model.layers.0.mlp.up_proj", {128, 128});
  EXPECT_THAT(Message(view.status()),
              AllOf(HasSubstr("up_proj.scales"), HasSubstr("4 scales hold D=128 in groups of 32"),
                    HasSubstr("group_size=64")));
}

TEST(MlxQuant, ScalesWithoutAConfigAreAnError) {
  const auto checkpoint = OpenGood(GoldenModel("qwen3/tied-q4g64"));
  EXPECT_TRUE(IsQuantized(*checkpoint, "model.embed_tokens"));
  EXPECT_FALSE(IsQuantized(*checkpoint, "model.norm"));
  for (const char* text :
       {"{}", R"({"quantization": {"bits": 4, "group_size": 64, "model.embed_tokens": false}})"}) {
    const auto config = ModelConfig::Parse(text, "config.json");
    const auto view =
        ViewAffine(*checkpoint, *Quantization::FromConfig(*config), "model.embed_tokens", {512, 128});
    EXPECT_THAT(Message(view.status()), HasSubstr("'model.embed_tokens.scales' says that it is quantized"))
        << text;
  }
}

TEST(MlxQuant, AMixtureOfWrongWidthIsRefusedWithItsShape) {
  const auto checkpoint = OpenGood(GoldenModel("qwen3_moe/plain-q4g64"));
  const auto quantization = Quantization::FromConfig(checkpoint->config());
  const std::string base = "model.layers.0.mlp.switch_mlp.up_proj";
  EXPECT_TRUE(ViewAffine(*checkpoint, *quantization, base, {64, 128, 6, 5}).ok());
  EXPECT_THAT(Message(ViewAffine(*checkpoint, *quantization, base, {64, 128, 7, 0}).status()),
              HasSubstr("expected u32 [7, 64, 16], found u32 [6, 64, 16]"));
  EXPECT_THAT(Message(ViewAffine(*checkpoint, *quantization, base, {64, 100, 6, 0}).status()),
              HasSubstr("D=100 is not a multiple of the group size 64"));
}

TEST(Checkpoint, AnotherContentIsAnotherIdentityEvenWhereSizeAndTimeAreTheSame) {
  const TemporaryFolder folder;
  folder.write("config.json", "{}");
  // Two samples of 4 KiB are far from the byte that changes.
  const std::string header = R"({"a":{"dtype":"U8","shape":[1000000],"data_offsets":[0,1000000]}})";
  const std::string file = SafetensorsFile(header, 1000000);
  folder.write("model.safetensors", file);
  const std::string path = folder / "model.safetensors";
  const auto time = std::filesystem::last_write_time(path);
  const std::string before = OpenGood(folder.path())->content_identity();
  EXPECT_EQ(OpenGood(folder.path())->content_identity(), before);
  EXPECT_EQ(before.size(), 32u);
  // A file system may count time in ticks of ten milliseconds.
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  {
    std::fstream edit(path, std::ios::in | std::ios::out | std::ios::binary);
    edit.seekp(33333);
    edit.put('x');
  }
  std::filesystem::last_write_time(path, time);
  EXPECT_NE(OpenGood(folder.path())->content_identity(), before);
}

TEST(Checkpoint, ContentIsSettledOnlyWhereNoFileHasJustChanged) {
  EXPECT_TRUE(OpenGood(GoldenModel("qwen3/tied"))->content_settled());
  const TemporaryFolder folder;
  folder.write("config.json", "{}");
  folder.write("model.safetensors", SafetensorsFile(kOneTensor, 2));
  EXPECT_FALSE(OpenGood(folder.path())->content_settled());
}

}  // namespace
}  // namespace shoal
