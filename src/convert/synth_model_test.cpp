#include "convert/synth_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/status.h"
#include "formats/checkpoint.h"
#include "formats/test_files.h"
#include "models/family.h"

namespace shoal {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// clang-format off
/// Odd on purpose: rows and vocabulary are no multiples of 16, experts are prime.
constexpr char kTinyMoe[] = R"({
  "model_type": "qwen3_moe", "hidden_size": 192, "num_hidden_layers": 3, "num_attention_heads": 6,
  "num_key_value_heads": 2, "head_dim": 36, "intermediate_size": 320, "vocab_size": 277,
  "tie_word_embeddings": false, "num_experts": 13, "num_experts_per_tok": 3, "moe_intermediate_size": 64,
  "decoder_sparse_step": 1, "mlp_only_layers": [1], "rms_norm_eps": 1e-06, "norm_topk_prob": true,
  "hidden_act": "silu", "max_position_embeddings": 512, "rope_theta": 10000.0})";
constexpr char kTinyLlama[] = R"({
  "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
  "num_key_value_heads": 1, "intermediate_size": 96, "vocab_size": 300, "tie_word_embeddings": true,
  "attention_bias": true, "mlp_bias": true, "rms_norm_eps": 1e-06,
  "hidden_act": "silu", "max_position_embeddings": 512, "rope_theta": 10000.0})";
// clang-format on

SynthOptions Options(std::string_view config, std::string out) {
  SynthOptions options;
  options.config_json = std::string(config);
  options.out = std::move(out);
  return options;
}

std::shared_ptr<const Checkpoint> Made(const SynthOptions& options) {
  const absl::Status status = SynthesizeModel(options);
  EXPECT_TRUE(status.ok()) << ToString(status);
  auto checkpoint = Checkpoint::Open(options.out);
  EXPECT_TRUE(checkpoint.ok()) << ToString(checkpoint.status());
  return checkpoint.ok() ? *checkpoint : nullptr;
}

TEST(Synth, PlainFolderHasTheHubsNamesAndShapes) {
  const TemporaryFolder folder;
  const auto moe = Made(Options(kTinyMoe, folder / "moe"));
  EXPECT_TRUE(moe->view("model.embed_tokens.weight", kFloatWeights, {277, 192}).ok());
  EXPECT_TRUE(moe->view("lm_head.weight", kFloatWeights, {277, 192}).ok());
  EXPECT_TRUE(moe->view("model.layers.0.self_attn.q_proj.weight", kFloatWeights, {216, 192}).ok());
  EXPECT_TRUE(moe->view("model.layers.0.self_attn.q_norm.weight", kFloatWeights, {36}).ok());
  EXPECT_TRUE(moe->view("model.layers.0.mlp.gate.weight", kFloatWeights, {13, 192}).ok());
  EXPECT_TRUE(moe->view("model.layers.2.mlp.experts.12.down_proj.weight", kFloatWeights, {192, 64}).ok());
  EXPECT_TRUE(moe->view("model.layers.1.mlp.down_proj.weight", kFloatWeights, {192, 320}).ok())
      << "mlp_only_layers";
  EXPECT_FALSE(moe->has("model.layers.1.mlp.gate.weight"));

  const auto llama = Made(Options(kTinyLlama, folder / "llama"));
  EXPECT_FALSE(llama->has("lm_head.weight"));
  EXPECT_TRUE(llama->view("model.layers.1.self_attn.k_proj.bias", kFloatWeights, {32}).ok());
  EXPECT_TRUE(llama->view("model.layers.1.mlp.down_proj.bias", kFloatWeights, {64}).ok());
  EXPECT_EQ(llama->tensors().size(), 2u + 2u * (2 + 7 * 2));
}

