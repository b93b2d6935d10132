#include "weights/synth_tensors.h"

#include <algorithm>
#include <cmath>

#include "base/status.h"

namespace shoal {
namespace {

using Kind = SynthTensor::Kind;

struct Dimensions {
  bool qk_norms = false;
  bool mixture = false;
  int64_t layers = 0, width = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0, vocab = 0;
  int64_t experts = 0, expert_ffn = 0, sparse_step = 1;
  std::vector<int64_t> dense_layers;
  bool tied = false, attention_bias = false, mlp_bias = false;

  bool is_mixture(int64_t layer) const {
    return mixture && std::ranges::find(dense_layers, layer) == dense_layers.end() &&
           (layer + 1) % sparse_step == 0;
  }
};

absl::Status ReadMixture(const ModelConfig& config, Dimensions* d) {
  ASSIGN_OR_RETURN(d->experts, config.required_int("num_experts"));
  ASSIGN_OR_RETURN(d->expert_ffn, config.required_int("moe_intermediate_size"));
  ASSIGN_OR_RETURN(d->sparse_step, config.required_int("decoder_sparse_step"));
  ASSIGN_OR_RETURN(d->dense_layers, config.int_list("mlp_only_layers"));
  ASSIGN_OR_RETURN(const int64_t chosen, config.required_int("num_experts_per_tok"));
  if (chosen > d->experts) {
    return InvalidArgument("{}: expected at most num_experts = {}, found {}",
                           config.where("num_experts_per_tok"), d->experts, chosen);
  }
  return absl::OkStatus();
}

absl::StatusOr<Dimensions> ReadDimensions(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const std::string type, config.required_string("model_type"));
  if (type != "llama" && type != "qwen3" && type != "qwen3_moe") {
    return InvalidArgument("{}: expected llama, qwen3 or qwen3_moe, found '{}'", config.where("model_type"),
                           type);
  }
  Dimensions d;
  d.qk_norms = type != "llama";
  d.mixture = type == "qwen3_moe";
  ASSIGN_OR_RETURN(d.layers, config.required_int("num_hidden_layers"));
  ASSIGN_OR_RETURN(d.width, config.required_int("hidden_size"));
  ASSIGN_OR_RETURN(d.heads, config.required_int("num_attention_heads"));
  ASSIGN_OR_RETURN(d.kv_heads, config.required_int("num_key_value_heads"));
  ASSIGN_OR_RETURN(const auto head_dim, config.optional_int("head_dim"));
  if (!head_dim && (d.qk_norms || d.width % d.heads != 0)) {
    return InvalidArgument("{}: expected this key, found nothing", config.where("head_dim"));
  }
  d.head_dim = head_dim ? *head_dim : d.width / d.heads;
  ASSIGN_OR_RETURN(d.ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(d.vocab, config.required_int("vocab_size"));
  ASSIGN_OR_RETURN(d.tied, config.required_bool("tie_word_embeddings"));
  ASSIGN_OR_RETURN(const auto attention_bias, config.optional_bool("attention_bias"));
  ASSIGN_OR_RETURN(const auto mlp_bias, config.optional_bool("mlp_bias"));
  d.attention_bias = attention_bias.value_or(false);
  d.mlp_bias = mlp_bias.value_or(false) && type == "llama";
  if (d.mixture) RETURN_IF_ERROR(ReadMixture(config, &d));
  return d;
}

/// Collects the tensors of one model.
class Lister {
 public:
  Lister(const Dimensions& d, bool stacked) : d_(d), stacked_(stacked) {}

  std::vector<SynthTensor> list() && {
    // Tied: the embedding is the head too, and the head's scale decides the logits.
    const double head = 2.0 / std::sqrt(static_cast<double>(d_.width));
    add_matrix("model.embed_tokens", d_.vocab, d_.width, d_.tied ? head : 1.0);
    for (int64_t layer = 0; layer < d_.layers; ++layer) add_layer(layer);
    add_vector(Kind::kNorm, "model.norm", d_.width);
    if (!d_.tied) add_matrix("lm_head", d_.vocab, d_.width, head);
    return std::move(tensors_);
  }

