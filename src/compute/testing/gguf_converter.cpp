#include "compute/testing/gguf_converter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "base/status.h"
#include "compute/testing/local_model.h"
#include "convert/synth_model.h"
#include "convert/testing/checkpoints.h"
#include "models/family.h"
#include "numeric/transcendental.h"

namespace shoal::gguf_testing {
namespace {

const Names kOutside = {{"language_model.model.embed_tokens.", "token_embd."},
                        {"language_model.model.norm.", "output_norm."},
                        {"language_model.lm_head.", "output."},
                        {"language_model.model.layers.", "blk."},
                        {"backbone.embeddings.", "token_embd."},
                        {"backbone.norm_f.", "output_norm."},
                        {"backbone.layers.", "blk."},
                        {"model.embedding_norm.", "token_embd_norm."},
                        {"model.embed_tokens.", "token_embd."},
                        {"model.norm.", "output_norm."},
                        {"lm_head.", "output."},
                        {"model.layers.", "blk."}};
const Names kUsual = {{".input_layernorm.", ".attn_norm."},
                      {".post_attention_layernorm.", ".ffn_norm."},
                      {".self_attn.qkv_proj.", ".attn_qkv."},
                      {".self_attn.q_proj.", ".attn_q."},
                      {".self_attn.k_proj.", ".attn_k."},
                      {".self_attn.v_proj.", ".attn_v."},
                      {".self_attn.o_proj.", ".attn_output."},
                      {".mlp.gate_up_proj.", ".ffn_up."},
                      {".mlp.gate_proj.", ".ffn_gate."},
                      {".mlp.up_proj.", ".ffn_up."},
                      {".mlp.down_proj.", ".ffn_down."},
                      {".mlp.gate.e_score_correction_bias", ".exp_probs_b.bias"},
                      {".mlp.gate.", ".ffn_gate_inp."},
                      {".mlp.experts.gate_proj.", ".ffn_gate_exps."},
                      {".mlp.experts.up_proj.", ".ffn_up_exps."},
                      {".mlp.experts.down_proj.", ".ffn_down_exps."},
                      {".mlp.shared_expert_gate.", ".ffn_gate_inp_shexp."},
                      {".mlp.shared_expert.gate_proj.", ".ffn_gate_shexp."},
                      {".mlp.shared_expert.up_proj.", ".ffn_up_shexp."},
                      {".mlp.shared_expert.down_proj.", ".ffn_down_shexp."},
                      {".mlp.shared_experts.gate_proj.", ".ffn_gate_shexp."},
                      {".mlp.shared_experts.up_proj.", ".ffn_up_shexp."},
                      {".mlp.shared_experts.down_proj.", ".ffn_down_shexp."},
                      {".self_attn.q_a_proj.", ".attn_q_a."},
                      {".self_attn.q_a_layernorm.", ".attn_q_a_norm."},
                      {".self_attn.q_b_proj.", ".attn_q_b."},
                      {".self_attn.kv_a_proj_with_mqa.", ".attn_kv_a_mqa."},
                      {".self_attn.kv_a_layernorm.", ".attn_kv_a_norm."},
                      {".self_attn.kv_b_proj.", ".attn_kv_b."},
                      {".self_attn.k_b_proj.", ".attn_k_b."},
                      {".self_attn.v_b_proj.", ".attn_v_b."}};

/// What llama.cpp calls the architecture of a family.
std::string ArchOf(std::string_view family) {
  static const std::map<std::string_view, std::string> kOthers = {{"gemma3_text", "gemma3"},
                                                                  {"gemma3n_text", "gemma3n"},
                                                                  {"gemma4_text", "gemma4"},
                                                                  {"hunyuan_v1_dense", "hunyuan-dense"},
                                                                  {"hunyuan_v1_moe", "hunyuan-moe"},
                                                                  {"ministral3", "mistral3"},
                                                                  {"minimax_m2", "minimax-m2"},
                                                                  {"glm4_moe", "glm4moe"},
                                                                  {"solar_open", "glm4moe"},
                                                                  {"ernie4_5_moe", "ernie4_5-moe"},
                                                                  {"exaone_moe", "exaone-moe"},
                                                                  {"olmo3", "olmo2"},
                                                                  {"mimo_v2_flash", "mimo2"},
                                                                  {"step3p5", "step35"},
                                                                  {"lfm2_moe", "lfm2moe"},
                                                                  {"granitemoehybrid", "granitehybrid"},
                                                                  {"qwen3_5", "qwen35"},
                                                                  {"qwen3_5_moe", "qwen35moe"},
                                                                  {"qwen3_next", "qwen3next"},
                                                                  {"kimi_linear", "kimi-linear"},
                                                                  {"falcon_h1", "falcon-h1"}};
  const auto other = kOthers.find(family);
  return other == kOthers.end() ? std::string(family) : other->second;
}

/// Of a prompt within the windows and the original contexts of the tiny models, and of one beyond them.
std::vector<float> Logits(const std::string& path, const LocalOptions& options) {
  auto model = LocalModel::Load(path, options);
  EXPECT_TRUE(model.ok()) << path << ": " << model.status();
  if (!model.ok()) return {};
  std::vector<float> logits;
  for (const size_t length : {30u, 75u}) {
    std::vector<int32_t> prompt(length);
    for (size_t i = 0; i < length; ++i) prompt[i] = static_cast<int32_t>(i * 13 % 331);
    const auto run = (*model)->run(prompt, 0);
    EXPECT_TRUE(run.ok()) << run.status();
    if (run.ok()) logits.insert(logits.end(), run->logits.begin(), run->logits.end());
  }
  return logits;
}

}  // namespace

Tensors Load(const std::string& folder) {
  const auto checkpoint = Checkpoint::Open(folder);
  SHOAL_CHECK(checkpoint.ok());
  Tensors tensors;
  for (const TensorInfo& info : (*checkpoint)->tensors()) {
    Tensor tensor{.name = info.name, .shape = info.shape, .values = {}, .blocks = {}};
    tensor.values.resize(static_cast<size_t>(*ElementCount(info.shape)));
    const TensorView view = (*checkpoint)->view(info);
    for (size_t i = 0; i < tensor.values.size(); ++i) {
      tensor.values[i] = LoadFloatWeight(view.data, view.dtype, static_cast<int64_t>(i));
    }
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

bool Replace(std::string& text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  if (at == std::string::npos) return false;
  text.replace(at, from.size(), to);
  return true;
}

Tensor RowsOfHeads(const Tensor& of, std::string name, int64_t heads, int64_t begin, int64_t end) {
  const int64_t per_head = of.shape[0] / heads;
  const int64_t cols = of.shape[1];
  Tensor part{.name = std::move(name), .shape = {heads, end - begin, cols}, .values = {}, .blocks = {}};
  for (int64_t h = 0; h < heads; ++h) {
    const auto first = of.values.begin() + (h * per_head + begin) * cols;
    part.values.insert(part.values.end(), first, first + (end - begin) * cols);
  }
  return part;
}

Tensor RowsOfStack(const Tensor& of, std::string name, int64_t begin, int64_t end) {
  const int64_t cols = of.shape[2];
  Tensor part{.name = std::move(name), .shape = {of.shape[0], end - begin, cols}, .values = {}, .blocks = {}};
  for (int64_t e = 0; e < of.shape[0]; ++e) {
    const auto first = of.values.begin() + (e * of.shape[1] + begin) * cols;
    part.values.insert(part.values.end(), first, first + (end - begin) * cols);
  }
  return part;
}

Tensor Transposed(const Tensor& of) {
  Tensor result = of;
  const int64_t rows = of.shape[1];
  const int64_t cols = of.shape[2];
  std::swap(result.shape[1], result.shape[2]);
  for (int64_t h = 0; h < of.shape[0]; ++h) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        result.values[static_cast<size_t>((h * cols + c) * rows + r)] =
            of.values[static_cast<size_t>((h * rows + r) * cols + c)];
      }
    }
  }
  return result;
}

