// As gguf_models_test.cpp, of the architectures with layers of the delta rule. What is done to tensors and keys is what
// the converter of llama-cpp-python 0.3.36 does, in the methods named below.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/random.h"
#include "compute/testing/gguf_converter.h"
#include "convert/convert.h"
#include "convert/testing/checkpoints.h"
#include "formats/block_types.h"
#include "loading/weight_loader.h"
#include "models/family.h"

namespace shoal {
namespace {

using gguf_testing::Converter;
using gguf_testing::ExpectSameBits;
using gguf_testing::ExpectTheBitsOfItsFolder;
using gguf_testing::ExponentiateDecays;
using gguf_testing::Json;
using gguf_testing::Names;
using gguf_testing::Replace;
using gguf_testing::RowsOfStack;
using gguf_testing::SplitKvB;
using gguf_testing::SqueezeTaps;
using gguf_testing::StackExperts;
using gguf_testing::Synthesize;
using gguf_testing::Tensor;
using gguf_testing::Tensors;

// Of the tiny models: value heads by key heads, 4 by 4, and their dimensions.
constexpr int64_t kKeyHeads = 4;
constexpr int64_t kPerKey = 4;
constexpr int64_t kKeyDim = 12;
constexpr int64_t kKeyRows = 2 * kKeyHeads * kKeyDim;

const Names kQwenNames = {{".post_attention_layernorm.", ".post_attention_norm."},
                          {".linear_attn.in_proj_qkvz.", ".ssm_in."},
                          {".linear_attn.in_proj_qkv.", ".attn_qkv."},
                          {".linear_attn.in_proj_z.", ".attn_gate."},
                          {".linear_attn.in_proj_ba.", ".ssm_ba."},
                          {".linear_attn.in_proj_b.", ".ssm_beta."},
                          {".linear_attn.in_proj_a.", ".ssm_alpha."},
                          {".linear_attn.conv1d.", ".ssm_conv1d."},
                          {".linear_attn.dt_bias", ".ssm_dt.bias"},
                          {".linear_attn.A_log", ".ssm_a"},
                          {".linear_attn.norm.", ".ssm_norm."},
                          {".linear_attn.out_proj.", ".ssm_out."},
                          {".self_attn.q_norm.", ".attn_q_norm."},
                          {".self_attn.k_norm.", ".attn_k_norm."}};

/// From value heads by key heads to turns of the key heads (`_reorder_v_heads`): heads of `size` runs of `run` values
/// each, from value `begin` of each row of `row` values on.
void TileHeads(std::vector<float>& values, size_t row, size_t begin, size_t head) {
  const std::vector<float> old = values;
  for (size_t at = begin; at < values.size(); at += row) {
    for (int64_t k = 0; k < kKeyHeads; ++k) {
      for (int64_t v = 0; v < kPerKey; ++v) {
        const auto from =
            old.begin() + static_cast<int64_t>(at + static_cast<size_t>(k * kPerKey + v) * head);
        std::copy_n(
            from, head,
            values.begin() + static_cast<int64_t>(at + static_cast<size_t>(v * kKeyHeads + k) * head));
      }
    }
  }
}

/// `_LinearAttentionVReorderBase.modify_tensors`.
void TileValueHeads(Converter& c, int64_t value_dim) {
  for (Tensor& tensor : c.tensors) {
    if (tensor.name.find(".linear_attn.") == std::string::npos) continue;
    const auto cols = static_cast<size_t>(tensor.shape.size() == 1 ? 1 : tensor.shape.back());
    const auto has = [&](const char* part) { return tensor.name.find(part) != std::string::npos; };
    const size_t head = static_cast<size_t>(value_dim) * cols;
    if (has(".in_proj_qkv.") || has(".conv1d.")) {
      TileHeads(tensor.values, tensor.values.size(), kKeyRows * cols, head);
    } else if (has(".in_proj_z.")) {
      TileHeads(tensor.values, tensor.values.size(), 0, head);
    } else if (has(".in_proj_b.") || has(".in_proj_a.") || has(".A_log") || has(".dt_bias")) {
      TileHeads(tensor.values, tensor.values.size(), 0, cols);
    } else if (has(".out_proj.")) {
      TileHeads(tensor.values, cols, 0, static_cast<size_t>(value_dim));
    }
  }
}

/// Rows [begin, begin + run) of each key head's 2 * 12 + 8 * 20 of in_proj_qkvz.
Tensor RowsOfKeyHeads(const Tensor& of, std::string name, std::vector<std::pair<int64_t, int64_t>> parts) {
  const int64_t cols = of.shape[1];
  const int64_t each = of.shape[0] / kKeyHeads;
  Tensor result{.name = std::move(name), .shape = {0, cols}, .values = {}, .blocks = {}};
  for (const auto& [begin, run] : parts) {
    for (int64_t head = 0; head < kKeyHeads; ++head) {
      const auto first = of.values.begin() + (head * each + begin) * cols;
      result.values.insert(result.values.end(), first, first + run * cols);
    }
    result.shape[0] += kKeyHeads * run;
  }
  return result;
}

/// `Qwen3NextModel.modify_tensors` and `Qwen2MoeModel.modify_tensors`; split: in_proj_qkvz in two.
void ModifyQwen(Converter& c, bool split) {
  ExponentiateDecays(c);
  Tensors result;
  for (Tensor& tensor : c.tensors) {
    std::string& name = tensor.name;
    if (name.find("conv1d") != std::string::npos) {
      tensor.shape = {tensor.shape.front(), tensor.shape.back()};
    } else if (name.ends_with("norm.weight") && !name.ends_with("linear_attn.norm.weight")) {
      for (float& value : tensor.values) value += 1;
    }
    std::string base = name;
    if (split && Replace(base, "in_proj_qkvz.weight", "in_proj_")) {
      result.push_back(RowsOfKeyHeads(tensor, base + "qkv.weight", {{0, 12}, {12, 12}, {24, 80}}));
      result.push_back(RowsOfKeyHeads(tensor, base + "z.weight", {{104, 80}}));
    } else if (Replace(base, ".experts.gate_up_proj", ".experts.")) {
      result.push_back(RowsOfStack(tensor, base + "gate_proj.weight", 0, 320));
      result.push_back(RowsOfStack(tensor, base + "up_proj.weight", 320, 640));
    } else {
      if (name.ends_with(".experts.down_proj")) name += ".weight";
      result.push_back(std::move(tensor));
    }
  }
  c.tensors = std::move(result);
}

void SetQwenDelta(Converter& c, int64_t value_dim) {
  c.set_int(".ssm.conv_kernel", 4);
  c.set_int(".ssm.state_size", kKeyDim);
  c.set_int(".ssm.group_count", kKeyHeads);
  c.set_int(".ssm.time_step_rank", kKeyHeads * kPerKey);
  c.set_int(".ssm.inner_size", kKeyHeads * kPerKey * value_dim);
  c.set_int(".full_attention_interval", 3);
  c.set_int(".rope.dimension_count", 6);
}

void SetQwenExperts(Converter& c) {
  c.tensors = StackExperts(c.tensors);
  c.set_int(".expert_count", 13);
  c.set_int(".expert_feed_forward_length", 320);
  c.set_int(".expert_shared_feed_forward_length", 448);
}

/// Qwen3.5 with `value_dim` dimensions a value head.
void SetQwen35(Converter& c, int64_t value_dim = 20) {
  for (Tensor& tensor : c.tensors) Replace(tensor.name, "model.language_model.", "model.");
  TileValueHeads(c, value_dim);
  ModifyQwen(c, true);
  SetQwenDelta(c, value_dim);
  c.set_bools(".attention.recurrent_layers", {true, true, false, true, true, false, true});
  c.set_ints(".rope.dimension_sections", {1, 1, 1, 0});
}

TEST(GgufModels, Qwen35HasTheBitsOfItsFolderWithExpertsAndWithout) {
  ExpectTheBitsOfItsFolder("qwen3_5", Json::object(), kQwenNames, [](Converter& c) { SetQwen35(c); });
  ExpectTheBitsOfItsFolder("qwen3_5_moe", Json::object(), kQwenNames, [](Converter& c) {
    SetQwen35(c);
    SetQwenExperts(c);
  });
}

TEST(GgufModels, Qwen3NextHasTheBitsOfItsFolderWithProjectionsApartAndTogether) {
  for (const bool split : {true, false}) {
    ExpectTheBitsOfItsFolder("qwen3_next", {{"mlp_only_layers", Json::array()}}, kQwenNames,
                             [&](Converter& c) {
                               ModifyQwen(c, split);
                               SetQwenDelta(c, 20);
                               SetQwenExperts(c);
                             });
  }
}

const Names kKimiNames = {{".block_sparse_moe.gate.e_score_correction_bias", ".exp_probs_b.bias"},
                          {".block_sparse_moe.gate.", ".ffn_gate_inp."},
                          {".block_sparse_moe.experts.w1.", ".ffn_gate_exps."},
                          {".block_sparse_moe.experts.w3.", ".ffn_up_exps."},
                          {".block_sparse_moe.experts.w2.", ".ffn_down_exps."},
                          {".block_sparse_moe.shared_experts.gate_proj.", ".ffn_gate_shexp."},
                          {".block_sparse_moe.shared_experts.up_proj.", ".ffn_up_shexp."},
                          {".block_sparse_moe.shared_experts.down_proj.", ".ffn_down_shexp."},
                          {".self_attn.q_conv1d.", ".ssm_conv1d_q."},
                          {".self_attn.k_conv1d.", ".ssm_conv1d_k."},
                          {".self_attn.v_conv1d.", ".ssm_conv1d_v."},
                          {".self_attn.f_a_proj.", ".ssm_f_a."},
                          {".self_attn.f_b_proj.", ".ssm_f_b."},
                          {".self_attn.g_a_proj.", ".ssm_g_a."},
                          {".self_attn.g_b_proj.", ".ssm_g_b."},
                          {".self_attn.b_proj.", ".ssm_beta."},
                          {".self_attn.dt_bias", ".ssm_dt.bias"},
                          {".self_attn.A_log", ".ssm_a"},
                          {".self_attn.o_norm.", ".ssm_norm."}};

TEST(GgufModels, KimiLinearHasTheBitsOfItsFolder) {
  const Json linear = {{"full_attn_layers", {3, 6}},
                       {"kda_layers", {1, 2, 4, 5, 7}},
                       {"head_dim", 20},
                       {"num_heads", 16},
                       {"short_conv_kernel_size", 4}};
  ExpectTheBitsOfItsFolder("kimi_linear", {{"linear_attn_config", linear}}, kKimiNames, [](Converter& c) {
    for (Tensor& tensor : c.tensors) {
      if (tensor.name.find("_conv1d.") != std::string::npos)
        tensor.shape = {1, tensor.shape.front(), 1, tensor.shape.back()};
    }
    ExponentiateDecays(c);
    SplitKvB(c);
    c.tensors = StackExperts(c.tensors);
    c.set_ints(".attention.head_count_kv", {0, 0, 1, 0, 0, 1, 0});
    c.set_int(".ssm.conv_kernel", 4);
    c.set_int(".kda.head_dim", 20);
    c.set_int(".attention.kv_lora_rank", 320);
    c.set_int(".rope.dimension_count", 20);
    c.set_int(".attention.key_length", 340);
    c.set_int(".attention.key_length_mla", 84);
    c.set_int(".attention.value_length_mla", 20);
    c.set_int(".expert_count", 13);
    c.set_int(".expert_used_count", 3);
    c.set_int(".expert_gating_func", 2);
    c.set_int(".expert_feed_forward_length", 320);
    c.set_int(".expert_shared_count", 1);
    c.set_int(".leading_dense_block_count", 1);
    c.set_float(".expert_weights_scale", 2.446);
  });
}

const Names kMambaNames = {{".pre_ff_layernorm.", ".ffn_norm."},
                           {"model.final_layernorm.", "output_norm."},
                           {".feed_forward.router.", ".ffn_gate_inp."},
                           {".feed_forward.experts.gate_proj.", ".ffn_gate_exps."},
                           {".feed_forward.experts.up_proj.", ".ffn_up_exps."},
                           {".feed_forward.experts.down_proj.", ".ffn_down_exps."},
                           {".feed_forward.gate_proj.", ".ffn_gate."},
                           {".feed_forward.up_proj.", ".ffn_up."},
                           {".feed_forward.down_proj.", ".ffn_down."},
                           {".mamba.in_proj.", ".ssm_in."},
                           {".mamba.conv1d.", ".ssm_conv1d."},
                           {".mamba.x_proj.", ".ssm_x."},
                           {".mamba.dt_proj.", ".ssm_dt."},
                           {".mamba.dt_layernorm.", ".ssm_dt_norm."},
                           {".mamba.b_layernorm.", ".ssm_b_norm."},
                           {".mamba.c_layernorm.", ".ssm_c_norm."},
                           {".mamba.dt_bias", ".ssm_dt.bias"},
                           {".mamba.A_log", ".ssm_a"},
                           {".mamba.D", ".ssm_d"},
                           {".mamba.norm.", ".ssm_norm."},
                           {".mamba.out_proj.", ".ssm_out."}};

/// Decays and taps of Mamba layers (`JambaModel` and `Mamba2Model.modify_tensors`).
void ModifyMamba(Converter& c) {
  SqueezeTaps(c);
  ExponentiateDecays(c);
}

TEST(GgufModels, JambaHasTheBitsOfItsFolder) {
  ExpectTheBitsOfItsFolder("jamba", {{"mamba_proj_bias", false}}, kMambaNames, [](Converter& c) {
    ModifyMamba(c);
    c.tensors = StackExperts(c.tensors);
    c.set_ints(".attention.head_count_kv", {0, 0, 2, 0, 0, 0, 2});
    c.set_int(".ssm.conv_kernel", 4);
    c.set_int(".ssm.inner_size", 640);
    c.set_int(".ssm.state_size", 10);
    c.set_int(".ssm.time_step_rank", 320);
    c.set_int(".expert_count", 13);
  });
}

void Multiply(std::vector<float>& values, double factor) {
  for (float& value : values) value = static_cast<float>(value * factor);
}

/// `FalconH1Model.modify_tensors`: the multipliers go into the weights.
void ApplyMultipliers(Converter& c) {
  const Json& config = c.config;
  const auto factor = [&](const char* key) { return config[key].get<double>(); };
  for (Tensor& tensor : c.tensors) {
    const auto has = [&](const char* part) { return tensor.name.find(part) != std::string::npos; };
    if (has("down_proj")) Multiply(tensor.values, config["mlp_multipliers"][1].get<double>());
    if (has("gate_proj")) Multiply(tensor.values, config["mlp_multipliers"][0].get<double>());
    if (has("o_proj")) Multiply(tensor.values, factor("attention_out_multiplier"));
    if (has("mamba.out_proj")) Multiply(tensor.values, factor("ssm_out_multiplier"));
    if (has("lm_head")) Multiply(tensor.values, factor("lm_head_multiplier"));
    if (has("embed_tokens")) Multiply(tensor.values, factor("embedding_multiplier"));
    if (has("mamba.norm")) tensor.shape = {2, tensor.shape[0] / 2};
    if (has(".A_log") || has(".mamba.D")) tensor.shape.push_back(1);
    if (!has("mamba.in_proj")) continue;
    // Rows of gate, x, B, C and steps.
    const int64_t ends[] = {384, 768, 808, 848, 854};
    size_t part = 0;
    for (int64_t row = 0; row < tensor.shape[0]; ++row) {
      if (row == ends[part]) ++part;
      const double both = factor("ssm_in_multiplier") * config["ssm_multipliers"][part].get<double>();
      for (int64_t col = 0; col < tensor.shape[1]; ++col) {
        float& value = tensor.values[static_cast<size_t>(row * tensor.shape[1] + col)];
        value = static_cast<float>(value * both);
      }
    }
  }
}

TEST(GgufModels, FalconH1HasTheBitsOfItsFolderWithMultipliersThatAreExact) {
  // Powers of two; those of keys and values would change what is rounded to the cache's f16.
  const Json edits = {{"mlp_bias", false},
                      {"attention_in_multiplier", 1.0},
                      {"key_multiplier", 1.0},
                      {"attention_out_multiplier", 0.5},
                      {"embedding_multiplier", 2.0},
                      {"lm_head_multiplier", 0.25},
                      {"mlp_multipliers", {0.5, 2.0}},
                      {"ssm_in_multiplier", 2.0},
                      {"ssm_out_multiplier", 0.5},
                      {"ssm_multipliers", {0.5, 2.0, 0.5, 1.0, 0.25}}};
  ExpectTheBitsOfItsFolder("falcon_h1", edits, kMambaNames, [](Converter& c) {
    ModifyMamba(c);
    ApplyMultipliers(c);
    c.set_int(".ssm.conv_kernel", 4);
    c.set_int(".ssm.inner_size", 384);
    c.set_int(".ssm.state_size", 20);
    c.set_int(".ssm.time_step_rank", 6);
    c.set_int(".ssm.group_count", 2);
  });
}

/// A row of MXFP4 blocks, and what it holds.
struct Mxfp4Row {
  std::string blocks;
  std::vector<float> values;
};
Mxfp4Row RandomMxfp4Row(int64_t groups, RandomStream& random) {
  constexpr float kValues[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  Mxfp4Row row;
  for (int64_t g = 0; g < groups; ++g) {
    const auto exponent = static_cast<int>(118 + random.bits() % 4);
    row.blocks += static_cast<char>(exponent);
    uint8_t codes[32];
    for (uint8_t& code : codes) {
      code = static_cast<uint8_t>(random.bits() % 16);
      const float value = std::ldexp(kValues[code % 8], exponent - 127);
      row.values.push_back(code < 8 ? value : -value);
    }
    for (int i = 0; i < 16; ++i) row.blocks += static_cast<char>(codes[i] | codes[16 + i] << 4);
  }
  return row;
}

/// The weights of out_proj in layer 0 of a Qwen3.5 whose file has it in MXFP4, in the file's order of columns.
struct QuantizedOut {
  int64_t cols;
  std::vector<std::vector<float>> rows;
};

/// The column of the file that is `col` of the hub.
int64_t FileColumn(int64_t col, int64_t value_dim) {
  const int64_t head = col / value_dim;
  return (head % kPerKey * kKeyHeads + head / kPerKey) * value_dim + col % value_dim;
}

/// Writes a model of `value_dim` below `out`.
std::pair<std::string, QuantizedOut> WriteQuantizedOut(int64_t value_dim, const std::string& out) {
  const TempFolder folder;
  Json text = Json::parse((*FindFamily("qwen3_5"))->tiny())["text_config"];
  text["linear_value_head_dim"] = value_dim;
  Synthesize("qwen3_5", {{"text_config", text}}, folder.path());
  Converter c(folder.path(), "qwen35");
  SetQwen35(c, value_dim);
  c.set_heads(24);
  RandomStream random(11);
  QuantizedOut quantized{.cols = kKeyHeads * kPerKey * value_dim, .rows = {}};
  for (Tensor& tensor : c.tensors) {
    if (!tensor.name.ends_with("layers.0.linear_attn.out_proj.weight")) continue;
    tensor.values.clear();
    for (int64_t row = 0; row < tensor.shape[0]; ++row) {
      Mxfp4Row made = RandomMxfp4Row(quantized.cols / 32, random);
      tensor.blocks += made.blocks;
      quantized.rows.push_back(std::move(made.values));
    }
  }
  return {c.write(out, kQwenNames), std::move(quantized)};
}

TEST(GgufModels, QuantizedColumnsOfValueHeadsHaveTheHubsOrder) {
  // Groups of 32 move with a head of 64; heads of 20 cut them, so that the weight is read as floats.
  for (const int64_t value_dim : {64, 20}) {
    const TempFolder out;
    const auto [path, expected] = WriteQuantizedOut(value_dim, out.path());
    ASSERT_FALSE(expected.rows.empty());
    const auto resolved = ResolvedWeights::Open(path);
    ASSERT_TRUE(resolved.ok()) << resolved.status();
    const auto& delta = std::get<GatedDeltaNetSpec>((*resolved)->spec().layers[0].mixer);
    const WeightLoader loader(**resolved);
    const auto weight = loader.find(delta.o);
    ASSERT_TRUE(weight.ok()) << weight.status();
    EXPECT_EQ(weight->format.affine(), value_dim == 64);
    auto packed = PackedMatrix::Allocate(weight->format, weight->rows, weight->cols);
    ASSERT_TRUE(packed.ok()) << packed.status();
    ASSERT_TRUE(loader.pack_into(*weight, *packed).ok());
    std::vector<float> read(static_cast<size_t>(weight->elements()));
    ASSERT_TRUE(loader.read_rows(*weight, {0, weight->rows}, read.data()).ok());
    std::vector<float> unpacked(static_cast<size_t>(weight->cols));
    for (int64_t row = 0; row < weight->rows; ++row) {
      packed->unpack_row(row, unpacked.data());
      for (int64_t col = 0; col < weight->cols; ++col) {
        const float value =
            expected.rows[static_cast<size_t>(row)][static_cast<size_t>(FileColumn(col, value_dim))];
        ASSERT_EQ(unpacked[static_cast<size_t>(col)], value) << row << ", " << col;
        ASSERT_EQ(read[static_cast<size_t>(row * weight->cols + col)], value) << row << ", " << col;
      }
    }
  }
}

TEST(GgufModels, ValueHeadsThatDoNotFillATensorAreRefusedByName) {
  const TempFolder folder;
  Synthesize("qwen3_5", Json::object(), folder.path());
  Converter c(folder.path(), "qwen35");
  SetQwen35(c);
  c.set_heads(24);
  for (Tensor& tensor : c.tensors) {
    if (!tensor.name.ends_with("layers.1.linear_attn.in_proj_z.weight")) continue;
    tensor.shape[0] -= 1;
    tensor.values.resize(static_cast<size_t>(tensor.shape[0] * tensor.shape[1]));
  }
  const TempFolder out;
  const auto resolved = ResolvedWeights::Open(c.write(out.path(), kQwenNames));
  ASSERT_FALSE(resolved.ok());
  EXPECT_THAT(
      resolved.status().message(),
      testing::HasSubstr(
          "'blk.1.attn_gate.weight' in model.gguf: expected 320 rows or elements (16 value heads of 20"));
}

/// Expects what two models have as matrices, taps and biases to be the same numbers, and decays nearly.
void ExpectSameWeights(const ResolvedWeights& got, const ResolvedWeights& expected) {
  ASSERT_EQ(got.all().size(), expected.all().size());
  for (size_t i = 0; i < got.all().size(); ++i) {
    const auto& [use, stored, packed_bytes] = expected.all()[i];
    if (use.role == "norm") continue;  // Of another offset.
    const StoredWeight& other = got.all()[i].stored;
    std::vector<float> want(static_cast<size_t>(stored.elements()));
    std::vector<float> have(want.size());
    ASSERT_TRUE(WeightLoader(expected).read_rows(stored, {0, stored.rows}, want.data()).ok());
    ASSERT_TRUE(WeightLoader(got).read_rows(other, {0, other.rows}, have.data()).ok());
    if (stored.source->suffix != "A_log") {
      EXPECT_EQ(have, want) << stored.source->name();
      continue;
    }
    ASSERT_EQ(other.source->suffix, "A_log");
    // Two roundings to f32, of e^w and of its logarithm, and one to the bf16 that is written.
    for (size_t h = 0; h < want.size(); ++h)
      EXPECT_NEAR(have[h], want[h], std::abs(want[h]) / 256 + 1e-6) << stored.source->name();
  }
}

TEST(GgufModels, AConvertedQwen35HasTheNumbersOfTheHubsFolder) {
  const TempFolder folder;
  Synthesize("qwen3_5", Json::object(), folder.path());
  Converter c(folder.path(), "qwen35");
  SetQwen35(c);
  c.set_heads(24);
  c.file.add_string("tokenizer.ggml.model", "gpt2");
  c.file.add_string("tokenizer.ggml.pre", "qwen2");
  c.file.add_strings("tokenizer.ggml.tokens", {"a", "b", "ab"});
  c.file.add_ints("tokenizer.ggml.token_type", {1, 1, 1});
  c.file.add_strings("tokenizer.ggml.merges", {"a b"});
  const TempFolder out;
  const auto gguf = ResolvedWeights::Open(c.write(out.path(), kQwenNames));
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  const TempFolder converted;
  const auto report =
      ConvertModel(**gguf, {.out = converted.path(), .format = *ParseConvertFormat("bf16"), .threads = 1});
  ASSERT_TRUE(report.ok()) << report.status();
  const auto got = ResolvedWeights::Open(converted.path());
  ASSERT_TRUE(got.ok()) << got.status();
  const auto expected = ResolvedWeights::Open(folder.path());
  ASSERT_TRUE(expected.ok()) << expected.status();
  ExpectSameWeights(**got, **expected);
}

}  // namespace
}  // namespace shoal
