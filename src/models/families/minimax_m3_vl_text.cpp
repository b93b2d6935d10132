// MiniMax-M3, text only. Reference: transformers models/minimax_m3_vl/modeling_minimax_m3_vl.py.
#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_mixtral.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

constexpr int64_t kBlockMax = 1 << 20;  // Positions, or blocks.

/// Norms are stored as w of 1 + w.
NormSpec OneBasedNormAt(const std::string& base, int64_t size, float eps) {
  NormSpec norm = NormAt(base, size, eps);
  norm.weight.sources[0].offset = 1;
  return norm;
}

/// What clamps gates and what is multiplied by them, everywhere.
DenseSpec Clamped(DenseSpec dense, float limit) {
  dense.gating = Gating::kClampedSwiglu;
  dense.limit = limit;
  return dense;
}

/// Whether each layer has something: by `names`, a list of words, the first for those that have it, or by `flags`, a list
/// of 0 and 1. Without either, `usual`.
struct LayerList {
  const char* names;
  std::array<std::string_view, 2> words;
  const char* flags;
  bool usual;
};
absl::StatusOr<std::vector<bool>> ReadLayerList(const ModelConfig& named, const ModelConfig& flagged,
                                                const LayerList& list, int64_t layers) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, named.string_list(list.names));
  if (!names.empty()) return ReadLayerKinds(named, list.names, list.words, layers);
  ASSIGN_OR_RETURN(const std::vector<int64_t> flags, flagged.int_list(list.flags, {0, 1}));
  if (flags.empty()) return std::vector<bool>(static_cast<size_t>(layers), list.usual);
  if (std::ssize(flags) != layers) {
    return InvalidArgument("{}: expected one for each of {} layers, found {}", flagged.where(list.flags),
                           layers, flags.size());
  }
  std::vector<bool> has;
  for (const int64_t flag : flags) has.push_back(flag == 1);
  return has;
}

/// What layers pick, and which do.
struct Sparse {
  BlockPicks picks;
  std::vector<bool> layers;
};

/// The sizes of BlockPicks: under the keys of `sparse_attention_config`, or under newer ones beside it.
absl::StatusOr<BlockPicks> ReadBlockPicks(const ModelConfig& config, const ModelConfig& sparse) {
  const auto read = [&](const char* old_key, const char* key, Bounds<int64_t> bounds) {
    return sparse.has(old_key) ? sparse.required_int(old_key, bounds) : config.required_int(key, bounds);
  };
  BlockPicks picks;
  ASSIGN_OR_RETURN(picks.size, read("sparse_block_size", "index_block_size", {1, kBlockMax}));
  ASSIGN_OR_RETURN(picks.count, read("sparse_topk_blocks", "index_topk_blocks", {1, kBlockMax}));
  ASSIGN_OR_RETURN(picks.local, read("sparse_local_block", "index_local_blocks", {0, picks.count}));
  ASSIGN_OR_RETURN(const int64_t heads, read("sparse_num_index_heads", "index_n_heads", {1, 1 << 12}));
  ASSIGN_OR_RETURN(const int64_t dim, read("sparse_index_dim", "index_head_dim", {1, 1 << 16}));
  picks.indexer.heads = static_cast<int>(heads);
  picks.indexer.dim = static_cast<int>(dim);
  constexpr int64_t kUnit = 512;  // What attention is cut into.
  if (kUnit % picks.size != 0 && picks.size % kUnit != 0) {
    return Unimplemented("{}: expected a divisor or a multiple of {}, found {}",
                         sparse.where("sparse_block_size"), kUnit, picks.size);
  }
  return picks;
}

absl::StatusOr<Sparse> ReadSparse(const ModelConfig& config, const DecoderSizes& sizes, int64_t rotary) {
  Sparse sparse;
  ASSIGN_OR_RETURN(const std::optional<ModelConfig> stated,
                   config.optional_object("sparse_attention_config"));
  const ModelConfig& legacy = stated ? *stated : config;
  RETURN_IF_ERROR(RequireFlag(legacy, "use_sparse_attention", true));
  RETURN_IF_ERROR(RequireIfPresent(legacy, "sparse_score_type", "max"));
  ASSIGN_OR_RETURN(const std::optional<int64_t> first, legacy.optional_int("sparse_init_block", kAnyCount));
  if (first.value_or(0) != 0) {
    return Unimplemented("{}: expected 0, found {}; the reference picks no first blocks, so it is not built",
                         legacy.where("sparse_init_block"), *first);
  }
  ASSIGN_OR_RETURN(sparse.layers, ReadLayerList(config, legacy,
                                                {.names = "layer_types",
                                                 .words = {"minimax_m3_sparse", "full_attention"},
                                                 .flags = "sparse_attention_freq",
                                                 .usual = false},
                                                sizes.layers));
  if (std::ranges::find(sparse.layers, true) == sparse.layers.end()) return sparse;
  ASSIGN_OR_RETURN(sparse.picks, ReadBlockPicks(config, legacy));
  if (sparse.picks.indexer.heads != sizes.kv_heads) {
    return Unimplemented("{}: expected num_key_value_heads = {} heads of the indexer, found {}",
                         legacy.where("sparse_num_index_heads"), sizes.kv_heads, sparse.picks.indexer.heads);
  }
  if (sparse.picks.indexer.dim < rotary) {
    return Unimplemented("{}: expected rotary_dim = {} at least, found {}", legacy.where("sparse_index_dim"),
                         rotary, sparse.picks.indexer.dim);
  }
  return sparse;
}

