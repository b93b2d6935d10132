// DeepSeek-V4, under the names of its own checkpoints. Reference: transformers models/deepseek_v4/modeling_deepseek_v4.py.
#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

/// What the reference has where a config is silent.
constexpr char kDeepseekV4Defaults[] = R"({"hidden_act": "silu", "tie_word_embeddings": false,
  "num_key_value_heads": 1, "num_hash_layers": 3})";

/// How a layer attends to what is before its window.
enum class FarSight : uint8_t {
  kNone,    ///< "sliding_attention": not at all.
  kPicked,  ///< "compressed_sparse_attention": to some entries of overlapping pools.
  kAll,     ///< "heavily_compressed_attention": to all entries of wider pools.
};

struct DeepseekV4Sizes {
  DecoderSizes usual;
  int head_dim = 0, rotary = 0;
  int64_t q_rank = 0, o_groups = 0, o_rank = 0, window = 0;
  int64_t picked_ratio = 4, all_ratio = 128;
  int index_heads = 0, index_dim = 0;
  int64_t index_top = 0;
  std::vector<FarSight> sights;  // Of each layer.
  RopeSpec near_rope, far_rope;  // Of layers that see a window alone, and of the others.
  MoeSettings experts;
  int64_t layers_by_token = 0;  // The first ones, whose experts a token's id decides.
  float limit = 0;
  int streams = 0, rounds = 0;
  float hyper_eps = 0;
};

absl::Status RefuseOtherV4(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  RETURN_IF_ERROR(RequireIfPresent(config, "scoring_func", "sqrtsoftplus"));
  RETURN_IF_ERROR(RequireIfPresent(config, "topk_method", "noaux_tc"));
  RETURN_IF_ERROR(RequireFlag(config, "norm_topk_prob", true));
  RETURN_IF_ERROR(RequireFlag(config, "attention_bias", false));
  RETURN_IF_ERROR(RequireFlag(config, "mlp_bias", false));
  for (const char* key : {"rope_parameters", "mlp_layer_types"}) {
    if (!config.has(key)) continue;
    return Unimplemented("{}: expected nothing, found {}; {} is built instead", config.where(key),
                         config.excerpt(key),
                         key == std::string_view("rope_parameters") ? "rope_scaling" : "num_hash_layers");
  }
  return absl::OkStatus();
}

absl::StatusOr<FarSight> SightOf(const ModelConfig& config, const std::string& type) {
  if (type == "sliding_attention") return FarSight::kNone;
  if (type == "compressed_sparse_attention") return FarSight::kPicked;
  if (type == "heavily_compressed_attention") return FarSight::kAll;
  return Unimplemented(
      "{}: expected \"sliding_attention\", \"compressed_sparse_attention\" or "
      "\"heavily_compressed_attention\", "
      "found \"{}\"",
      config.where("layer_types"), type);
}

/// By layer_types, or by compress_ratios. Either may be longer than the model: what follows is of heads for multi-token
/// prediction.
absl::Status ReadSights(const ModelConfig& config, DeepseekV4Sizes& sizes) {
  ASSIGN_OR_RETURN(const std::vector<std::string> types, config.string_list("layer_types"));
  ASSIGN_OR_RETURN(const std::vector<int64_t> ratios, config.int_list("compress_ratios", {0, 1 << 20}));
  for (const std::string& type : types) {
    ASSIGN_OR_RETURN(sizes.sights.emplace_back(), SightOf(config, type));
  }
  for (const int64_t ratio : types.empty() ? ratios : std::vector<int64_t>()) {
    if (ratio != 0 && ratio != 4 && ratio != 128) {
      return Unimplemented("{}: expected 0, 4 or 128, found {}", config.where("compress_ratios"), ratio);
    }
    sizes.sights.push_back(ratio == 0 ? FarSight::kNone : ratio == 4 ? FarSight::kPicked : FarSight::kAll);
  }
  if (std::ssize(sizes.sights) < sizes.usual.layers) {
    return InvalidArgument("{}: expected one for each of {} layers, found {}",
                           config.where(types.empty() ? "compress_ratios" : "layer_types"),
                           sizes.usual.layers, sizes.sights.size());
  }
  ASSIGN_OR_RETURN(const std::optional<ModelConfig> rates, config.optional_object("compress_rates"));
  if (!rates) return absl::OkStatus();
  ASSIGN_OR_RETURN(sizes.picked_ratio, rates->required_int("compressed_sparse_attention", {1, 1024}));
  ASSIGN_OR_RETURN(sizes.all_ratio, rates->required_int("heavily_compressed_attention", {1, 1024}));
  return absl::OkStatus();
}