TEST(Synth, QuantizedFolderHoldsTheQuantizedValuesOfThePlainOne) {
  const TemporaryFolder folder;
  const auto plain = Made(Options(kTinyMoe, folder / "plain"));
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    SynthOptions options = Options(kTinyMoe, folder / fmt::format("q{}", bits));
    options.quantization = AffineFormat{bits, 64};
    const auto quantized = Made(options);
    const auto quantization = Quantization::FromConfig(quantized->config());
    ASSERT_TRUE(quantization.ok()) << ToString(quantization.status());
    EXPECT_EQ(quantization->for_tensor("model.layers.0.mlp.gate"), (AffineFormat{8, 64}))
        << "routers keep 8 bits";

    const MatrixShape shape{64, 192, 13, 11};
    const auto view = ViewAffine(*quantized, *quantization, "model.layers.2.mlp.switch_mlp.up_proj", shape);
    ASSERT_TRUE(view.ok()) << ToString(view.status());
    const auto original =
        plain->view("model.layers.2.mlp.experts.11.up_proj.weight", kFloatWeights, {64, 192});
    ASSERT_TRUE(original.ok());
    for (int64_t i = 0; i < 64 * 192; ++i) {
      const int64_t row = i / 192, col = i % 192;
      const float scale = AffineScale(*view, row, col / 64);
      // Half a step; at the ends of the range, what rounding bias and scale to bf16 (2^-8 each) moved them: 1
      // and 2 |bias|.
      const float bound = 0.5f * scale + 0x1p-8f * 3 * std::abs(AffineBias(*view, row, col / 64));
      ASSERT_NEAR(AffineValue(*view, row, col), LoadFloatWeight(original->data, original->dtype, i), bound)
          << bits;
    }
  }
}

TEST(Synth, AMatrixThatGroupsDoNotDivideStaysPlain) {
  const TemporaryFolder folder;
  SynthOptions options = Options(kTinyLlama, folder / "llama");  // intermediate_size 96 is no multiple of 64.
  options.quantization = AffineFormat{4, 64};
  const auto checkpoint = Made(options);
  EXPECT_TRUE(IsQuantized(*checkpoint, "model.layers.0.mlp.up_proj"));
  EXPECT_FALSE(IsQuantized(*checkpoint, "model.layers.0.mlp.down_proj"));
}

TEST(Synth, ValuesDependOnTheSeedAndNotOnSharding) {
  const TemporaryFolder folder;
  const auto bytes_of = [](const Checkpoint& checkpoint, const char* name) {
    const TensorView view = checkpoint.view(*checkpoint.find(name));
    return std::string(reinterpret_cast<const char*>(view.data), static_cast<size_t>(view.bytes));
  };
  SynthOptions sharded = Options(kTinyMoe, folder / "sharded");
  sharded.file_bytes_max = 100'000;
  SynthOptions other_seed = Options(kTinyMoe, folder / "seed");
  other_seed.seed = 2;
  const auto one = Made(Options(kTinyMoe, folder / "one"));
  const auto many = Made(sharded);
  const auto other = Made(other_seed);
  EXPECT_TRUE(std::filesystem::exists(folder / "sharded/model.safetensors.index.json"));
  EXPECT_FALSE(std::filesystem::exists(folder / "one/model.safetensors.index.json"));
  EXPECT_EQ(one->hash(), many->hash());
  for (const TensorInfo& tensor : one->tensors()) {
    EXPECT_EQ(bytes_of(*one, tensor.name.c_str()), bytes_of(*many, tensor.name.c_str())) << tensor.name;
    EXPECT_NE(bytes_of(*one, tensor.name.c_str()), bytes_of(*other, tensor.name.c_str())) << tensor.name;
  }
  EXPECT_NE(bytes_of(*one, "model.layers.0.mlp.experts.0.up_proj.weight"),
            bytes_of(*one, "model.layers.0.mlp.experts.1.up_proj.weight"));
}

TEST(Synth, WeightsHaveTheDeviationThatKeepsLogitsNearTwo) {
  const TemporaryFolder folder;
  SynthOptions options = Options(kTinyMoe, folder / "x");
  options.dtype = DType::kF32;
  const auto checkpoint = Made(options);
  const TensorView head = checkpoint->view(*checkpoint->find("lm_head.weight"));
  double sum = 0, squares = 0;
  constexpr int64_t kCount = 277 * 192;
  for (int64_t i = 0; i < kCount; ++i) {
    const double value = LoadFloatWeight(head.data, head.dtype, i);
    sum += value;
    squares += value * value;
  }
  // A logit of a normalised row has the deviation d * sqrt(192). Five standard errors: a uniform's variance
  // estimate has the relative error sqrt(0.8 / n), its root half of that; its mean d / sqrt(n).
  const double deviation = std::sqrt(squares / kCount);
  EXPECT_NEAR(deviation * std::sqrt(192.0), 2.0, 2.0 * 5 * 0.5 * std::sqrt(0.8 / kCount));
  EXPECT_NEAR(sum / kCount, 0.0, 5 * deviation / std::sqrt(kCount));
}