// Checkpoints that transformers 5 saves of the text model alone have other names than the hub's, and gate and up as one.

/// Another place of a linear or norm, `base` instead of the first one's.
void AlsoAt(const std::string& base, WeightRef& ref) {
  WeightSource place = ref.sources[0];
  place.base = base;
  place.written = false;
  ref.sources.push_back(std::move(place));
}

/// Another place of a dense block below `base`.
void AlsoFusedAt(const std::string& base, int64_t width, DenseSpec& dense) {
  DenseSpec fused = FusedDenseAt(base, width, dense.width);
  for (const auto& [from, to] : {std::pair(&fused.gate, &dense.gate), std::pair(&fused.up, &dense.up),
                                 std::pair(&fused.down, &dense.down)}) {
    from->weight.sources[0].written = false;
    to->weight.sources.push_back(from->weight.sources[0]);
  }
}

/// The indexer of a layer, whose tensors are among the attention's.
BlockPicks PicksAt(const std::string& base, const DecoderSizes& sizes, BlockPicks picks) {
  IndexerSpec& indexer = picks.indexer;
  indexer.q = LinearAt(base + ".index_q_proj", int64_t{indexer.heads} * indexer.dim, sizes.width, false);
  indexer.k = LinearAt(base + ".index_k_proj", indexer.dim, sizes.width, false);
  indexer.q_norm = OneBasedNormAt(base + ".index_q_norm", indexer.dim, sizes.eps);
  indexer.k_norm = OneBasedNormAt(base + ".index_k_norm", indexer.dim, sizes.eps);
  AlsoAt(base + ".indexer.q_proj", indexer.q.weight);
  AlsoAt(base + ".indexer.k_proj", indexer.k.weight);
  AlsoAt(base + ".indexer.q_norm", indexer.q_norm->weight);
  AlsoAt(base + ".indexer.k_norm", indexer.k_norm.weight);
  return picks;
}

absl::Status RefuseOthers(const ModelConfig& config) {
  // Where layers have types, those that are built are listed where they are read.
  if (!config.has("layer_types")) RETURN_IF_ERROR(RefuseWindows(config));
  ASSIGN_OR_RETURN(const std::optional<std::string> act, config.optional_string("hidden_act"));
  if (act && *act != "swigluoai") RETURN_IF_ERROR(RequireIfPresent(config, "hidden_act", "silu"));
  RETURN_IF_ERROR(RequireIfPresent(config, "scoring_func", "sigmoid"));
  RETURN_IF_ERROR(RequireIfPresent(config, "qk_norm_type", "per_head"));
  for (const char* key : {"use_qk_norm", "use_gemma_norm", "use_routing_bias"}) {
    RETURN_IF_ERROR(RequireFlag(config, key, true));
  }
  RETURN_IF_ERROR(RequireFlag(config, "attention_bias", false));
  ASSIGN_OR_RETURN(const std::optional<int64_t> shared, config.optional_int("n_shared_experts", kAnyCount));
  if (shared.value_or(1) != 1) {
    return Unimplemented("{}: expected 1, found {}; not built", config.where("n_shared_experts"), *shared);
  }
  ASSIGN_OR_RETURN(const std::optional<double> alpha, config.optional_number("swiglu_alpha"));
  if (alpha.value_or(1.702) == 1.702) return absl::OkStatus();
  return Unimplemented("{}: expected 1.702, found {}; not built", config.where("swiglu_alpha"), *alpha);
}