 private:
  void add_layer(int64_t layer) {
    const std::string prefix = fmt::format("model.layers.{}", layer);
    const std::string attention = prefix + ".self_attn";
    add_vector(Kind::kNorm, prefix + ".input_layernorm", d_.width);
    add_linear(attention + ".q_proj", d_.heads * d_.head_dim, d_.width, d_.attention_bias);
    add_linear(attention + ".k_proj", d_.kv_heads * d_.head_dim, d_.width, d_.attention_bias);
    add_linear(attention + ".v_proj", d_.kv_heads * d_.head_dim, d_.width, d_.attention_bias);
    add_linear(attention + ".o_proj", d_.width, d_.heads * d_.head_dim, d_.attention_bias);
    if (d_.qk_norms) {
      add_vector(Kind::kNorm, attention + ".q_norm", d_.head_dim);
      add_vector(Kind::kNorm, attention + ".k_norm", d_.head_dim);
    }
    add_vector(Kind::kNorm, prefix + ".post_attention_layernorm", d_.width);
    if (d_.is_mixture(layer)) {
      add_experts(prefix + ".mlp");
    } else {
      add_linear(prefix + ".mlp.gate_proj", d_.ffn, d_.width, d_.mlp_bias);
      add_linear(prefix + ".mlp.up_proj", d_.ffn, d_.width, d_.mlp_bias);
      add_linear(prefix + ".mlp.down_proj", d_.width, d_.ffn, d_.mlp_bias);
    }
  }

  void add_experts(const std::string& mlp) {
    add_matrix(mlp + ".gate", d_.experts, d_.width, unit_gain(d_.width) * 2.0, Kind::kRouter);
    for (const char* projection : {"gate_proj", "up_proj", "down_proj"}) {
      const bool down = std::string_view(projection) == "down_proj";
      SynthTensor one;
      one.rows = down ? d_.width : d_.expert_ffn;
      one.cols = down ? d_.expert_ffn : d_.width;
      one.deviation = unit_gain(one.cols) * (down ? 2.0 : 1.0);
      std::vector<std::string> names;
      for (int64_t e = 0; e < d_.experts; ++e)
        names.push_back(fmt::format("{}.experts.{}.{}", mlp, e, projection));
      if (stacked_) {
        one.experts = d_.experts;
        one.base = fmt::format("{}.switch_mlp.{}", mlp, projection);
        one.seeds = std::move(names);
        tensors_.push_back(std::move(one));
        continue;
      }
      for (const std::string& name : names) {
        one.base = name;
        one.seeds = {name};
        tensors_.push_back(one);
      }
    }
  }

  /// Deviation that keeps a row of unit deviation at unit deviation.
  static double unit_gain(int64_t cols) { return 1.0 / std::sqrt(static_cast<double>(cols)); }

  void add_linear(const std::string& base, int64_t rows, int64_t cols, bool bias) {
    const bool down = base.ends_with(".down_proj");  // Its input, silu(g) * u, is small.
    add_matrix(base, rows, cols, unit_gain(cols) * (down ? 2.0 : 1.0));
    if (bias) add_vector(Kind::kBias, base, rows);
  }
  void add_matrix(const std::string& base, int64_t rows, int64_t cols, double deviation,
                  Kind kind = Kind::kMatrix) {
    tensors_.push_back({kind, base, rows, cols, deviation, 0, {base}});
  }
  void add_vector(Kind kind, const std::string& base, int64_t size) {
    tensors_.push_back({kind, base, 0, size, kind == Kind::kNorm ? 0.1 : 0.2, 0, {base}});
  }

  const Dimensions& d_;
  bool stacked_;
  std::vector<SynthTensor> tensors_;
};

}  // namespace

absl::StatusOr<std::vector<SynthTensor>> ListSynthTensors(const ModelConfig& config, bool stacked) {
  ASSIGN_OR_RETURN(const Dimensions dimensions, ReadDimensions(config));
  return Lister(dimensions, stacked).list();
}

}  // namespace shoal
