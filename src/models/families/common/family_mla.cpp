#include "models/families/common/family_mla.h"

#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_moe.h"

namespace shoal {
namespace {

constexpr float kLatentEps = 1e-6f;  // Of the latents' and indexers' norms, whatever rms_norm_eps says.
constexpr int64_t kPicksMax = int64_t{1} << 20;

struct MlaSettings {
  DecoderSizes sizes;
  LatentNames names = LatentNames::kSplit;
  std::optional<int64_t> q_latent;
  int64_t latent = 0;
  int64_t nope = 0, rope_dim = 0, value = 0;
  RopeSpec rope;
  double scale = 0;
};

/// Matrix h of MLX's stack.
WeightSource StackOf(std::string base, const MlaSettings& parts, int64_t h) {
  return {.base = std::move(base),
          .stack = parts.sizes.heads,
          .index = h,
          .written = parts.names == LatentNames::kSplit};
}

/// Rows of what kv_b_proj holds of head h, or matrix h of MLX's stack.
WeightRef ValueMatrix(const std::string& base, const MlaSettings& parts, int64_t h) {
  const int64_t per_head = parts.nope + parts.value;
  const int64_t begin = h * per_head + parts.nope;
  return {.shape = {parts.value, parts.latent},
          .sources = {{.base = base + ".kv_b_proj",
                       .rows = {begin, begin + parts.value},
                       .stored_rows = parts.sizes.heads * per_head},
                      StackOf(base + ".unembed_out", parts, h)}};
}

/// The transpose of what kv_b_proj holds.
WeightRef KeyMatrix(const std::string& base, const MlaSettings& parts, int64_t h) {
  const int64_t per_head = parts.nope + parts.value;
  WeightSource hub{.base = base + ".kv_b_proj"};
  hub.strided = WeightSource::StridedView{.stored_shape = {parts.sizes.heads * per_head, parts.latent},
                                          .offset = h * per_head * parts.latent,
                                          .row_stride = 1,
                                          .col_stride = parts.latent};
  return {.shape = {parts.latent, parts.nope}, .sources = {hub, StackOf(base + ".embed_q", parts, h)}};
}

MlaSpec MlaAt(const std::string& base, const MlaSettings& parts) {
  const DecoderSizes& sizes = parts.sizes;
  const int64_t q_rows = sizes.heads * (parts.nope + parts.rope_dim);
  MlaSpec mla;
  mla.heads = sizes.heads;
  mla.nope_dim = static_cast<int>(parts.nope);
  mla.rope_dim = static_cast<int>(parts.rope_dim);
  mla.value_dim = static_cast<int>(parts.value);
  mla.latent = parts.latent;
  if (parts.q_latent) {
    mla.q_a = LinearAt(base + ".q_a_proj", *parts.q_latent, sizes.width, false);
    mla.q_norm = NormAt(base + ".q_a_layernorm", *parts.q_latent, kLatentEps);
    mla.q = LinearAt(base + ".q_b_proj", q_rows, *parts.q_latent, false);
  } else {
    mla.q = LinearAt(base + ".q_proj", q_rows, sizes.width, false);
  }
  mla.kv_a = LinearAt(base + ".kv_a_proj_with_mqa", parts.latent + parts.rope_dim, sizes.width, false);
  mla.kv_norm = NormAt(base + ".kv_a_layernorm", parts.latent, kLatentEps);
  for (int64_t h = 0; h < sizes.heads; ++h) {
    mla.keys.push_back({.weight = KeyMatrix(base, parts, h), .bias = std::nullopt});
    mla.values.push_back({.weight = ValueMatrix(base, parts, h), .bias = std::nullopt});
  }
  mla.o = LinearAt(base + ".o_proj", sizes.width, sizes.heads * parts.value, false);
  mla.rope = parts.rope;
  mla.scale = parts.scale;
  return mla;
}

}  // namespace

absl::StatusOr<MakeMixer> ReadLatentAttention(const ModelConfig& config, const DecoderSizes& sizes,
                                              LatentNames names, const std::string& part) {
  ASSIGN_OR_RETURN(const bool bias, ReadLateFlag(config, "attention_bias"));
  if (bias) {
    return Unimplemented("{}: expected false, found true; latent attention with biases is not built",
                         config.where("attention_bias"));
  }
  constexpr Bounds<int64_t> kDims{1, 1 << 16};
  MlaSettings parts{.sizes = sizes, .names = names};
  ASSIGN_OR_RETURN(parts.q_latent, config.optional_int("q_lora_rank"));  // null: queries have no latent.
  ASSIGN_OR_RETURN(parts.latent, config.required_int("kv_lora_rank", kDims));
  ASSIGN_OR_RETURN(parts.nope, config.required_int("qk_nope_head_dim", kDims));
  ASSIGN_OR_RETURN(parts.rope_dim, config.required_int("qk_rope_head_dim", {2, 1 << 16}));
  ASSIGN_OR_RETURN(parts.value, config.required_int("v_head_dim", kDims));
  if (parts.rope_dim % 2 != 0) {
    return InvalidArgument("{}: expected an even number (rope rotates pairs), found {}",
                           config.where("qk_rope_head_dim"), parts.rope_dim);
  }
  ASSIGN_OR_RETURN(parts.rope, ReadRope(config, static_cast<int>(parts.rope_dim)));
  ASSIGN_OR_RETURN(const std::optional<bool> interleaved, config.optional_bool("rope_interleave"));
  parts.rope.pairing = interleaved.value_or(true) ? RopePairing::kInterleaved : RopePairing::kHalfSplit;
  ASSIGN_OR_RETURN(const double factor, ReadYarnScoreFactor(config));
  parts.scale = factor / std::sqrt(static_cast<double>(parts.nope + parts.rope_dim));
  return MakeMixer([parts, part](int64_t, const std::string& base) { return MlaAt(base + part, parts); });
}

absl::StatusOr<MakePicks> ReadTopPicks(const ModelConfig& config, RopePairing pairing) {
  ASSIGN_OR_RETURN(const int64_t width, config.required_int("hidden_size"));
  ASSIGN_OR_RETURN(const int64_t q_latent, config.required_int("q_lora_rank"));
  ASSIGN_OR_RETURN(const int64_t rotated, config.required_int("qk_rope_head_dim", {2, 1 << 16}));
  ASSIGN_OR_RETURN(const int64_t count, config.required_int("index_topk", {1, kPicksMax}));
  ASSIGN_OR_RETURN(const int64_t heads, config.required_int("index_n_heads", {1, 1 << 12}));
  ASSIGN_OR_RETURN(const int64_t dim, config.required_int("index_head_dim", {1, 1 << 16}));
  if (dim < rotated) {
    return InvalidArgument("{}: expected qk_rope_head_dim = {} at least, which are rotated, found {}",
                           config.where("index_head_dim"), rotated, dim);
  }
  return MakePicks([=](int64_t, const std::string& base) {
    const std::string name = base + ".self_attn.indexer";
    IndexerSpec indexer{.heads = static_cast<int>(heads),
                        .dim = static_cast<int>(dim),
                        .q = LinearAt(name + ".wq_b", heads * dim, q_latent, false),
                        .k = LinearAt(name + ".wk", dim, width, false),
                        .q_norm = std::nullopt,
                        .k_norm = NormAt(name + ".k_norm", dim, kLatentEps),
                        .weights = LinearAt(name + ".weights_proj", heads, width, false),
                        .pairing = pairing};
    indexer.k_norm.centered = true;
    indexer.k_norm.bias = indexer.k_norm.weight;
    indexer.k_norm.bias->sources[0].suffix = "bias";
    return TopPicks{.count = count, .indexer = std::move(indexer)};
  });
}

absl::StatusOr<ModelSpec> ReadDeepseekV3(const ModelConfig& config, std::string model_type,
                                         const MakePicks& picks) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  RETURN_IF_ERROR(RefuseWindows(config));
  RETURN_IF_ERROR(RequireIfPresent(config, "scoring_func", "sigmoid"));
  RETURN_IF_ERROR(RequireIfPresent(config, "topk_method", "noaux_tc"));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config));
  ASSIGN_OR_RETURN(const MakeMixer whole, ReadLatentAttention(config, sizes, LatentNames::kSplit));
  const MakeMixer attention = [&](int64_t layer, const std::string& base) {
    MixerSpec mixer = whole(layer, base);
    if (picks) std::get<MlaSpec>(mixer).picks = picks(layer, base);
    return mixer;
  };
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(const MoeSettings experts, ReadDeepseekV3Experts(config, sizes));
  ASSIGN_OR_RETURN(const std::vector<bool> sparse, ReadMlpLayerTypes(config, sizes.layers));
  ModelSpec spec = DecoderOf(std::move(model_type), sizes, attention, UsualMoe(sizes, experts, sparse, ffn));
  RETURN_IF_ERROR(AddMtp(config, sizes, attention, MoeEverywhere(sizes, experts), spec));
  return spec;
}

}  // namespace shoal