absl::Status ReadV4Ropes(const ModelConfig& config, DeepseekV4Sizes& sizes) {
  ASSIGN_OR_RETURN(sizes.rotary, ReadHeadDim(config, "qk_rope_head_dim"));
  for (const auto& [key, of] : {std::pair("head_dim", sizes.head_dim), {"index_head_dim", sizes.index_dim}}) {
    if (of >= sizes.rotary) continue;
    return InvalidArgument("{}: expected qk_rope_head_dim = {} at least, found {}", config.where(key),
                           sizes.rotary, of);
  }
  constexpr Bounds<double> kThetas{1.0, 1e12};
  sizes.near_rope = {.dims = sizes.rotary, .pairing = RopePairing::kInterleaved};
  ASSIGN_OR_RETURN(sizes.near_rope.theta, config.required_number("rope_theta", kThetas));
  ASSIGN_OR_RETURN(sizes.far_rope, ReadRopeScaling(config, sizes.rotary));
  sizes.far_rope.pairing = RopePairing::kInterleaved;
  ASSIGN_OR_RETURN(sizes.far_rope.theta, config.required_number("compress_rope_theta", kThetas));
  // As in the reference, cosines and sines are not multiplied unless a config says so.
  ASSIGN_OR_RETURN(const std::optional<ModelConfig> scaling, config.optional_object("rope_scaling"));
  if (!scaling || !scaling->has("attention_factor")) sizes.far_rope.magnitude = 1;
  return absl::OkStatus();
}

absl::Status ReadV4Experts(const ModelConfig& config, DeepseekV4Sizes& sizes) {
  ASSIGN_OR_RETURN(sizes.experts, ReadDeepseekExperts(config, sizes.usual));
  if (sizes.experts.shared_width != sizes.experts.width) {
    return Unimplemented("{}: expected 1; another number of shared experts is not built",
                         config.where("n_shared_experts"));
  }
  sizes.experts.scores = RouteScores::kLogits;
  sizes.experts.weighting = RouteWeights::kRenormalized;
  ASSIGN_OR_RETURN(sizes.layers_by_token, config.required_int("num_hash_layers", {0, 4096}));
  ASSIGN_OR_RETURN(const double limit, config.required_number("swiglu_limit", {1e-3, 1e6}));
  sizes.limit = static_cast<float>(limit);
  return absl::OkStatus();
}

absl::StatusOr<DeepseekV4Sizes> ReadV4(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseOtherV4(config));
  constexpr Bounds<int64_t> kRanks{1, 1 << 16};
  DeepseekV4Sizes sizes;
  ASSIGN_OR_RETURN(sizes.usual, ReadDecoderSizes(config));
  if (sizes.usual.kv_heads != 1) {
    return Unimplemented("{}: expected 1, found {}", config.where("num_key_value_heads"),
                         sizes.usual.kv_heads);
  }
  ASSIGN_OR_RETURN(sizes.head_dim, ReadHeadDim(config));
  ASSIGN_OR_RETURN(sizes.q_rank, config.required_int("q_lora_rank", kRanks));
  ASSIGN_OR_RETURN(sizes.o_rank, config.required_int("o_lora_rank", kRanks));
  ASSIGN_OR_RETURN(sizes.o_groups, config.required_int("o_groups", {1, sizes.usual.heads}));
  if (sizes.usual.heads % sizes.o_groups != 0) {
    return InvalidArgument("{}: expected a divisor of num_attention_heads = {}, found {}",
                           config.where("o_groups"), sizes.usual.heads, sizes.o_groups);
  }
  ASSIGN_OR_RETURN(sizes.window, config.required_int("sliding_window"));
  ASSIGN_OR_RETURN(const int64_t index_heads, config.required_int("index_n_heads", {1, 1024}));
  ASSIGN_OR_RETURN(const int64_t index_dim, config.required_int("index_head_dim", {2, kHeadDimMax}));
  ASSIGN_OR_RETURN(sizes.index_top, config.required_int("index_topk"));
  sizes.index_heads = static_cast<int>(index_heads);
  sizes.index_dim = static_cast<int>(index_dim);
  RETURN_IF_ERROR(ReadSights(config, sizes));
  RETURN_IF_ERROR(ReadV4Ropes(config, sizes));
  RETURN_IF_ERROR(ReadV4Experts(config, sizes));
  ASSIGN_OR_RETURN(const int64_t streams, config.required_int("hc_mult", {1, 16}));
  ASSIGN_OR_RETURN(const int64_t rounds, config.required_int("hc_sinkhorn_iters", {1, 1000}));
  ASSIGN_OR_RETURN(const double eps, config.required_number("hc_eps", {0.0, 1.0}));
  sizes.streams = static_cast<int>(streams);
  sizes.rounds = static_cast<int>(rounds);
  sizes.hyper_eps = static_cast<float>(eps);
  return sizes;
}

WeightRef ValuesAt(const std::string& base, std::string suffix, int64_t size) {
  return {.shape = {size}, .sources = {{.base = base, .suffix = std::move(suffix)}}};
}

