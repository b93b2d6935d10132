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
#include "compute/testing/local_model.h"
#include "convert/synth_model.h"
#include "convert/testing/checkpoints.h"
#include "formats/test_gguf.h"
#include "models/family.h"

namespace shoal {
namespace {

using Json = nlohmann::json;

constexpr uint32_t kF32 = 0;
constexpr uint32_t kMxfp4 = 39;
constexpr uint32_t kBf16 = 30;

/// A tensor by its hub name, as numbers that bf16 holds, or a matrix of blocks that is ready.
struct Tensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;
  std::string blocks;  ///< MXFP4, where not empty.
};
using Tensors = std::vector<Tensor>;

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

/// Rows [begin, end) of each of `heads` equal parts of a matrix, as [heads, end - begin, K].
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

/// The last two dimensions, exchanged.
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

/// q and k of arch llama: rows of a head from halves to neighbouring pairs.
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

/// `<stem>.<expert>.<name>` of all experts becomes the stack `<stem>.<name>`.
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

/// Hub to GGUF, in this order: llama.cpp's gguf-py/gguf/tensor_mapping.py. A longer name stands before its
/// beginning.
using Names = std::vector<std::pair<std::string_view, std::string_view>>;
const Names kOutside = {{"model.embed_tokens.", "token_embd."},
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
const Names kMixtral = {{".block_sparse_moe.gate.", ".ffn_gate_inp."},
                        {".block_sparse_moe.experts.w1.", ".ffn_gate_exps."},
                        {".block_sparse_moe.experts.w3.", ".ffn_up_exps."},
                        {".block_sparse_moe.experts.w2.", ".ffn_down_exps."}};
const Names kGptOss = {{".post_attention_layernorm.", ".post_attention_norm."},
                       {".self_attn.sinks", ".attn_sinks.weight"},
                       {".mlp.router.", ".ffn_gate_inp."}};

std::string Renamed(std::string name, const Names& own) {
  for (const Names* names : {&kOutside, &own, &kUsual}) {
    for (const auto& [hub, gguf] : *names) {
      if (Replace(name, hub, gguf)) break;
    }
  }
  return name;
}

/// Config and weights of a folder, on the way into a file.
class Converter {
 public:
  /// further: blocks behind the layers, which predict further tokens.
  Converter(const std::string& folder, std::string arch, int64_t further = 0)
      : arch_(std::move(arch)), tensors(Load(folder)) {
    std::ifstream(folder + "/config.json") >> config;
    file.add_string("general.architecture", arch_);
    set_int(".block_count", config["num_hidden_layers"].get<int64_t>() + further);
    if (further > 0) set_int(".nextn_predict_layers", further);
    set_int(".context_length", config["max_position_embeddings"]);
    set_int(".embedding_length", config["hidden_size"]);
    set_int(".feed_forward_length", config["intermediate_size"]);
    set_int(".attention.head_count", config["num_attention_heads"]);
    set_float(".attention.layer_norm_rms_epsilon", config["rms_norm_eps"]);
    set_float(".rope.freq_base", config["rope_theta"]);
    if (config.contains("num_experts_per_tok")) set_int(".expert_used_count", config["num_experts_per_tok"]);
  }

  void set_int(const std::string& key, const Json& value) {
    file.add_int(arch_ + key, value.get<uint32_t>());
  }
  void set_float(const std::string& key, const Json& value) {
    file.add_float(arch_ + key, value.get<float>());
  }
  void set_heads(int64_t head_dim) {
    set_int(".attention.head_count_kv", config["num_key_value_heads"]);
    set_int(".attention.key_length", head_dim);
    set_int(".attention.value_length", head_dim);
  }
  void set_yarn() {
    const Json& rope = config["rope_scaling"];
    file.add_string(arch_ + ".rope.scaling.type", "yarn");
    set_float(".rope.scaling.factor", rope["factor"]);
    set_int(".rope.scaling.original_context_length", rope["original_max_position_embeddings"]);
    set_float(".rope.scaling.yarn_beta_fast", rope["beta_fast"]);
    set_float(".rope.scaling.yarn_beta_slow", rope["beta_slow"]);
  }

  /// Writes the file below `folder`, and gives its path.
  std::string write(const std::string& folder, const Names& own = {}) {
    std::string data;
    for (const Tensor& tensor : tensors) {
      data.append((32 - data.size() % 32) % 32, '\0');
      const uint32_t type = !tensor.blocks.empty() ? kMxfp4 : tensor.shape.size() == 1 ? kF32 : kBf16;
      file.add_tensor(Renamed(tensor.name, own), type, {tensor.shape.rbegin(), tensor.shape.rend()},
                      data.size());
      data += tensor.blocks;
      for (const float value : tensor.values) {
        const uint16_t bits = F32ToBF16(value);
        if (type == kBf16) SHOAL_CHECK(BF16ToF32(bits) == value);
        data += type == kF32 ? GgufBuilder::number(value) : GgufBuilder::number(bits);
      }
    }
    const std::string path = folder + "/model.gguf";
    std::ofstream(path, std::ios::binary) << file.file(data);
    return path;
  }

  Json config;
  GgufBuilder file;

 private:
  std::string arch_;

 public:
  Tensors tensors;
};

/// A random model of the family's tiny config with some keys changed.
void Synthesize(std::string_view family, const Json& edits, const std::string& folder) {
  const auto found = FindFamily(family);
  ASSERT_TRUE(found.ok()) << found.status();
  Json config = Json::parse((*found)->tiny());
  for (const auto& [key, value] : edits.items()) config[key] = value;
  const absl::Status made =
      SynthesizeModel({.config_json = config.dump(), .out = folder, .seed = 23, .with_tokenizer = false});
  ASSERT_TRUE(made.ok()) << made;
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

void ExpectSameBits(const std::string& gguf, const std::string& folder) {
  for (const ActivationMode mode : {ActivationMode::kF32, ActivationMode::kInt8}) {
    const std::vector<float> expected = Logits(folder, {.activations = mode});
    const std::vector<float> got = Logits(gguf, {.activations = mode});
    ASSERT_FALSE(expected.empty());
    ASSERT_EQ(got.size(), expected.size());
    EXPECT_EQ(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)), 0);
  }
}

/// The file of a dense family's tiny model, with heads of that many dimensions.
void ExpectDenseHasTheBitsOfItsFolder(std::string_view family, const Json& edits, const Names& own,
                                      const std::function<void(Converter&)>& more) {
  const TempFolder folder;
  Synthesize(family, edits, folder.path());
  const std::map<std::string_view, std::string> other_names = {{"ministral3", "mistral3"},
                                                               {"gemma3_text", "gemma3"}};
  const auto other = other_names.find(family);
  Converter converter(folder.path(), other == other_names.end() ? std::string(family) : other->second);
  converter.set_heads(converter.config.value("head_dim", 20));
  more(converter);
  const TempFolder out;
  ExpectSameBits(converter.write(out.path(), own), folder.path());
}

void PermuteQueriesAndKeys(Converter& converter) {
  for (Tensor& tensor : converter.tensors) {
    if (tensor.name.ends_with("q_proj.weight")) PermuteHeads(tensor, 16);
    if (tensor.name.ends_with("k_proj.weight")) PermuteHeads(tensor, 2);
  }
}

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
  ExpectDenseHasTheBitsOfItsFolder("gemma", {{"hidden_act", "gelu_pytorch_tanh"}}, {},
                                   [](Converter& c) { AddOneToNorms(c.tensors); });
  ExpectDenseHasTheBitsOfItsFolder("gemma2", {{"query_pre_attn_scalar", 28}}, kOutputNorms, [](Converter& c) {
    AddOneToNorms(c.tensors);
    c.set_int(".attention.sliding_window", c.config["sliding_window"]);
    c.set_float(".attn_logit_softcapping", c.config["attn_logit_softcapping"]);
    c.set_float(".final_logit_softcapping", c.config["final_logit_softcapping"]);
  });
  ExpectDenseHasTheBitsOfItsFolder("gemma3_text",
                                   {{"query_pre_attn_scalar", 28}, {"sliding_window_pattern", 6}},
                                   kOutputNorms, [](Converter& c) {
                                     AddOneToNorms(c.tensors);
                                     c.set_int(".attention.sliding_window", c.config["sliding_window"]);
                                     c.file.add_string("gemma3.rope.scaling.type", "linear");
                                     c.set_float(".rope.scaling.factor", 8.0);
                                   });
}

