// As gguf_models_test.cpp, of the architectures of late 2026.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numbers>
#include <string>
#include <vector>

#include "compute/testing/gguf_converter.h"
#include "models/family.h"

namespace shoal {
namespace {

using gguf_testing::Converter;
using gguf_testing::ExpectTheBitsOfItsFolder;
using gguf_testing::ExponentiateDecays;
using gguf_testing::Json;
using gguf_testing::Names;
using gguf_testing::PermuteQueriesAndKeys;
using gguf_testing::Replace;
using gguf_testing::RowsOfHeads;
using gguf_testing::RowsOfStack;
using gguf_testing::SplitKvB;
using gguf_testing::SqueezeTaps;
using gguf_testing::StackExperts;
using gguf_testing::Tensor;
using gguf_testing::Tensors;
using gguf_testing::Transposed;

/// Every n-th layer sees everything.
std::vector<bool> AllButEvery(int every) {
  std::vector<bool> windowed;
  for (int i = 1; i <= 7; ++i) windowed.push_back(i % every != 0);
  return windowed;
}

void SetWindows(Converter& c, int every) {
  c.set_int(".attention.sliding_window", c.config["sliding_window"]);
  c.set_bools(".attention.sliding_window_pattern", AllButEvery(every));
}

void SetExperts(Converter& c, int64_t dense, int64_t shared, float scale, bool normalized) {
  c.tensors = StackExperts(c.tensors);
  c.set_int(".expert_count", 13);
  c.set_int(".expert_feed_forward_length", 320);
  c.set_int(".leading_dense_block_count", dense);
  c.set_int(".expert_shared_count", shared);
  c.set_float(".expert_weights_scale", scale);
  c.set_bool(".expert_weights_norm", normalized);
}

const Names kHeadNorms = {{".self_attn.q_norm.", ".attn_q_norm."}, {".self_attn.k_norm.", ".attn_k_norm."}};
const Names kNormsOfOutputs = {{".post_attention_layernorm.", ".post_attention_norm."},
                               {".post_feedforward_layernorm.", ".post_ffw_norm."},
                               {".self_attn.q_norm.", ".attn_q_norm."},
                               {".self_attn.k_norm.", ".attn_k_norm."}};

TEST(GgufModels, OlderModelsWithExpertsHaveTheBitsOfTheirFolders) {
  ExpectTheBitsOfItsFolder("deepseek", Json::object(), {}, [](Converter& c) {
    PermuteQueriesAndKeys(c);
    SetExperts(c, 1, 2, 1.0f, false);
  });
  ExpectTheBitsOfItsFolder("olmoe", Json::object(), kHeadNorms, [](Converter& c) {
    c.tensors = StackExperts(c.tensors);
    c.set_int(".expert_count", 13);
  });
  const Names minimax = {{".block_sparse_moe.gate.", ".ffn_gate_inp."},
                         {".block_sparse_moe.e_score_correction_bias", ".exp_probs_b.bias"},
                         {".block_sparse_moe.experts.w1.", ".ffn_gate_exps."},
                         {".block_sparse_moe.experts.w3.", ".ffn_up_exps."},
                         {".block_sparse_moe.experts.w2.", ".ffn_down_exps."},
                         {".self_attn.q_norm.", ".attn_q_norm."},
                         {".self_attn.k_norm.", ".attn_k_norm."}};
  ExpectTheBitsOfItsFolder("minimax_m2", Json::object(), minimax, [](Converter& c) {
    SetExperts(c, 0, 0, 1.0f, true);
    c.set_int(".expert_gating_func", 2);
    c.set_int(".rope.dimension_count", 12);
  });
}

TEST(GgufModels, Glm4MoeAndSolarOpenHaveTheBitsOfTheirFolders) {
  const Names names = {{".post_attention_layernorm.", ".post_attention_norm."},
                       {".self_attn.q_norm.", ".attn_q_norm."},
                       {".self_attn.k_norm.", ".attn_k_norm."}};
  ExpectTheBitsOfItsFolder("glm4_moe", Json::object(), names, [](Converter& c) {
    SetExperts(c, 2, 1, 2.5f, true);
    c.set_int(".expert_gating_func", 2);
    c.set_int(".rope.dimension_count", 10);
  });
  const Json yarn = {{"type", "yarn"},
                     {"factor", 2.0},
                     {"original_max_position_embeddings", 64},
                     {"beta_fast", 32.0},
                     {"beta_slow", 1.0}};
  ExpectTheBitsOfItsFolder("solar_open", {{"rope_scaling", yarn}}, names, [](Converter& c) {
    SetExperts(c, 0, 1, 1.5f, true);
    c.set_yarn();
  });
}

TEST(GgufModels, ErnieAndExaoneHaveTheBitsOfTheirFolders) {
  const Names ernie = {{".mlp.moe_statics.e_score_correction_bias", ".exp_probs_b.bias"}};
  ExpectTheBitsOfItsFolder("ernie4_5_moe", {{"moe_layer_end_index", nullptr}}, ernie, [](Converter& c) {
    SetExperts(c, 1, 2, 1.0f, true);
    c.set_int(".interleave_moe_layer_step", 1);
    c.set_int(".expert_used_count", 3);
    for (Tensor& tensor : c.tensors) {
      if (tensor.name.ends_with("e_score_correction_bias")) tensor.shape = {13};
    }
  });
  ExpectTheBitsOfItsFolder("exaone4", {{"rope_scaling", nullptr}}, kNormsOfOutputs, [](Converter& c) {
    c.set_int(".attention.sliding_window", c.config["sliding_window"]);
    c.set_bools(".attention.sliding_window_pattern", {true, true, true, false, true, true, false});
  });
  const Names moe = {{".mlp.e_score_correction_bias", ".exp_probs_b.bias"},
                     {".self_attn.q_norm.", ".attn_q_norm."},
                     {".self_attn.k_norm.", ".attn_k_norm."}};
  ExpectTheBitsOfItsFolder("exaone_moe", Json::object(), moe, [](Converter& c) {
    SetExperts(c, 1, 1, 2.5f, true);
    c.set_int(".expert_gating_func", 2);
    c.set_int(".attention.sliding_window", c.config["sliding_window"]);
    c.set_bools(".attention.sliding_window_pattern", {true, true, true, false, true, true, false});
  });
}

TEST(GgufModels, AfmoeHasTheBitsOfItsFolder) {
  const Names names = {{".post_attention_layernorm.", ".post_attention_norm."},
                       {".pre_mlp_layernorm.", ".ffn_norm."},
                       {".post_mlp_layernorm.", ".post_ffw_norm."},
                       {".self_attn.gate_proj.", ".attn_gate."},
                       {".mlp.router.gate.", ".ffn_gate_inp."},
                       {".mlp.expert_bias", ".exp_probs_b.bias"},
                       {".self_attn.q_norm.", ".attn_q_norm."},
                       {".self_attn.k_norm.", ".attn_k_norm."}};
  ExpectTheBitsOfItsFolder("afmoe", Json::object(), names, [](Converter& c) {
    SetExperts(c, 1, 1, 2.826f, true);
    SetWindows(c, 3);
  });
}

/// The norms of heads as one tensor.
void StackHeadNorms(Converter& c) {
  Tensors result;
  std::map<std::string, Tensor> stacks;
  for (Tensor& tensor : c.tensors) {
    const size_t at = tensor.name.find("_layernorm.norms.");
    if (at == std::string::npos) {
      result.push_back(std::move(tensor));
      continue;
    }
    Tensor& stack = stacks[tensor.name.substr(0, at)];
    const size_t digits = at + 17;
    const auto head = static_cast<size_t>(std::stoll(tensor.name.substr(digits)));
    if (stack.values.size() < 20 * (head + 1)) stack.values.resize(20 * (head + 1));
    std::ranges::copy(tensor.values, stack.values.begin() + static_cast<int64_t>(20 * head));
  }
  for (auto& [name, stack] : stacks) {
    stack.name = name + "_layernorm.weight";
    stack.shape = {std::ssize(stack.values) / 20, 20};
    result.push_back(std::move(stack));
  }
  c.tensors = std::move(result);
}

TEST(GgufModels, StableLmHasTheBitsOfItsFolderWithNormsOfHeads) {
  const Names names = {{".self_attn.q_layernorm.", ".attn_q_norm."},
                       {".self_attn.k_layernorm.", ".attn_k_norm."}};
  ExpectTheBitsOfItsFolder("stablelm", Json::object(), names, [](Converter& c) {
    StackHeadNorms(c);
    c.set_int(".rope.dimension_count", 6);
    c.set_float(".attention.layer_norm_epsilon", 1e-5);
  });
  ExpectTheBitsOfItsFolder(
      "stablelm", {{"use_parallel_residual", false}, {"qk_layernorm", false}, {"partial_rotary_factor", 1.0}},
      {}, [](Converter& c) { c.set_float(".attention.layer_norm_epsilon", 1e-5); });
}

TEST(GgufModels, ApertusHasTheBitsOfItsFolderWithTheNumbersOfItsMetadata) {
  const Names names = {{".attention_layernorm.", ".attn_norm."},
                       {".feedforward_layernorm.", ".ffn_norm."},
                       {".self_attn.q_norm.", ".attn_q_norm."},
                       {".self_attn.k_norm.", ".attn_k_norm."}};
  ExpectTheBitsOfItsFolder("apertus", {{"rope_scaling", nullptr}}, names, [](Converter& c) {
    for (const std::string name : {"alpha_p", "alpha_n", "beta", "eps"}) {
      std::vector<float> values(7);
      std::erase_if(c.tensors, [&](const Tensor& tensor) {
        if (!tensor.name.ends_with("act_fn." + name)) return false;
        values[static_cast<size_t>(tensor.name[13] - '0')] = tensor.values[0];  // "model.layers.<i>."
        return true;
      });
      c.file.add_floats("xielu." + name, values);
    }
  });
}

TEST(GgufModels, PhimoeHasTheBitsOfItsFolderWithOneMagnitude) {
  const Names names = {{".block_sparse_moe.gate.", ".ffn_gate_inp."},
                       {".block_sparse_moe.experts.w1.", ".ffn_gate_exps."},
                       {".block_sparse_moe.experts.w3.", ".ffn_up_exps."},
                       {".block_sparse_moe.experts.w2.", ".ffn_down_exps."}};
  const Json rope = {{"type", "longrope"},
                     {"short_mscale", 1.25},
                     {"long_mscale", 1.25},
                     {"original_max_position_embeddings", 73},
                     {"short_factor", {1.0, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0}},
                     {"long_factor", {1.0, 2.5, 2.75, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0}}};
  ExpectTheBitsOfItsFolder("phimoe", {{"router_jitter_noise", 0.01}, {"rope_scaling", rope}}, names,
                           [](Converter& c) {
                             SetExperts(c, 0, 0, 1.0f, false);
                             c.set_int(".attention.sliding_window", 512);
                             c.set_int(".rope.scaling.original_context_length", 73);
                             c.set_float(".rope.scaling.attn_factor", 1.25);
                             for (const std::string length : {"long", "short"}) {
                               c.tensors.push_back({.name = "rope_factors_" + length + ".weight",
                                                    .shape = {10},
                                                    .values = c.config["rope_scaling"][length + "_factor"],
                                                    .blocks = {}});
                             }
                           });
}

TEST(GgufModels, Olmo3HasTheBitsOfItsFolder) {
  ExpectTheBitsOfItsFolder("olmo3", Json::object(), kNormsOfOutputs, [](Converter& c) {
    SetWindows(c, 4);
    c.set_yarn();
    c.set_float(".rope.scaling.yarn_attn_factor", 1.2);
  });
}

TEST(GgufModels, Mistral4HasTheBitsOfItsFolderWithFusedExperts) {
  const Names names = {{".mlp.experts.gate_up_proj", ".ffn_gate_up_exps.weight"},
                       {".mlp.experts.down_proj", ".ffn_down_exps.weight"}};
  ExpectTheBitsOfItsFolder("mistral4", Json::object(), names, [](Converter& c) {
    c.config["rope_scaling"] = c.config["rope_parameters"];
    SplitKvB(c);
    SetExperts(c, 1, 1, 1.5f, true);
    c.set_int(".attention.kv_lora_rank", 320);
    c.set_int(".attention.q_lora_rank", 320);
    c.set_int(".attention.head_count_kv", 1);
    c.set_int(".attention.key_length", 340);
    c.set_int(".attention.value_length", 320);
    c.set_int(".attention.key_length_mla", 84);
    c.set_int(".attention.value_length_mla", 20);
    c.set_int(".rope.dimension_count", 20);
    c.set_yarn();
    c.set_float(".rope.scaling.yarn_log_multiplier", 0.1);
    c.set_float(".attention.temperature_scale", 0.1);
  });
}

TEST(GgufModels, MimoHasTheBitsOfItsFolder) {
  const Names names = {{".self_attn.attention_sink_bias", ".attn_sinks.weight"}};
  ExpectTheBitsOfItsFolder("mimo_v2_flash", Json::object(), names, [](Converter& c) {
    SetExperts(c, 0, 0, 1.0f, true);
    c.set_float(".attention.layer_norm_rms_epsilon", 1e-5);
    c.set_int(".attention.sliding_window", 32);
    c.set_ints(".attention.sliding_window_pattern", {0, 1, 1, 0, 1, 1, 0});
    c.set_ints(".attention.head_count_kv", {1, 2, 2, 1, 2, 2, 1});
    c.set_int(".attention.key_length", 28);
    c.set_int(".attention.value_length", 20);
    c.set_int(".rope.dimension_count", 12);
    c.set_float(".rope.freq_base_swa", 10000);
    c.set_float(".attention.value_scale", 0.707);
  });
}

/// Step 3.5's factors of `pairs` pairs, and as many ones behind them.
std::vector<float> StepFactors(int pairs, double factor) {
  std::vector<float> factors;
  for (int i = 0; i < pairs; ++i) {
    const double wavelength = 2 * std::numbers::pi * std::pow(5e6, static_cast<double>(i) / pairs);
    const double smooth = (131072 / wavelength - 1) / 31;
    const double between = 1 / ((1 - smooth) / factor + smooth);
    factors.push_back(static_cast<float>(wavelength < 131072.0 / 32 ? 1
                                         : wavelength > 131072      ? factor
                                                                    : between));
  }
  factors.resize(factors.size() * 2, 1.0f);
  return factors;
}

TEST(GgufModels, Step35HasTheBitsOfItsFolderAsNormsHoldOneMore) {
  const Names names = {{".self_attn.g_proj.", ".attn_gate."},
                       {".moe.gate.", ".ffn_gate_inp."},
                       {".moe.router_bias", ".exp_probs_b.bias"},
                       {".moe.gate_proj.", ".ffn_gate_exps."},
                       {".moe.up_proj.", ".ffn_up_exps."},
                       {".moe.down_proj.", ".ffn_down_exps."},
                       {".share_expert.gate_proj.", ".ffn_gate_shexp."},
                       {".share_expert.up_proj.", ".ffn_up_shexp."},
                       {".share_expert.down_proj.", ".ffn_down_shexp."},
                       {".self_attn.q_norm.", ".attn_q_norm."},
                       {".self_attn.k_norm.", ".attn_k_norm."}};
  const Json rope = {{"rope_type", "llama3"},
                     {"factor", 2.0},
                     {"original_max_position_embeddings", 131072},
                     {"low_freq_factor", 1.0},
                     {"high_freq_factor", 32.0}};
  ExpectTheBitsOfItsFolder("step3p5", {{"rope_scaling", rope}}, names, [](Converter& c) {
    for (Tensor& tensor : c.tensors) {
      if (!tensor.name.ends_with("norm.weight")) continue;
      for (float& value : tensor.values) value += 1;
    }
    std::vector<int32_t> heads;
    std::vector<bool> pattern;
    for (int i = 0; i < 7; ++i) {
      pattern.push_back(i % 3 != 0);
      heads.push_back(pattern.back() ? 32 : 16);
    }
    c.set_ints(".attention.head_count", heads);
    c.set_ints(".attention.head_count_kv", std::vector<int32_t>(7, 2));
    c.set_int(".attention.sliding_window", 33);
    c.set_bools(".attention.sliding_window_pattern", pattern);
    c.set_float(".rope.freq_base", 5e6);
    c.set_float(".rope.freq_base_swa", 10000);
    c.set_int(".expert_used_count", 3);
    c.set_int(".expert_shared_feed_forward_length", 320);
    SetExperts(c, 2, 1, 3.0f, true);
    c.set_floats(".swiglu_clamp_exp", c.config["swiglu_limits"]);
    c.set_floats(".swiglu_clamp_shexp", c.config["swiglu_limits_shared"]);
    c.tensors.push_back(
        {.name = "rope_freqs.weight", .shape = {10}, .values = StepFactors(5, 2.0), .blocks = {}});
  });
}

TEST(GgufModels, Llama4HasTheBitsOfItsFolder) {
  const Names names = {{".feed_forward.gate_proj.", ".ffn_gate."},
                       {".feed_forward.up_proj.", ".ffn_up."},
                       {".feed_forward.down_proj.", ".ffn_down."},
                       {".feed_forward.router.", ".ffn_gate_inp."},
                       {".feed_forward.shared_expert.gate_proj.", ".ffn_gate_shexp."},
                       {".feed_forward.shared_expert.up_proj.", ".ffn_up_shexp."},
                       {".feed_forward.shared_expert.down_proj.", ".ffn_down_shexp."}};
  Json text = Json::parse((*FindFamily("llama4"))->tiny())["text_config"];
  text["no_rope_layers"] = {1, 1, 1, 0, 1, 1, 1};
  text["attention_chunk_size"] = text["floor_scale"] = 8192;
  text["rope_scaling"] = nullptr;
  ExpectTheBitsOfItsFolder("llama4", {{"text_config", text}}, names, [](Converter& c) {
    c.set_int(".feed_forward_length", 384);
    c.set_int(".expert_feed_forward_length", 320);
    c.set_int(".expert_count", 13);
    c.set_int(".interleave_moe_layer_step", 2);
    Tensors split;
    for (Tensor& tensor : c.tensors) {
      std::string base = tensor.name;
      if (Replace(base, ".feed_forward.experts.gate_up_proj", ".ffn_")) {
        const Tensor rows = Transposed(tensor);
        split.push_back(RowsOfStack(rows, base + "gate_exps.weight", 0, 320));
        split.push_back(RowsOfStack(rows, base + "up_exps.weight", 320, 640));
      } else if (Replace(base, ".feed_forward.experts.down_proj", ".ffn_")) {
        split.push_back(Transposed(tensor));
        split.back().name = base + "down_exps.weight";
      } else {
        split.push_back(std::move(tensor));
      }
    }
    c.tensors = std::move(split);
  });
}

const Names kLfm2 = {{".operator_norm.", ".attn_norm."},
                     {".self_attn.out_proj.", ".attn_output."},
                     {".self_attn.q_layernorm.", ".attn_q_norm."},
                     {".self_attn.k_layernorm.", ".attn_k_norm."},
                     {".conv.conv.", ".shortconv.conv."},
                     {".conv.in_proj.", ".shortconv.in_proj."},
                     {".conv.out_proj.", ".shortconv.out_proj."},
                     {".feed_forward.w1.", ".ffn_gate."},
                     {".feed_forward.w3.", ".ffn_up."},
                     {".feed_forward.w2.", ".ffn_down."},
                     {".feed_forward.gate.", ".ffn_gate_inp."},
                     {".feed_forward.expert_bias", ".exp_probs_b.bias"},
                     {".feed_forward.experts.w1.", ".ffn_gate_exps."},
                     {".feed_forward.experts.w3.", ".ffn_up_exps."},
                     {".feed_forward.experts.w2.", ".ffn_down_exps."}};

TEST(GgufModels, Lfm2HasTheBitsOfItsFolderWithExpertsAndWithout) {
  const auto set = [](Converter& c) {
    SqueezeTaps(c);
    c.set_float(".attention.layer_norm_rms_epsilon", 1e-5);
    c.set_int(".shortconv.l_cache", 3);
    c.set_ints(".attention.head_count_kv", {0, 0, 1, 0, 1, 0, 0});
  };
  ExpectTheBitsOfItsFolder("lfm2", {{"block_auto_adjust_ff_dim", false}}, kLfm2, set);
  ExpectTheBitsOfItsFolder("lfm2_moe", {{"routed_scaling_factor", 1.0}}, kLfm2, [&](Converter& c) {
    set(c);
    SetExperts(c, 2, 0, 1.0f, true);
    c.set_int(".expert_gating_func", 2);
  });
}

/// Mamba-2 layers as the converter writes them: -e^A_log, vectors as columns, norms by groups.
void SetMamba(Converter& c, int64_t heads, int64_t groups) {
  SqueezeTaps(c);
  ExponentiateDecays(c);
  for (Tensor& tensor : c.tensors) {
    if (tensor.name.ends_with(".A_log") || tensor.name.ends_with(".D")) tensor.shape.push_back(1);
    if (tensor.name.ends_with(".mixer.norm.weight") || tensor.name.ends_with(".mamba.norm.weight")) {
      tensor.shape = {groups, tensor.shape[0] / groups};
    }
  }
  c.set_int(".ssm.conv_kernel", 4);
  c.set_int(".ssm.inner_size", heads * 64);
  c.set_int(".ssm.state_size", 20);
  c.set_int(".ssm.time_step_rank", heads);
  c.set_int(".ssm.group_count", groups);
}

const Names kBackbone = {{".mixer.in_proj.", ".ssm_in."},
                         {".mixer.conv1d.", ".ssm_conv1d."},
                         {".mixer.dt_bias", ".ssm_dt.bias"},
                         {".mixer.A_log", ".ssm_a"},
                         {".mixer.D", ".ssm_d"},
                         {".mixer.norm.", ".ssm_norm."},
                         {".mixer.out_proj.", ".ssm_out."},
                         {".mixer.q_proj.", ".attn_q."},
                         {".mixer.k_proj.", ".attn_k."},
                         {".mixer.v_proj.", ".attn_v."},
                         {".mixer.o_proj.", ".attn_output."},
                         {".mixer.shared_experts.up_proj.", ".ffn_up_shexp."},
                         {".mixer.shared_experts.down_proj.", ".ffn_down_shexp."},
                         {".mixer.experts.up_proj.", ".ffn_up_exps."},
                         {".mixer.experts.down_proj.", ".ffn_down_exps."},
                         {".mixer.gate.e_score_correction_bias", ".exp_probs_b.bias"},
                         {".mixer.gate.", ".ffn_gate_inp."},
                         {".mixer.up_proj.", ".ffn_up."},
                         {".mixer.down_proj.", ".ffn_down."},
                         {".norm.", ".attn_norm."}};

TEST(GgufModels, Mamba2HasTheBitsOfItsFolder) {
  ExpectTheBitsOfItsFolder("mamba2", {{"time_step_limit", nullptr}}, kBackbone, [](Converter& c) {
    SetMamba(c, 10, 2);
    c.set_float(".attention.layer_norm_rms_epsilon", 1e-5);
    c.set_int(".attention.head_count", 0);
    c.set_int(".attention.head_count_kv", 0);
    c.set_int(".feed_forward_length", 0);
  });
}

TEST(GgufModels, NemotronHHasTheBitsOfItsFolderWithExpertsAndWithout) {
  for (const std::string pattern : {"M-M-M*-M-M-M", "MEMEM*EMEMEM"}) {
    const bool experts = pattern.find('E') != std::string::npos;
    ExpectTheBitsOfItsFolder("nemotron_h",
                             {{"time_step_limit", nullptr}, {"hybrid_override_pattern", pattern}}, kBackbone,
                             [&](Converter& c) {
                               SetMamba(c, 6, 2);
                               PermuteQueriesAndKeys(c);
                               c.set_float(".attention.layer_norm_epsilon", 1e-5);
                               std::vector<int32_t> kv_heads;
                               std::vector<int32_t> ffn;
                               for (const char kind : pattern) {
                                 kv_heads.push_back(kind == '*' ? 2 : 0);
                                 ffn.push_back(kind == 'E' ? 320 : kind == '-' ? 384 : 0);
                               }
                               c.set_ints(".attention.head_count_kv", kv_heads);
                               c.set_ints(".feed_forward_length", ffn);
                               if (!experts) return;
                               SetExperts(c, 0, 1, 2.5f, true);
                               c.set_int(".expert_shared_feed_forward_length", 448);
                             });
  }
}

const Names kGraniteHybrid = {{".mamba.in_proj.", ".ssm_in."},
                              {".mamba.conv1d.", ".ssm_conv1d."},
                              {".mamba.dt_bias", ".ssm_dt.bias"},
                              {".mamba.A_log", ".ssm_a"},
                              {".mamba.D", ".ssm_d"},
                              {".mamba.norm.", ".ssm_norm."},
                              {".mamba.out_proj.", ".ssm_out."},
                              {".block_sparse_moe.router.layer.", ".ffn_gate_inp."},
                              {".block_sparse_moe.output_linear.", ".ffn_down_exps."}};

/// Gate and up of fused tensors, apart: of stacks of experts, and of the shared expert, or the MLP, whose names end in
/// `suffix`.
void SplitFused(Converter& c, const std::string& suffix) {
  Tensors split;
  for (Tensor& tensor : c.tensors) {
    std::string base = tensor.name;
    if (Replace(base, ".block_sparse_moe.input_linear.weight", ".ffn_")) {
      split.push_back(RowsOfStack(tensor, base + "gate_exps.weight", 0, 320));
      split.push_back(RowsOfStack(tensor, base + "up_exps.weight", 320, 640));
    } else if (Replace(base, ".shared_mlp.input_linear.weight", ".ffn_")) {
      for (const std::string part : {"gate", "up"}) {
        Tensor half = RowsOfHeads(tensor, base + part + suffix, 2, 0, 384);
        const auto begin = half.values.begin() + (part == "gate" ? 0 : 384 * 320);
        half.values = std::vector<float>(begin, begin + 384 * 320);
        half.shape = {384, 320};
        split.push_back(std::move(half));
      }
    } else {
      if (Replace(base, ".shared_mlp.output_linear.weight", ".ffn_down" + suffix)) tensor.name = base;
      split.push_back(std::move(tensor));
    }
  }
  c.tensors = std::move(split);
}

TEST(GgufModels, GraniteHybridHasTheBitsOfItsFolderWithExpertsAndWithout) {
  // Factors that f32 holds, as a file has them.
  const Json factors = {{"attention_multiplier", 0.125}, {"residual_multiplier", 0.25}};
  for (const bool experts : {true, false}) {
    Json edits = factors;
    if (!experts) edits["num_local_experts"] = 0;
    ExpectTheBitsOfItsFolder("granitemoehybrid", edits, kGraniteHybrid, [&](Converter& c) {
      SetMamba(c, 10, 1);
      PermuteQueriesAndKeys(c);
      SplitFused(c, experts ? "_shexp.weight" : ".weight");
      c.set_ints(".attention.head_count_kv", {0, 0, 2, 0, 0, 2, 0});
      c.set_bool(".rope.scaling.finetuned", false);
      c.set_float(".attention.scale", 0.125);
      c.set_float(".embedding_scale", 12.0);
      c.set_float(".residual_scale", 0.25);
      c.set_float(".logit_scale", 6.0);
      if (experts) c.set_int(".expert_count", 13);
      c.set_int(".expert_shared_feed_forward_length", 384);
      if (!experts) c.set_int(".feed_forward_length", 384);
    });
  }
}

}  // namespace
}  // namespace shoal
