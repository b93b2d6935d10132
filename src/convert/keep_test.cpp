// A GGUF as a folder that keeps its codes: the same logits, bit for bit.
#include "convert/keep.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/random.h"
#include "base/status.h"
#include "compute/testing/local_model.h"
#include "convert/convert.h"
#include "convert/testing/checkpoints.h"
#include "formats/test_gguf.h"

namespace shoal {
namespace {

using testing::HasSubstr;

constexpr int64_t kGgufWidth = 256, kGgufHidden = 512, kGgufVocabulary = 96, kGgufKeyRows = 128;

/// A block type by ggml's number: columns and bytes of a block, and where its f16 numbers lie.
struct GgmlType {
  const char* name;
  uint32_t number;
  int64_t columns;
  int64_t bytes;
  std::vector<int64_t> halves;
};
const GgmlType kF32Type{"F32", 0, 1, 4, {}};
const GgmlType kF16Type{"F16", 1, 1, 2, {}};
const GgmlType kQ6K{"Q6_K", 14, 256, 210, {208}};
const GgmlType kGgmlTypes[] = {{"Q4_0", 2, 32, 18, {0}},       {"Q4_1", 3, 32, 20, {0, 2}},
                               {"Q5_0", 6, 32, 22, {0}},       {"Q5_1", 7, 32, 24, {0, 2}},
                               {"Q8_0", 8, 32, 34, {0}},       {"Q2_K", 10, 256, 84, {80, 82}},
                               {"Q3_K", 11, 256, 110, {108}},  {"Q4_K", 12, 256, 144, {0, 2}},
                               {"Q5_K", 13, 256, 176, {0, 2}}, {"Q6_K", 14, 256, 210, {208}},
                               {"IQ4_NL", 20, 32, 18, {0}},    {"IQ4_XS", 23, 256, 136, {0}},
                               {"F16", 1, 1, 2, {}},           {"F32", 0, 1, 4, {}}};

/// A tiny model of llama's or gemma's architecture with random weights.
class TinyGguf {
 public:
  TinyGguf(const std::string& architecture, const GgmlType& most, const GgmlType& some)
      : most_(most), some_(some) {
    const auto number = [&](const char* key, uint32_t value) { file_.add_int(architecture + key, value); };
    file_.add_string("general.architecture", architecture);
    number(".block_count", 2);
    number(".context_length", 256);
    number(".embedding_length", kGgufWidth);
    number(".feed_forward_length", kGgufHidden);
    number(".attention.head_count", 4);
    number(".attention.head_count_kv", 2);
    number(".attention.key_length", 64);
    number(".attention.value_length", 64);
    file_.add_float(architecture + ".attention.layer_norm_rms_epsilon", 1e-6f);
    file_.add_string("tokenizer.ggml.model", "gpt2");
    file_.add_string("tokenizer.ggml.pre", "qwen2");
    std::vector<std::string> tokens;
    for (int64_t i = 0; i < kGgufVocabulary; ++i) tokens.push_back("t" + std::to_string(i));
    file_.add_strings("tokenizer.ggml.tokens", tokens);
    file_.add_strings("tokenizer.ggml.merges", std::vector<std::string>{});
    matrix("token_embd.weight", kGgufVocabulary, kGgufWidth, some_);
    norm("output_norm.weight");
    if (architecture == "llama") matrix("output.weight", kGgufVocabulary, kGgufWidth, some_);
    for (const std::string layer : {"blk.0.", "blk.1."}) {
      norm(layer + "attn_norm.weight");
      norm(layer + "ffn_norm.weight");
      matrix(layer + "attn_q.weight", kGgufWidth, kGgufWidth, most_);
      matrix(layer + "attn_k.weight", kGgufKeyRows, kGgufWidth, most_);
      matrix(layer + "attn_v.weight", kGgufKeyRows, kGgufWidth, some_);
      matrix(layer + "attn_output.weight", kGgufWidth, kGgufWidth, most_);
      matrix(layer + "ffn_gate.weight", kGgufHidden, kGgufWidth, most_);
      matrix(layer + "ffn_up.weight", kGgufHidden, kGgufWidth, most_);
      matrix(layer + "ffn_down.weight", kGgufWidth, kGgufHidden, some_);
    }
  }

  std::string write(const std::string& folder) const {
    const std::string path = folder + "/tiny.gguf";
    std::ofstream(path, std::ios::binary) << file_.file(data_);
    return path;
  }

 private:
  void append(const std::string& name, const GgmlType& type, const std::vector<uint64_t>& dims,
              const std::string& bytes) {
    file_.add_tensor(name, type.number, dims, data_.size());
    data_ += bytes;
    data_.append((32 - data_.size() % 32) % 32, '\0');
  }

