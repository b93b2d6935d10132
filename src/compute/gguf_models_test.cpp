// A GGUF and the folder that it was made from are one model: the same logits, to the bit. The files are
// written here as llama.cpp's converter writes them (names, order of rows, stacks, keys), as no reader of
// GGUF outside gives logits in our order of sums.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "base/random.h"
#include "base/status.h"
#include "compute/testing/gguf_converter.h"
#include "compute/testing/local_model.h"
#include "convert/testing/checkpoints.h"
#include "models/family.h"

namespace shoal {
namespace {

using gguf_testing::Converter;
using gguf_testing::ExpectSameBits;
using gguf_testing::ExpectTheBitsOfItsFolder;
using gguf_testing::Json;
using gguf_testing::Names;
using gguf_testing::PermuteHeads;
using gguf_testing::PermuteQueriesAndKeys;
using gguf_testing::Replace;
using gguf_testing::RowsOfStack;
using gguf_testing::SplitKvB;
using gguf_testing::StackExperts;
using gguf_testing::Synthesize;
using gguf_testing::Tensor;
using gguf_testing::Tensors;

const Names kMixtral = {{".block_sparse_moe.gate.", ".ffn_gate_inp."},
                        {".block_sparse_moe.experts.w1.", ".ffn_gate_exps."},
                        {".block_sparse_moe.experts.w3.", ".ffn_up_exps."},
                        {".block_sparse_moe.experts.w2.", ".ffn_down_exps."}};
const Names kGptOss = {{".post_attention_layernorm.", ".post_attention_norm."},
                       {".self_attn.sinks", ".attn_sinks.weight"},
                       {".mlp.router.", ".ffn_gate_inp."}};

/// Norms as llama.cpp's converter writes them for Gemma.
void AddOneToNorms(Tensors& tensors) {
  for (Tensor& tensor : tensors) {
    if (!tensor.name.ends_with("norm.weight")) continue;
    for (float& value : tensor.values) value += 1;
  }
}

const Names kOutputNorms = {{".post_attention_layernorm.", ".post_attention_norm."},
                            {".post_feedforward_layernorm.", ".post_ffw_norm."},
                            {".pre_feedforward_layernorm.", ".ffn_norm."},
                            {".self_attn.q_norm.", ".attn_q_norm."},
                            {".self_attn.k_norm.", ".attn_k_norm."}};

TEST(GgufModels, GemmasHaveTheBitsOfTheirFoldersAsNormsHoldOneMore) {
  ExpectTheBitsOfItsFolder("gemma", {{"hidden_act", "gelu_pytorch_tanh"}}, {},
                           [](Converter& c) { AddOneToNorms(c.tensors); });
  ExpectTheBitsOfItsFolder("gemma2", {{"query_pre_attn_scalar", 28}}, kOutputNorms, [](Converter& c) {
    AddOneToNorms(c.tensors);
    c.set_int(".attention.sliding_window", c.config["sliding_window"]);
    c.set_float(".attn_logit_softcapping", c.config["attn_logit_softcapping"]);
    c.set_float(".final_logit_softcapping", c.config["final_logit_softcapping"]);
  });
  ExpectTheBitsOfItsFolder("gemma3_text", {{"query_pre_attn_scalar", 28}, {"sliding_window_pattern", 6}},
                           kOutputNorms, [](Converter& c) {
                             AddOneToNorms(c.tensors);
                             c.set_int(".attention.sliding_window", c.config["sliding_window"]);
                             c.file.add_string("gemma3.rope.scaling.type", "linear");
                             c.set_float(".rope.scaling.factor", 8.0);
                           });
}

TEST(GgufModels, DenseModelsOfLate2026HaveTheBitsOfTheirFolders) {
  ExpectTheBitsOfItsFolder("smollm3", {{"no_rope_layers", nullptr}}, {}, PermuteQueriesAndKeys);
  ExpectTheBitsOfItsFolder("olmo2", Json::object(), kOutputNorms, [](Converter&) {});
  ExpectTheBitsOfItsFolder("seed_oss", Json::object(), kOutputNorms, [](Converter&) {});
  ExpectTheBitsOfItsFolder("ministral3", {{"rope_theta", 1000000.0}}, {}, [](Converter& c) {
    PermuteQueriesAndKeys(c);
    c.config["rope_scaling"] = c.config["rope_parameters"];
    c.set_yarn();
    c.set_float(".rope.scaling.yarn_log_multiplier", 1.0);
    c.set_float(".attention.temperature_scale", 0.1);
  });
  ExpectTheBitsOfItsFolder(
      "glm4", Json::object(),
      {{".post_self_attn_layernorm.", ".post_attention_norm."}, {".post_mlp_layernorm.", ".post_ffw_norm."}},
      [](Converter& c) { c.set_int(".rope.dimension_count", 14); });
}

void SetGraniteFactors(Converter& converter) {
  PermuteQueriesAndKeys(converter);
  converter.set_float(".attention.scale", converter.config["attention_multiplier"]);
  converter.set_float(".embedding_scale", converter.config["embedding_multiplier"]);
  converter.set_float(".residual_scale", converter.config["residual_multiplier"]);
  converter.set_float(".logit_scale", converter.config["logits_scaling"]);
}

/// Gate and up of each layer's experts, which the hub has in one stack.
void SplitInputLinear(Converter& converter) {
  Tensors split;
  for (Tensor& tensor : converter.tensors) {
    if (!tensor.name.ends_with("input_linear.weight")) {
      split.push_back(std::move(tensor));
      continue;
    }
    for (const int64_t begin : {0, 320}) {
      std::string name = tensor.name;
      Replace(name, "input_linear", begin == 0 ? "gate" : "up");
      split.push_back(RowsOfStack(tensor, name, begin, begin + 320));
    }
  }
  converter.tensors = std::move(split);
}

TEST(GgufModels, GraniteHasTheBitsOfItsFolderWithExpertsAndWithout) {
  // Factors that f32 holds, as a file has them.
  const Json factors = {{"attention_multiplier", 0.125}, {"residual_multiplier", 0.25}};
  ExpectTheBitsOfItsFolder("granite", factors, {}, SetGraniteFactors);
  const Names own = {{".block_sparse_moe.router.layer.", ".ffn_gate_inp."},
                     {".block_sparse_moe.gate.", ".ffn_gate_exps."},
                     {".block_sparse_moe.up.", ".ffn_up_exps."},
                     {".block_sparse_moe.output_linear.", ".ffn_down_exps."}};
  ExpectTheBitsOfItsFolder("granitemoe", factors, own, [](Converter& converter) {
    SetGraniteFactors(converter);
    converter.set_int(".expert_count", 13);
    SplitInputLinear(converter);
  });
}

TEST(GgufModels, ModelsWithOtherNormsAndFeedForwardsHaveTheBitsOfTheirFolders) {
  ExpectTheBitsOfItsFolder("ernie4_5", Json::object(), {}, [](Converter&) {});
  const Names hunyuan = {{".self_attn.query_layernorm.", ".attn_q_norm."},
                         {".self_attn.key_layernorm.", ".attn_k_norm."}};
  ExpectTheBitsOfItsFolder("hunyuan_v1_dense", {{"rope_scaling", nullptr}}, hunyuan, [](Converter&) {});
  const Names starcoder2 = {{".mlp.c_fc.", ".ffn_up."}, {".mlp.c_proj.", ".ffn_down."}};
  ExpectTheBitsOfItsFolder("starcoder2", {{"sliding_window", nullptr}}, starcoder2, [](Converter& c) {
    c.set_float(".attention.layer_norm_epsilon", c.config["norm_epsilon"]);
  });
  ExpectTheBitsOfItsFolder("cohere2", {{"sliding_window_pattern", 4}}, {}, [](Converter& c) {
    c.set_float(".attention.layer_norm_epsilon", c.config["layer_norm_eps"]);
    c.set_int(".attention.sliding_window", c.config["sliding_window"]);
    c.set_float(".logit_scale", c.config["logit_scale"]);
  });
}

TEST(GgufModels, HunyuanAndDotsWithExpertsHaveTheBitsOfTheirFolders) {
  const Names hunyuan = {{".self_attn.query_layernorm.", ".attn_q_norm."},
                         {".self_attn.key_layernorm.", ".attn_k_norm."},
                         {".mlp.gate.wg.", ".ffn_gate_inp."},
                         {".mlp.shared_mlp.gate_proj.", ".ffn_gate_shexp."},
                         {".mlp.shared_mlp.up_proj.", ".ffn_up_shexp."},
                         {".mlp.shared_mlp.down_proj.", ".ffn_down_shexp."}};
  ExpectTheBitsOfItsFolder("hunyuan_v1_moe", {{"rope_scaling", nullptr}}, hunyuan, [](Converter& c) {
    c.tensors = StackExperts(c.tensors);
    c.set_int(".expert_count", 13);
    c.set_int(".expert_used_count", 3);
    c.set_int(".expert_feed_forward_length", 320);
  });
  const Names dots = {{".self_attn.q_norm.", ".attn_q_norm."}, {".self_attn.k_norm.", ".attn_k_norm."}};
  ExpectTheBitsOfItsFolder("dots1", Json::object(), dots, [](Converter& c) {
    c.tensors = StackExperts(c.tensors);
    c.set_int(".expert_count", 13);
    c.set_int(".expert_feed_forward_length", 320);
    c.set_int(".leading_dense_block_count", 1);
    c.set_int(".expert_shared_count", 2);
    c.set_float(".expert_weights_scale", 2.5);
    c.file.add_bool("dots1.expert_weights_norm", true);
  });
}

TEST(GgufModels, Qwen2HasTheBitsOfItsFolder) {
  const TempFolder folder;
  Synthesize("qwen2", {{"use_sliding_window", false}}, folder.path());
  Converter converter(folder.path(), "qwen2");
  converter.set_heads(20);
  const TempFolder out;
  ExpectSameBits(converter.write(out.path()), folder.path());
}

TEST(GgufModels, Phi3WithFusedProjectionsAndLongropeHasTheBitsOfItsFolder) {
  const TempFolder folder;
  Synthesize("phi3", Json::object(), folder.path());
  Converter converter(folder.path(), "phi3");
  converter.set_heads(20);
  converter.set_int(".rope.dimension_count", 16);
  converter.set_int(".attention.sliding_window", converter.config["sliding_window"]);
  converter.set_int(".rope.scaling.original_context_length",
                    converter.config["original_max_position_embeddings"]);
  for (const std::string length : {"long", "short"}) {
    converter.tensors.push_back({.name = "rope_factors_" + length + ".weight",
                                 .shape = {8},
                                 .values = converter.config["rope_scaling"][length + "_factor"],
                                 .blocks = {}});
  }
  const TempFolder out;
  ExpectSameBits(converter.write(out.path()), folder.path());
}

TEST(GgufModels, MixtralHasTheBitsOfItsFolderWithExpertsStackedAndOneByOne) {
  const TempFolder folder;
  Synthesize("mixtral", Json::object(), folder.path());
  for (const bool stacked : {true, false}) {
    Converter converter(folder.path(), "llama");
    converter.set_heads(20);
    converter.set_int(".expert_count", 13);
    PermuteQueriesAndKeys(converter);
    if (stacked) {
      converter.tensors = StackExperts(converter.tensors);
    } else {
      for (Tensor& tensor : converter.tensors) {
        const size_t at = tensor.name.find(".block_sparse_moe.experts.");
        if (at == std::string::npos) continue;
        const std::string expert = tensor.name.substr(at + 26, tensor.name.find(".w") - at - 26);
        const char which = tensor.name[tensor.name.find(".w") + 2];
        tensor.name.resize(at);
        tensor.name += fmt::format(".ffn_{}.{}.weight",
                                   which == '1'   ? "gate"
                                   : which == '2' ? "down"
                                                  : "up",
                                   expert);
      }
    }
    const TempFolder out;
    ExpectSameBits(converter.write(out.path(), kMixtral), folder.path());
  }
}

TEST(GgufModels, Qwen2MoeWithItsSharedExpertHasTheBitsOfItsFolder) {
  const TempFolder folder;
  Synthesize("qwen2_moe", {{"decoder_sparse_step", 1}}, folder.path());
  Converter converter(folder.path(), "qwen2moe");
  converter.set_heads(20);
  converter.set_int(".expert_count", 13);
  converter.set_int(".expert_feed_forward_length", 320);
  converter.set_int(".expert_shared_feed_forward_length", 448);
  converter.tensors = StackExperts(converter.tensors);
  for (Tensor& tensor : converter.tensors) {
    if (tensor.name.ends_with("shared_expert_gate.weight")) tensor.shape = {320};
  }
  const TempFolder out;
  ExpectSameBits(converter.write(out.path()), folder.path());
}

void SetDeepseekKeys(Converter& converter, bool apart) {
  const Json& config = converter.config;
  converter.set_int(".attention.kv_lora_rank", config["kv_lora_rank"]);
  if (!config["q_lora_rank"].is_null()) converter.set_int(".attention.q_lora_rank", config["q_lora_rank"]);
  converter.set_int(".attention.head_count_kv", apart ? 1 : 16);
  converter.set_int(".attention.key_length", apart ? 320 + 20 : 84);
  converter.set_int(".attention.value_length", apart ? 320 : 20);
  if (apart) {
    converter.set_int(".attention.key_length_mla", 84);
    converter.set_int(".attention.value_length_mla", 20);
  }
  converter.set_int(".rope.dimension_count", 20);
  converter.set_yarn();
  converter.set_float(".rope.scaling.yarn_log_multiplier",
                      0.1 * config["rope_scaling"]["mscale_all_dim"].get<double>());
  converter.set_int(".leading_dense_block_count", config["first_k_dense_replace"]);
  converter.set_int(".expert_count", config["n_routed_experts"]);
  converter.set_int(".expert_shared_count", config["n_shared_experts"]);
  converter.set_int(".expert_feed_forward_length", config["moe_intermediate_size"]);
  converter.set_float(".expert_weights_scale", config["routed_scaling_factor"]);
}

Json DeepseekRope(double mscale) {
  return {{"type", "yarn"},          {"factor", 4},    {"original_max_position_embeddings", 64},
          {"beta_fast", 32},         {"beta_slow", 1}, {"mscale", mscale},
          {"mscale_all_dim", mscale}};
}

TEST(GgufModels, DeepseekV2HasTheBitsOfItsFolderWithKeysAndValuesTogetherAndApart) {
  const TempFolder folder;
  Synthesize("deepseek_v2", {{"rope_scaling", DeepseekRope(0.707)}}, folder.path());
  for (const bool apart : {false, true}) {
    Converter converter(folder.path(), "deepseek2");
    SetDeepseekKeys(converter, apart);
    converter.tensors = StackExperts(converter.tensors);
    if (apart) SplitKvB(converter);
    const TempFolder out;
    ExpectSameBits(converter.write(out.path()), folder.path());
  }
}

TEST(GgufModels, DeepseekV3WithGroupsAndALayerThatPredictsFurtherHasTheBitsOfItsFolder) {
  const TempFolder folder;
  Synthesize(
      "deepseek_v3",
      {{"rope_scaling", DeepseekRope(1.0)}, {"n_routed_experts", 12}, {"n_group", 4}, {"topk_group", 2}},
      folder.path());
  Converter converter(folder.path(), "deepseek2", 1);
  SetDeepseekKeys(converter, true);
  converter.set_int(".expert_gating_func", 2);
  converter.file.add_bool("deepseek2.expert_weights_norm", true);
  converter.set_int(".expert_group_count", 4);
  converter.set_int(".expert_group_used_count", 2);
  converter.tensors = StackExperts(converter.tensors);
  SplitKvB(converter);
  converter.tensors.push_back(
      {.name = "model.layers.7.nextn.eh_proj.weight", .shape = {1, 4}, .values = {1, 2, 3, 4}, .blocks = {}});
  const TempFolder out;
  ExpectSameBits(converter.write(out.path()), folder.path());
}

/// Random MXFP4 codes and scales [rows, K / 32]: as the hub has them, and as a GGUF (its nibbles in another
/// order).
struct Mxfp4 {
  std::string blocks, scales;
  std::string gguf;
};
Mxfp4 RandomMxfp4(int64_t groups, RandomStream& random) {
  Mxfp4 result;
  for (int64_t g = 0; g < groups; ++g) {
    uint8_t codes[32];
    for (uint8_t& code : codes) code = static_cast<uint8_t>(random.bits() % 16);
    const auto scale = static_cast<char>(118 + random.bits() % 4);
    result.scales += scale;
    result.gguf += scale;
    for (int i = 0; i < 16; ++i) {
      result.blocks += static_cast<char>(codes[2 * i] | codes[2 * i + 1] << 4);
      result.gguf += static_cast<char>(codes[i] | codes[16 + i] << 4);
    }
  }
  return result;
}

EditableTensor Bytes(std::string name, std::vector<int64_t> shape, const std::string& bytes) {
  const auto* data = reinterpret_cast<const std::byte*>(bytes.data());
  return {std::move(name), DType::kU8, std::move(shape), {data, data + bytes.size()}};
}

TEST(GgufModels, GptOssInMxfp4HasTheBitsOfTheHubsFolder) {
  const TempFolder plain;
  Synthesize("gpt_oss", {{"swiglu_limit", 7.0}, {"num_hidden_layers", 3}}, plain.path());
  Converter converter(plain.path(), "gpt-oss");
  converter.set_heads(28);
  converter.set_yarn();
  converter.set_int(".attention.sliding_window", converter.config["sliding_window"]);
  converter.set_int(".expert_count", 13);
  converter.set_int(".expert_feed_forward_length", 320);
  const TempFolder hub;
  // 13 experts of 320 by 320: gate and up take turns in the hub's rows, and stand apart in the GGUF.
  CopyCheckpoint(plain.path(), hub.path(), [&](std::vector<EditableTensor>& tensors) {
    std::erase_if(tensors, [](const EditableTensor& tensor) {
      return tensor.shape.size() == 3 && tensor.name.find(".mlp.experts.") != std::string::npos;
    });
    RandomStream random(5);
    for (int layer = 0; layer < 3; ++layer) {
      const std::string base = fmt::format("model.layers.{}.mlp.experts.", layer);
      const auto set = [&](const char* name, const std::string& blocks) {
        for (Tensor& tensor : converter.tensors) {
          if (tensor.name != base + name) continue;
          tensor.values.clear();
          tensor.blocks = blocks;
        }
      };
      Mxfp4 both;
      std::string gate;
      std::string up;
      for (int64_t row = 0; row < 13 * 640; ++row) {
        const Mxfp4 one = RandomMxfp4(10, random);
        both.blocks += one.blocks;
        both.scales += one.scales;
        (row % 2 == 0 ? gate : up) += one.gguf;
      }
      const Mxfp4 down = RandomMxfp4(13 * 320 * 10, random);
      tensors.push_back(Bytes(base + "gate_up_proj_blocks", {13, 640, 10, 16}, both.blocks));
      tensors.push_back(Bytes(base + "gate_up_proj_scales", {13, 640, 10}, both.scales));
      tensors.push_back(Bytes(base + "down_proj_blocks", {13, 320, 10, 16}, down.blocks));
      tensors.push_back(Bytes(base + "down_proj_scales", {13, 320, 10}, down.scales));
      set("gate_proj.weight", gate);
      set("up_proj.weight", up);
      set("down_proj.weight", down.gguf);
    }
  });
  const TempFolder out;
  ExpectSameBits(converter.write(out.path(), kGptOss), hub.path());
}

}  // namespace
}  // namespace shoal