void PermuteHeads(Tensor& tensor, int64_t heads) {
  const int64_t cols = tensor.shape.size() == 1 ? 1 : tensor.shape[1];
  const int64_t half = tensor.shape[0] / heads / 2;
  const std::vector<float> old = tensor.values;
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t j = 0; j < 2; ++j) {
      for (int64_t i = 0; i < half; ++i) {
        const auto from = old.begin() + ((h * 2 + j) * half + i) * cols;
        std::copy(from, from + cols, tensor.values.begin() + (h * 2 * half + 2 * i + j) * cols);
      }
    }
  }
}

Tensors StackExperts(const Tensors& tensors) {
  Tensors result;
  std::map<std::string, std::map<int64_t, const Tensor*>> stacks;
  for (const Tensor& tensor : tensors) {
    const size_t at = tensor.name.find(".experts.");
    const size_t end = at == std::string::npos ? at : tensor.name.find('.', at + 9);
    if (at == std::string::npos || tensor.shape.size() != 2) {
      result.push_back(tensor);
      continue;
    }
    std::string name = tensor.name;
    const int64_t expert = std::stoll(name.substr(at + 9, end - at - 9));
    stacks[name.erase(at + 9, end - at - 8)][expert] = &tensor;
  }
  for (const auto& [name, experts] : stacks) {
    Tensor stack{.name = name, .shape = {std::ssize(experts)}, .values = {}, .blocks = {}};
    for (const auto& [expert, tensor] : experts) {
      if (expert == 0) stack.shape.insert(stack.shape.end(), tensor->shape.begin(), tensor->shape.end());
      stack.values.insert(stack.values.end(), tensor->values.begin(), tensor->values.end());
    }
    result.push_back(std::move(stack));
  }
  return result;
}