TEST(Synth, FolderCanBeServed) {
  const TemporaryFolder folder;
  SynthOptions options = Options(kTinyLlama, folder / "x");
  options.layers = 1;
  int64_t last_done = 0, last_total = -1;
  ASSERT_TRUE(SynthesizeModel(options, [&](int64_t done, int64_t total) {
                EXPECT_GE(done, last_done);
                last_done = done;
                last_total = total;
              }).ok());
  EXPECT_EQ(last_done, last_total);
  const auto checkpoint = Checkpoint::Open(options.out);
  ASSERT_TRUE(checkpoint.ok()) << ToString(checkpoint.status());
  EXPECT_EQ(last_total, (*checkpoint)->total_bytes());
  EXPECT_EQ(*(*checkpoint)->config().required_int("num_hidden_layers"), 1);
  EXPECT_THAT((*checkpoint)->generation().eos_token_ids, ElementsAre(258));

  std::ifstream file(folder / "x/tokenizer.json");
  const auto tokenizer = nlohmann::json::parse(file);
  const auto& vocab = tokenizer.at("model").at("vocab");
  ASSERT_EQ(vocab.size(), 300u);
  std::vector<bool> seen(300);
  for (const auto& [token, id] : vocab.items()) seen.at(id.get<size_t>()) = true;
  EXPECT_EQ(std::ranges::count(seen, false), 0);
  EXPECT_EQ(vocab.at("A"), 65);
  EXPECT_EQ(vocab.at("\u0120"), 32) << "GPT-2 writes the space as U+0120";
  EXPECT_EQ(vocab.at("<|im_end|>"), 258);
}

TEST(Synth, RefusesWhatItDoesNotUnderstand) {
  const TemporaryFolder folder;
  const auto error = [&](std::string_view config) {
    return Message(SynthesizeModel(Options(config, folder / "x")));
  };
  EXPECT_THAT(error(R"({"model_type": "gpt2"})"), HasSubstr("'gpt2' is not built; known: "));
  EXPECT_THAT(error(R"({"model_type": "llama"})"), HasSubstr("'hidden_act'"));
  EXPECT_THAT(error("[]"), HasSubstr("expected a JSON object"));
  EXPECT_THAT(error("{"), HasSubstr("not valid JSON"));
  EXPECT_FALSE(std::filesystem::exists(folder / "x")) << "nothing may be made for a bad config";

  SynthOptions options = Options(kTinyLlama, folder.path());
  folder.write("something", "");
  EXPECT_EQ(SynthesizeModel(options).code(), absl::StatusCode::kFailedPrecondition);
  options = Options(kTinyLlama, folder / "y");
  options.quantization = AffineFormat{7, 64};
  EXPECT_THAT(Message(SynthesizeModel(options)), HasSubstr("bits=7"));
  options = Options(kTinyLlama, folder / "y");
  options.dtype = DType::kU8;
  EXPECT_THAT(Message(SynthesizeModel(options)), HasSubstr("found u8"));
  EXPECT_THAT(Message(SynthPreset("C").status()), HasSubstr("'C'"));
}

TEST(Synth, PresetsAreConfigsThatItUnderstands) {
  const TemporaryFolder folder;
  for (const char* name : {"A", "B"}) {
    const auto config = ModelConfig::Parse(*SynthPreset(name), "config.json");
    ASSERT_TRUE(config.ok()) << ToString(config.status());
    EXPECT_EQ(*config->required_int("vocab_size"), 151936);
    EXPECT_EQ(*config->required_int("hidden_size"), 2048);
    EXPECT_TRUE(SpecFor(*config).ok());
  }
}

}  // namespace
}  // namespace shoal