TEST(GgufModels, DenseModelsOfLate2026HaveTheBitsOfTheirFolders) {
  ExpectDenseHasTheBitsOfItsFolder("smollm3", {{"no_rope_layers", nullptr}}, {}, PermuteQueriesAndKeys);
  ExpectDenseHasTheBitsOfItsFolder("olmo2", Json::object(), kOutputNorms, [](Converter&) {});
  ExpectDenseHasTheBitsOfItsFolder("seed_oss", Json::object(), kOutputNorms, [](Converter&) {});
  ExpectDenseHasTheBitsOfItsFolder("ministral3", {{"rope_theta", 1000000.0}}, {}, [](Converter& c) {
    PermuteQueriesAndKeys(c);
    c.config["rope_scaling"] = c.config["rope_parameters"];
    c.set_yarn();
    c.set_float(".rope.scaling.yarn_log_multiplier", 1.0);
    c.set_float(".attention.temperature_scale", 0.1);
  });
  ExpectDenseHasTheBitsOfItsFolder(
      "glm4", Json::object(),
      {{".post_self_attn_layernorm.", ".post_attention_norm."}, {".post_mlp_layernorm.", ".post_ffw_norm."}},
      [](Converter& c) { c.set_int(".rope.dimension_count", 14); });
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

/// kv_b_proj as files since April 2025 have it.
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