std::string Renamed(std::string name, const Names& own) {
  for (const Names* names : {&kOutside, &own, &kUsual}) {
    for (const auto& [hub, gguf] : *names) {
      if (Replace(name, hub, gguf)) break;
    }
  }
  return name;
}

void Synthesize(std::string_view family, const Json& edits, const std::string& folder) {
  const auto found = FindFamily(family);
  ASSERT_TRUE(found.ok()) << found.status();
  Json config = Json::parse((*found)->tiny());
  for (const auto& [key, value] : edits.items()) config[key] = value;
  const absl::Status made =
      SynthesizeModel({.config_json = config.dump(), .out = folder, .seed = 23, .with_tokenizer = false});
  ASSERT_TRUE(made.ok()) << made;
}

void ExpectSameBits(const std::string& gguf, const std::string& folder) {
  for (const ActivationMode mode : {ActivationMode::kF32, ActivationMode::kInt8}) {
    const std::vector<float> expected = Logits(folder, {.activations = mode});
    const std::vector<float> got = Logits(gguf, {.activations = mode});
    ASSERT_FALSE(expected.empty());
    ASSERT_EQ(got.size(), expected.size());
    EXPECT_EQ(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)), 0);
  }
}

void ExpectTheBitsOfItsFolder(std::string_view family, const Json& edits, const Names& own,
                              const std::function<void(Converter&)>& more) {
  const TempFolder folder;
  Synthesize(family, edits, folder.path());
  Converter converter(folder.path(), ArchOf(family));
  more(converter);
  converter.set_heads(converter.config.value("head_dim", 20));
  const TempFolder out;
  ExpectSameBits(converter.write(out.path(), own), folder.path());
}

void PermuteQueriesAndKeys(Converter& converter) {
  for (Tensor& tensor : converter.tensors) {
    if (tensor.name.ends_with("q_proj.weight")) PermuteHeads(tensor, converter.config["num_attention_heads"]);
    if (tensor.name.ends_with("k_proj.weight")) PermuteHeads(tensor, converter.config["num_key_value_heads"]);
  }
}

void SqueezeTaps(Converter& converter) {
  for (Tensor& tensor : converter.tensors) {
    if (tensor.shape.size() == 3 && tensor.shape[1] == 1) tensor.shape.erase(tensor.shape.begin() + 1);
  }
}

void ExponentiateDecays(Converter& converter) {
  for (Tensor& tensor : converter.tensors) {
    if (!tensor.name.ends_with(".A_log")) continue;
    for (float& value : tensor.values) value = -static_cast<float>(Exp(value));
  }
}

void SplitKvB(Converter& converter) {
  Tensors result;
  for (const Tensor& tensor : converter.tensors) {
    if (!tensor.name.ends_with("kv_b_proj.weight")) {
      result.push_back(tensor);
      continue;
    }
    std::string keys = tensor.name;
    std::string values = tensor.name;
    Replace(keys, "kv_b_proj", "k_b_proj");
    Replace(values, "kv_b_proj", "v_b_proj");
    result.push_back(Transposed(RowsOfHeads(tensor, keys, 16, 0, 64)));
    result.push_back(RowsOfHeads(tensor, values, 16, 64, 84));
  }
  converter.tensors = std::move(result);
}

}  // namespace shoal::gguf_testing