/// A small matrix, which is read as a vector.
WeightRef TableAt(const std::string& base, std::string suffix, int64_t rows, int64_t cols) {
  WeightRef ref = ValuesAt(base, std::move(suffix), rows * cols);
  ref.sources[0].strided =
      WeightSource::StridedView{.stored_shape = {rows, cols}, .offset = 0, .row_stride = 0, .col_stride = 1};
  return ref;
}

/// A matrix whose name does not end with ".weight".
LinearSpec MatrixNamed(const std::string& base, std::string suffix, int64_t rows, int64_t cols) {
  return {.weight = {.shape = {rows, cols}, .sources = {{.base = base, .suffix = std::move(suffix)}}},
          .bias = std::nullopt};
}

HyperMixSpec HyperAt(const std::string& base, const std::string& name, const DeepseekV4Sizes& sizes,
                     int64_t coefficients) {
  return {.matrix = MatrixNamed(base, name + "_fn", coefficients, sizes.streams * sizes.usual.width),
          .base = ValuesAt(base, name + "_base", coefficients),
          .scale = ValuesAt(base, name + "_scale", coefficients > sizes.streams ? 3 : 1)};
}

PoolSpec PoolAt(const std::string& base, const DeepseekV4Sizes& sizes, int dim, FarSight sight) {
  PoolSpec pool{.ratio = sight == FarSight::kPicked ? sizes.picked_ratio : sizes.all_ratio,
                .dim = dim,
                .overlaps = sight == FarSight::kPicked};
  pool.kv = LinearAt(base + ".wkv", pool.cols(), sizes.usual.width, false);
  pool.gate = LinearAt(base + ".wgate", pool.cols(), sizes.usual.width, false);
  pool.bias = TableAt(base, "ape", pool.ratio, pool.cols());
  pool.norm = NormAt(base + ".norm", dim, sizes.usual.eps);
  return pool;
}

PooledAttentionSpec AttentionAt(const std::string& base, const DeepseekV4Sizes& sizes, FarSight sight) {
  PooledAttentionSpec attention;
  const int64_t heads = sizes.usual.heads;
  attention.heads = sizes.usual.heads;
  attention.head_dim = sizes.head_dim;
  attention.q_a = LinearAt(base + ".wq_a", sizes.q_rank, sizes.usual.width, false);
  attention.q_norm = NormAt(base + ".q_norm", sizes.q_rank, sizes.usual.eps);
  attention.q = LinearAt(base + ".wq_b", heads * sizes.head_dim, sizes.q_rank, false);
  attention.head_eps = sizes.usual.eps;
  attention.kv = LinearAt(base + ".wkv", sizes.head_dim, sizes.usual.width, false);
  attention.kv_norm = NormAt(base + ".kv_norm", sizes.head_dim, sizes.usual.eps);
  // What transformers calls it when it saves the model under the names of the hub.
  attention.kv_norm.weight.sources.push_back({.base = base + ".norm", .suffix = "weight", .written = false});
  attention.rope = sight == FarSight::kNone ? sizes.near_rope : sizes.far_rope;
  attention.window = sizes.window;
  attention.sinks = ValuesAt(base, "attn_sink", heads);
  if (sight != FarSight::kNone) {
    attention.pool = PoolAt(base + ".compressor", sizes, sizes.head_dim, sight);
  }
  if (sight == FarSight::kPicked) {
    const std::string index = base + ".indexer";
    attention.indexer = PooledAttentionSpec::Indexer{
        .heads = sizes.index_heads,
        .dim = sizes.index_dim,
        .top = sizes.index_top,
        .q = LinearAt(index + ".wq_b", int64_t{sizes.index_heads} * sizes.index_dim, sizes.q_rank, false),
        .weights = LinearAt(index + ".weights_proj", sizes.index_heads, sizes.usual.width, false),
        .pool = PoolAt(index + ".compressor", sizes, sizes.index_dim, sight)};
  }
  const int64_t groups = sizes.o_groups;
  for (int64_t g = 0; g < groups; ++g) {
    attention.o_a.push_back(PartOf(base + ".wo_a", groups * sizes.o_rank, g * sizes.o_rank, sizes.o_rank,
                                   heads / groups * sizes.head_dim));
  }
  attention.o_b = LinearAt(base + ".wo_b", sizes.usual.width, groups * sizes.o_rank, false);
  return attention;
}