absl::StatusOr<MoeSettings> ReadM3Experts(const ModelConfig& config, const DecoderSizes& sizes) {
  ASSIGN_OR_RETURN(MoeSettings experts, ReadExperts(config, sizes,
                                                    {.experts = "num_local_experts",
                                                     .top_k = "num_experts_per_tok",
                                                     .width = "intermediate_size"}));
  ASSIGN_OR_RETURN(experts.shared_width, config.required_int("shared_intermediate_size"));
  ASSIGN_OR_RETURN(const double factor, config.required_number("routed_scaling_factor", {0.0, 1e3}));
  experts.routed_scaling_factor = static_cast<float>(factor);
  experts.scores = RouteScores::kSigmoid;
  experts.weighting = RouteWeights::kRenormalized;
  experts.has_selection_bias = true;
  return experts;
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseOthers(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false));
  AttentionSettings attention{.norm = QkNorm::kPerHead};
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDim(config));
  ASSIGN_OR_RETURN(const int64_t rotary, config.required_int("rotary_dim", {2, attention.head_dim}));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, static_cast<int>(rotary)));
  ASSIGN_OR_RETURN(const Sparse sparse, ReadSparse(config, sizes, rotary));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("dense_intermediate_size"));
  ASSIGN_OR_RETURN(const double limit, config.required_number("swiglu_limit", {0.0, 1e6}));
  ASSIGN_OR_RETURN(const MoeSettings experts, ReadM3Experts(config, sizes));
  ASSIGN_OR_RETURN(const std::vector<bool> routed, ReadLayerList(config, config,
                                                                 {.names = "mlp_layer_types",
                                                                  .words = {"sparse", "dense"},
                                                                  .flags = "moe_layer_freq",
                                                                  .usual = true},
                                                                 sizes.layers));
  const auto clamp = static_cast<float>(limit);
  const auto mixer = [&](int64_t layer, const std::string& base) {
    const std::string name = base + ".self_attn";
    GqaSpec gqa = GqaAt(name, sizes, attention);
    gqa.q_norm = OneBasedNormAt(name + ".q_norm", attention.head_dim, sizes.eps);
    gqa.k_norm = OneBasedNormAt(name + ".k_norm", attention.head_dim, sizes.eps);
    if (sparse.layers[static_cast<size_t>(layer)]) gqa.picks = PicksAt(name, sizes, sparse.picks);
    return gqa;
  };
  const auto feed_forward = [&](int64_t layer, const std::string& base) -> FeedForwardSpec {
    if (!routed[static_cast<size_t>(layer)]) {
      DenseSpec dense = DenseAt(base + ".mlp", sizes.width, ffn, false);
      AlsoFusedAt(base + ".mlp", sizes.width, dense);
      return Clamped(std::move(dense), clamp);
    }
    MoeSpec moe = MoeAt(base + ".block_sparse_moe", sizes.width, experts,
                        {.gate = "w1", .up = "w3", .down = "w2", .selection_bias = ""});
    PlaceRouterBelowMlp(base, "gate", moe);
    AlsoAt(base + ".mlp.gate", *moe.router.selection_bias);
    AlsoFusedAt(base + ".mlp.shared_experts", sizes.width, *moe.shared);
    for (DenseSpec& expert : moe.experts) expert = Clamped(std::move(expert), clamp);
    moe.shared = Clamped(*std::move(moe.shared), clamp);
    return moe;
  };
  ModelSpec spec = DecoderOf("minimax_m3_vl_text", sizes, mixer, feed_forward);
  spec.final_norm.weight.sources[0].offset = 1;
  for (LayerSpec& layer : spec.layers) {
    layer.mixer_norm->weight.sources[0].offset = 1;
    layer.feed_forward_norm->weight.sources[0].offset = 1;
  }
  return spec;
}

std::string Tiny() {
  return TinyConfig("minimax_m3_vl_text", R"("intermediate_size": 320, "num_key_value_heads": 2,
  "head_dim": 28, "rotary_dim": 12, "partial_rotary_factor": 0.42857142857, "use_qk_norm": true,
  "qk_norm_type": "per_head", "use_gemma_norm": true, "dense_intermediate_size": 384,
  "shared_intermediate_size": 320, "n_shared_experts": 1, "num_local_experts": 13, "num_experts_per_tok": 3,
  "scoring_func": "sigmoid", "use_routing_bias": true, "routed_scaling_factor": 2.0, "swiglu_alpha": 1.702,
  "swiglu_limit": 1.5, "moe_layer_freq": [0, 1, 1, 1, 1, 1, 1],
  "sparse_attention_config": {"use_sparse_attention": true, "sparse_num_index_heads": 2,
    "sparse_index_dim": 20, "sparse_block_size": 4, "sparse_topk_blocks": 3, "sparse_init_block": 0,
    "sparse_local_block": 1, "sparse_score_type": "max", "sparse_attention_freq": [0, 1, 1, 0, 1, 1, 1]},
  "hidden_act": "silu", "rope_theta": 5000000.0, "tie_word_embeddings": false)");
}

}  // namespace

extern const Family minimax_m3_vl_text;
constinit const Family minimax_m3_vl_text = {"minimax_m3_vl_text", &Spec, &Tiny, "minimax_m3_vl"};

}  // namespace shoal::families