  /// One, more or less; some far from it, where adding and taking away 1 would lose bits.
  void norm(const std::string& name) {
    std::string bytes;
    for (int64_t i = 0; i < kGgufWidth; ++i) {
      const double value = i % 16 == 0 ? 0.01 + 0.01 * random_.uniform() : 0.5 + random_.uniform();
      bytes += GgufBuilder::number(static_cast<float>(value));
    }
    append(name, kF32Type, {static_cast<uint64_t>(kGgufWidth)}, bytes);
  }

  void matrix(const std::string& name, int64_t rows, int64_t cols, const GgmlType& type) {
    std::string bytes;
    for (int64_t i = 0; i < rows * cols / type.columns; ++i) {
      std::string block;
      const auto value = static_cast<float>(0.2 * random_.uniform() - 0.1);
      if (type.number == kF32Type.number) {
        block = GgufBuilder::number(value);
      } else if (type.number == kF16Type.number) {
        block = GgufBuilder::number(F32ToF16(value));
      } else {
        for (int64_t byte = 0; byte < type.bytes; ++byte) block += static_cast<char>(random_.bits());
        for (const int64_t at : type.halves) {
          const uint16_t half = F32ToF16(static_cast<float>(1e-4 * (0.5 + random_.uniform())));
          std::memcpy(block.data() + at, &half, 2);
        }
      }
      bytes += block;
    }
    append(name, type, {static_cast<uint64_t>(cols), static_cast<uint64_t>(rows)}, bytes);
  }

  const GgmlType& most_;
  const GgmlType& some_;
  GgufBuilder file_;
  std::string data_;
  RandomStream random_{18};
};

std::vector<float> ModelLogits(const std::string& model, ActivationMode activations) {
  auto loaded = LocalModel::Load(model, {.activations = activations});
  EXPECT_TRUE(loaded.ok()) << model << ": " << ToString(loaded.status());
  if (!loaded.ok()) return {};
  std::vector<int32_t> prompt(40);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int32_t>(i * 7 % kGgufVocabulary);
  const auto run = (*loaded)->run(prompt, 0);
  EXPECT_TRUE(run.ok()) << ToString(run.status());
  return run.ok() ? run->logits : std::vector<float>();
}

absl::Status Keep(const std::string& from, const std::string& to) {
  ASSIGN_OR_RETURN(const auto weights, ResolvedWeights::Open(from));
  return ConvertModel(*weights, {.out = to, .format = {.kind = ConvertFormat::Kind::kKeep}, .threads = 2})
      .status();
}

void ExpectKept(const std::string& gguf, const std::string& folder) {
  const absl::Status kept = Keep(gguf, folder);
  ASSERT_TRUE(kept.ok()) << ToString(kept);
  for (const ActivationMode activations : {ActivationMode::kInt8, ActivationMode::kF32}) {
    const std::vector<float> logits = ModelLogits(gguf, activations);
    ASSERT_EQ(std::ssize(logits), 40 * kGgufVocabulary);
    const std::vector<float> again = ModelLogits(folder, activations);
    ASSERT_EQ(again.size(), logits.size());
    EXPECT_EQ(std::memcmp(again.data(), logits.data(), logits.size() * sizeof(float)), 0);
  }
}

TEST(KeepGguf, EveryTypeGivesTheSameBitsAsTheFile) {
  for (const GgmlType& type : kGgmlTypes) {
    SCOPED_TRACE(type.name);
    const TempFolder files;
    const TempFolder out;
    ExpectKept(TinyGguf("llama", type, kQ6K).write(files.path()), out.path());
  }
}

TEST(KeepGguf, TheConfigSaysWhatEachMatrixIs) {
  const TempFolder files;
  const TempFolder out;
  ASSERT_TRUE(Keep(TinyGguf("llama", kGgmlTypes[7], kQ6K).write(files.path()), out.path()).ok());  // Q4_K
  nlohmann::json config;
  std::ifstream(out.path() + "/config.json") >> config;
  const auto& quantization = config["quantization"];
  EXPECT_EQ(quantization["bits"], 4);
  EXPECT_EQ(quantization["group_size"], 32);
  const auto& down = quantization["model.layers.0.mlp.down_proj"];
  EXPECT_EQ(down["bits"], 6);
  EXPECT_EQ(down["group_size"], 16);
}

TEST(KeepGguf, NormsWithOneAddedStayThoseOfTheFile) {
  const TempFolder files;
  const TempFolder out;
  ExpectKept(TinyGguf("gemma", kGgmlTypes[0], kQ6K).write(files.path()), out.path());
}

}  // namespace
}  // namespace shoal