MoeSpec V4ExpertsAt(const std::string& base, const DeepseekV4Sizes& sizes, bool by_token) {
  MoeSpec moe = MoeAt(base, sizes.usual.width, sizes.experts, {.gate = "w1", .up = "w3", .down = "w2"});
  const std::string shared = base + ".shared_experts.";
  moe.shared = DenseSpec{.width = sizes.experts.width,
                         .gate = LinearAt(shared + "w1", sizes.experts.width, sizes.usual.width, false),
                         .up = LinearAt(shared + "w3", sizes.experts.width, sizes.usual.width, false),
                         .down = LinearAt(shared + "w2", sizes.usual.width, sizes.experts.width, false)};
  const auto clamp = [&](DenseSpec& dense) {
    dense.gating = Gating::kSiluOfClamped;
    dense.limit = sizes.limit;
  };
  std::ranges::for_each(moe.experts, clamp);
  clamp(*moe.shared);
  // The bias beside the matrix is one of the choice: under this name it is not taken for the matrix's own.
  moe.router.linear = MatrixNamed(base, "gate.weight", sizes.experts.experts, sizes.usual.width);
  moe.router.sqrt_softplus = true;
  if (by_token) {
    moe.router.experts_of_token =
        TableAt(base + ".gate", "tid2eid", sizes.usual.vocabulary, sizes.experts.top_k);
    moe.router.experts_of_token->sources[0].ids = true;
  } else {
    moe.router.selection_bias = ValuesAt(base + ".gate", "bias", sizes.experts.experts);
  }
  return moe;
}

LayerSpec V4LayerAt(int64_t index, const DeepseekV4Sizes& sizes) {
  const std::string base = fmt::format("layers.{}", index);
  const int64_t coefficients = 2 * sizes.streams + sizes.streams * sizes.streams;
  LayerSpec layer;
  layer.mixer_norm = NormAt(base + ".attn_norm", sizes.usual.width, sizes.usual.eps);
  layer.mixer = AttentionAt(base + ".attn", sizes, sizes.sights[static_cast<size_t>(index)]);
  layer.feed_forward_norm = NormAt(base + ".ffn_norm", sizes.usual.width, sizes.usual.eps);
  layer.feed_forward = V4ExpertsAt(base + ".ffn", sizes, index < sizes.layers_by_token);
  layer.hyper = HyperLayerSpec{.mixer = HyperAt(base, "hc_attn", sizes, coefficients),
                               .feed_forward = HyperAt(base, "hc_ffn", sizes, coefficients)};
  return layer;
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const DeepseekV4Sizes sizes, ReadV4(config.with_defaults(kDeepseekV4Defaults)));
  const DecoderSizes& usual = sizes.usual;
  ModelSpec spec;
  spec.model_type = "deepseek_v4";
  spec.width = usual.width;
  spec.vocabulary = usual.vocabulary;
  spec.max_positions = usual.max_positions;
  spec.embedding = MatrixAt("embed", usual.vocabulary, usual.width);
  for (int64_t i = 0; i < usual.layers; ++i) spec.layers.push_back(V4LayerAt(i, sizes));
  spec.final_norm = NormAt("norm", usual.width, usual.eps);
  spec.tied_head = usual.tied_head;
  spec.head = usual.tied_head ? LinearSpec{.weight = spec.embedding, .bias = std::nullopt}
                              : LinearAt("head", usual.vocabulary, usual.width, false);
  spec.hyper = HyperSpec{.streams = sizes.streams,
                         .rounds = sizes.rounds,
                         .eps = sizes.hyper_eps,
                         .norm_eps = usual.eps,
                         .head = HyperAt("", "hc_head", sizes, sizes.streams)};
  spec.ignored_tensors.emplace_back("mtp.", "heads for further tokens");
  return spec;
}

std::string Tiny() {
  return TinyConfig("deepseek_v4",
                    R"("num_key_value_heads": 1, "head_dim": 40, "qk_rope_head_dim": 20, "q_lora_rank": 320,
  "o_groups": 2, "o_lora_rank": 160, "attention_bias": false, "moe_intermediate_size": 320,
  "n_routed_experts": 13, "n_shared_experts": 1, "num_experts_per_tok": 3, "norm_topk_prob": true,
  "scoring_func": "sqrtsoftplus", "topk_method": "noaux_tc", "routed_scaling_factor": 1.5, "num_hash_layers": 2,
  "swiglu_limit": 1.5, "sliding_window": 9, "compress_rope_theta": 160000.0,
  "layer_types": ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention",
    "compressed_sparse_attention", "heavily_compressed_attention", "compressed_sparse_attention",
    "sliding_attention"],
  "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 16},
  "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-06, "index_n_heads": 5, "index_head_dim": 36,
  "index_topk": 5, "hidden_act": "silu", "rope_theta": 10000.0,
  "rope_scaling": {"type": "yarn", "factor": 16, "original_max_position_embeddings": 64, "beta_fast": 32,
    "beta_slow": 1},
  "tie_word_embeddings": false)");
}

}  // namespace

extern const Family deepseek_v4;
constinit const Family deepseek_v4 = {"deepseek_v4", &Spec, &Tiny};

}  // namespace shoal::families
