// Writes the tiny model of a family as llama.cpp's converter would: names, order of rows, stacks, keys.
#pragma once

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "formats/test_gguf.h"
#include "numeric/dtype.h"

namespace shoal::gguf_testing {

using Json = nlohmann::json;

inline constexpr uint32_t kF32 = 0;
inline constexpr uint32_t kMxfp4 = 39;
inline constexpr uint32_t kBf16 = 30;

/// A tensor by its hub name, as numbers that bf16 holds, or a matrix of blocks that is ready.
struct Tensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;
  std::string blocks;  ///< MXFP4, where not empty.
};
using Tensors = std::vector<Tensor>;

/// The tensors of a folder.
Tensors Load(const std::string& folder);

/// Whether `text` has `from`, which becomes `to` where it first stands.
bool Replace(std::string& text, std::string_view from, std::string_view to);

/// Rows [begin, end) of each of `heads` equal parts of a matrix, as [heads, end - begin, K].
Tensor RowsOfHeads(const Tensor& of, std::string name, int64_t heads, int64_t begin, int64_t end);

/// Rows [begin, end) of each matrix of a stack [E, N, K].
Tensor RowsOfStack(const Tensor& of, std::string name, int64_t begin, int64_t end);

/// The last two dimensions, exchanged.
Tensor Transposed(const Tensor& of);

/// q and k of arch llama: rows of a head from halves to neighbouring pairs.
void PermuteHeads(Tensor& tensor, int64_t heads);

/// `<stem>.<expert>.<name>` of all experts becomes the stack `<stem>.<name>`.
Tensors StackExperts(const Tensors& tensors);

/// Hub to GGUF, in this order: llama.cpp's gguf-py/gguf/tensor_mapping.py. A longer name stands before its
/// beginning.
using Names = std::vector<std::pair<std::string_view, std::string_view>>;
/// Those of `own` stand before the usual ones.
std::string Renamed(std::string name, const Names& own);

/// Config and weights of a folder, on the way into a file.
class Converter {
 public:
  /// further: blocks behind the layers, which predict further tokens.
  Converter(const std::string& folder, std::string arch, int64_t further = 0)
      : arch_(std::move(arch)), tensors(Load(folder)) {
    std::ifstream(folder + "/config.json") >> config;
    if (config.contains("text_config")) config = Json(config["text_config"]);
    file.add_string("general.architecture", arch_);
    set_int(".block_count", config["num_hidden_layers"].get<int64_t>() + further);
    if (further > 0) set_int(".nextn_predict_layers", further);
  }

  // What is set first stays.
  void set_int(const std::string& key, const Json& value) {
    if (known_.insert(key).second) file.add_int(arch_ + key, value.get<uint32_t>());
  }
  void set_float(const std::string& key, const Json& value) {
    if (known_.insert(key).second) file.add_float(arch_ + key, value.get<float>());
  }
  void set_bool(const std::string& key, bool value) {
    if (known_.insert(key).second) file.add_bool(arch_ + key, value);
  }
  void set_ints(const std::string& key, const std::vector<int32_t>& values) {
    if (known_.insert(key).second) file.add_ints(arch_ + key, values);
  }
  void set_bools(const std::string& key, const std::vector<bool>& values) {
    if (known_.insert(key).second) file.add_bools(arch_ + key, values);
  }
  void set_floats(const std::string& key, const std::vector<float>& values) {
    if (known_.insert(key).second) file.add_floats(arch_ + key, values);
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
    set_usual();
    std::string data;
    for (const Tensor& tensor : tensors) {
      data.append((32 - data.size() % 32) % 32, '\0');
      const bool plain = tensor.shape.size() == 1 || !std::ranges::all_of(tensor.values, [](float value) {
                           return BF16ToF32(F32ToBF16(value)) == value;
                         });
      const uint32_t type = !tensor.blocks.empty() ? kMxfp4 : plain ? kF32 : kBf16;
      file.add_tensor(Renamed(tensor.name, own), type, {tensor.shape.rbegin(), tensor.shape.rend()},
                      data.size());
      data += tensor.blocks;
      for (const float value : tensor.values) {
        data += type == kF32 ? GgufBuilder::number(value) : GgufBuilder::number(F32ToBF16(value));
      }
    }
    const std::string path = folder + "/model.gguf";
    std::ofstream(path, std::ios::binary) << file.file(data);
    return path;
  }

  Json config;
  GgufBuilder file;

 private:
  /// Keys that nearly every file has, of what the config has.
  void set_usual() {
    set_int(".context_length", config["max_position_embeddings"]);
    set_int(".embedding_length", config["hidden_size"]);
    set_int(".attention.head_count", config["num_attention_heads"]);
    set_float(".attention.layer_norm_rms_epsilon", config["rms_norm_eps"]);
    if (config.contains("intermediate_size")) set_int(".feed_forward_length", config["intermediate_size"]);
    const Json& theta =
        config.contains("rope_theta") ? config["rope_theta"] : config["rope_parameters"]["rope_theta"];
    if (theta.is_number()) set_float(".rope.freq_base", theta);
    if (config.contains("num_experts_per_tok")) set_int(".expert_used_count", config["num_experts_per_tok"]);
  }

  std::string arch_;
  std::set<std::string> known_;

 public:
  Tensors tensors;
};

/// A random model of the family's tiny config with some keys changed.
void Synthesize(std::string_view family, const Json& edits, const std::string& folder);

/// Logits of two prompts, with activations of both kinds.
void ExpectSameBits(const std::string& gguf, const std::string& folder);

/// The file of a family's tiny model with head_dim, or 20, dimensions a head, after `more` has added to it.
void ExpectTheBitsOfItsFolder(std::string_view family, const Json& edits, const Names& own,
                              const std::function<void(Converter&)>& more);

/// Those of all layers.
void PermuteQueriesAndKeys(Converter& converter);

/// Taps of a convolution as the converter writes them: without the dimension of 1.
void SqueezeTaps(Converter& converter);

/// A_log as the converter writes it: -e^A_log.
void ExponentiateDecays(Converter& converter);

/// kv_b_proj of 16 heads as files since April 2025 have it: keys [64], transposed, and values [20] apart.
void SplitKvB(Converter& converter);

}  // namespace shoal::gguf_testing
