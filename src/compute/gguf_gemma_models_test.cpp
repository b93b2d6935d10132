// Gemma 3n and 4, whose files hold more than layers, as gguf_models_test.cpp has the others.
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "compute/testing/gguf_converter.h"
#include "convert/testing/checkpoints.h"

namespace shoal {
namespace {

using gguf_testing::Converter;
using gguf_testing::ExpectTheBitsOfItsFolder;
using gguf_testing::Json;
using gguf_testing::Names;
using gguf_testing::Replace;
using gguf_testing::RowsOfStack;
using gguf_testing::Tensor;
using gguf_testing::Tensors;

const Names kLateGemmas = {{"model.embed_tokens_per_layer.", "per_layer_token_embd."},
                           {"model.per_layer_model_projection.", "per_layer_model_proj."},
                           {"model.per_layer_projection_norm.", "per_layer_proj_norm."},
                           {".per_layer_input_gate.", ".inp_gate."},
                           {".per_layer_projection.", ".proj."},
                           {".post_per_layer_input_norm.", ".post_norm."},
                           {".post_attention_layernorm.", ".post_attention_norm."},
                           {".pre_feedforward_layernorm.", ".ffn_norm."},
                           {".post_feedforward_layernorm.", ".post_ffw_norm."},
                           {".pre_feedforward_layernorm_2.", ".pre_ffw_norm_2."},
                           {".post_feedforward_layernorm_1.", ".post_ffw_norm_1."},
                           {".post_feedforward_layernorm_2.", ".post_ffw_norm_2."},
                           {".self_attn.q_norm.", ".attn_q_norm."},
                           {".self_attn.k_norm.", ".attn_k_norm."},
                           {".altup.modality_router.", ".altup_router."},
                           {".altup.router_norm.", ".altup_router_norm."},
                           {".altup.prediction_coefs.", ".altup_predict_coef."},
                           {".altup.correction_coefs.", ".altup_correct_coef."},
                           {".altup.correct_output_scale", ".altup_correct_scale.weight"},
                           {".laurel.linear_left.", ".laurel_l."},
                           {".laurel.linear_right.", ".laurel_r."},
                           {".laurel.post_laurel_norm.", ".laurel_post_norm."},
                           {".layer_scalar", ".layer_output_scale.weight"},
                           {".router.proj.", ".ffn_gate_inp."},
                           {".router.scale", ".ffn_gate_inp.scale"},
                           {".router.per_expert_scale", ".ffn_down_exps.scale"},
                           {".experts.gate_up_proj", ".ffn_gate_up_exps.weight"},
                           {".experts.down_proj", ".ffn_down_exps.weight"}};

/// `model.<hub>.<i>.weight` of all i as the stack `<gguf>.weight`.
void StackStreams(Converter& c, const std::string& hub, const std::string& gguf) {
  Tensor stack{.name = gguf + ".weight", .shape = {0}, .values = {}, .blocks = {}};
  Tensors others;
  for (Tensor& tensor : c.tensors) {
    if (!tensor.name.starts_with("model." + hub + ".")) {
      others.push_back(std::move(tensor));
      continue;
    }
    EXPECT_EQ(tensor.name, "model." + hub + "." + std::to_string(stack.shape[0]) + ".weight");
    ++stack.shape[0];
    stack.shape.resize(1);
    stack.shape.insert(stack.shape.end(), tensor.shape.begin(), tensor.shape.end());
    stack.values.insert(stack.values.end(), tensor.values.begin(), tensor.values.end());
  }
  c.tensors = std::move(others);
  c.tensors.push_back(std::move(stack));
}

/// What both have.
void SetLateGemma(Converter& c, const std::vector<bool>& windowed) {
  c.set_int(".attention.sliding_window", 33);
  c.set_bools(".attention.sliding_window_pattern", windowed);
  c.set_int(".embedding_length_per_layer_input", c.config["hidden_size_per_layer_input"]);
  c.set_int(".attention.shared_kv_layers", c.config["num_kv_shared_layers"]);
  c.set_float(".rope.freq_base", 1000000.0);
  c.set_float(".rope.freq_base_swa", 10000.0);
  c.set_float(".final_logit_softcapping", 30.0);
}

TEST(GgufModels, Gemma3nHasTheBitsOfItsFolder) {
  ExpectTheBitsOfItsFolder("gemma3n_text", Json::object(), kLateGemmas, [](Converter& c) {
    StackStreams(c, "altup_projections", "altup_proj");
    StackStreams(c, "altup_unembed_projections", "altup_unembd_proj");
    SetLateGemma(c, {true, false, true, false, true, true, false});
    c.set_ints(".feed_forward_length", c.config["intermediate_size"].get<std::vector<int32_t>>());
    c.set_int(".altup.num_inputs", 3);
    c.set_int(".altup.active_idx", 0);
    const float none = -std::numeric_limits<float>::infinity();
    // Of 0.95 and 0.9, as torch computes them in f32.
    c.set_floats(".activation_sparsity_scale", {1.6448533535f, 1.2815513611f, none, none, none, none, none});
    // Unused ones of a layer that takes the keys and values of another.
    c.tensors.push_back({.name = "model.layers.6.self_attn.k_norm.weight",
                         .shape = {28},
                         .values = std::vector<float>(28, 2.0f),
                         .blocks = {}});
  });
}

/// rope_freqs, and heads and widths of both kinds of layers.
void SetGemma4(Converter& c) {
  SetLateGemma(c, {true, true, false, true, true, true, false});
  Tensor factors{
      .name = "rope_freqs.weight", .shape = {30}, .values = std::vector<float>(30, 1e30f), .blocks = {}};
  for (size_t i = 0; i < 7; ++i) factors.values[i] = 1;
  c.tensors.push_back(std::move(factors));
  for (const char* length : {".attention.key_length", ".attention.value_length", ".rope.dimension_count"}) {
    c.set_int(length, 60);
    c.set_int(std::string(length) + "_swa", 28);
  }
  c.set_ints(".attention.head_count_kv", {4, 4, 2, 4, 4, 4, 2});
  c.set_ints(".feed_forward_length", {384, 384, 384, 384, 768, 768, 768});
}

void SetGemma4Experts(Converter& c) {
  c.set_int(".expert_count", 13);
  c.set_int(".expert_used_count", 3);
  c.set_int(".expert_feed_forward_length", 320);
}

TEST(GgufModels, Gemma4HasTheBitsOfItsFolderWithExpertsAndWithout) {
  ExpectTheBitsOfItsFolder("gemma4_text", Json::object(), kLateGemmas, [](Converter& c) {
    SetGemma4(c);
    SetGemma4Experts(c);
  });
  ExpectTheBitsOfItsFolder(
      "gemma4_text",
      {{"enable_moe_block", false}, {"attention_k_eq_v", false}, {"num_global_key_value_heads", nullptr}},
      kLateGemmas, [](Converter& c) {
        c.set_int(".attention.head_count_kv", 4);
        SetGemma4(c);
      });
}

TEST(GgufModels, Gemma4WithoutInputsOfLayersAndWithExpertsApartHasTheBitsOfItsFolder) {
  const Json edits = {
      {"hidden_size_per_layer_input", 0}, {"num_kv_shared_layers", 0}, {"use_double_wide_mlp", false}};
  ExpectTheBitsOfItsFolder("gemma4_text", edits, kLateGemmas, [](Converter& c) {
    c.set_int(".feed_forward_length", 384);
    SetGemma4(c);
    SetGemma4Experts(c);
    Tensors apart;
    for (Tensor& tensor : c.tensors) {
      std::string base = tensor.name;
      if (!Replace(base, ".experts.gate_up_proj", ".ffn_")) {
        apart.push_back(std::move(tensor));
        continue;
      }
      apart.push_back(RowsOfStack(tensor, base + "gate_exps.weight", 0, 320));
      apart.push_back(RowsOfStack(tensor, base + "up_exps.weight", 320, 640));
    }
    c.tensors = std::move(apart);
  });
}

}  // namespace
}  // namespace shoal
