#include "models/families/common/family_moe.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/status.h"

namespace shoal {
namespace {

LinearSpec ExpertLinear(const std::string& alone, const std::string& stacked, int64_t expert, int64_t experts,
                        int64_t rows, int64_t cols) {
  LinearSpec linear = LinearAt(alone, rows, cols, false);
  linear.weight.sources.push_back({.base = stacked, .stack = experts, .index = expert});
  return linear;
}

/// Where gate, up and down of an expert are in two stacks below `base`: gate_up_proj [E, 2F, D], gate first, and
/// down_proj [E, D, F].
std::array<WeightSource, 3> FusedPlaces(const std::string& base, const MoeSettings& parts, int64_t expert) {
  std::array<WeightSource, 3> places;
  for (WeightSource& place : places) {
    place = {
        .base = base, .suffix = "gate_up_proj", .stack = parts.experts, .index = expert, .written = false};
    place.stored_rows = 2 * parts.width;
  }
  places[0].rows = {0, parts.width};
  places[1].rows = {parts.width, 2 * parts.width};
  places[2].suffix = "down_proj";
  places[2].stored_rows = 0;
  return places;
}

/// transformers 5 calls block_sparse_moe mlp.
std::string FusedBase(const std::string& base) {
  constexpr std::string_view kOlder = ".block_sparse_moe";
  if (!base.ends_with(kOlder)) return base + ".experts";
  return base.substr(0, base.size() - kOlder.size()) + ".mlp.experts";
}

}  // namespace

absl::StatusOr<MoeSettings> ReadExperts(const ModelConfig& config, const DecoderSizes& sizes,
                                        const ExpertKeys& keys) {
  MoeSettings parts;
  ASSIGN_OR_RETURN(parts.experts, config.required_int(keys.experts, {1, 4096}));
  ASSIGN_OR_RETURN(parts.top_k, config.required_int(keys.top_k, {1, parts.experts}));
  ASSIGN_OR_RETURN(parts.width, config.required_int(keys.width));
  constexpr int64_t kAllExpertsMax = 1 << 18;  // 384 experts in 61 layers are 23,424.
  if (parts.experts * sizes.layers > kAllExpertsMax) {
    return InvalidArgument("{}: {} experts in {} layers exceed {} in all", config.where(keys.experts),
                           parts.experts, sizes.layers, kAllExpertsMax);
  }
  return parts;
}

absl::StatusOr<MoeSettings> ReadDeepseekExperts(const ModelConfig& config, const DecoderSizes& sizes) {
  ASSIGN_OR_RETURN(MoeSettings parts, ReadExperts(config, sizes, {.experts = "n_routed_experts"}));
  ASSIGN_OR_RETURN(const std::optional<int64_t> shared, config.optional_int("n_shared_experts", {0, 1024}));
  parts.shared_width = shared.value_or(0) * parts.width;
  ASSIGN_OR_RETURN(const std::optional<double> factor,
                   config.optional_number("routed_scaling_factor", {0.0, 1e3}));
  parts.routed_scaling_factor = static_cast<float>(factor.value_or(1.0));
  parts.float_router = true;
  return parts;
}

absl::StatusOr<MoeSettings> ReadDeepseekV3Experts(const ModelConfig& config, const DecoderSizes& sizes) {
  ASSIGN_OR_RETURN(MoeSettings parts, ReadDeepseekExperts(config, sizes));
  RETURN_IF_ERROR(ReadDeepseekV3Routing(config, parts));
  return parts;
}

absl::Status ReadDeepseekV3Routing(const ModelConfig& config, MoeSettings& parts) {
  parts.scores = RouteScores::kSigmoid;
  parts.has_selection_bias = true;
  parts.float_router = true;
  ASSIGN_OR_RETURN(parts.weighting, ReadWeighting(config));
  ASSIGN_OR_RETURN(parts.groups, ReadGroups(config, parts));
  parts.groups.by_top_two = true;
  return absl::OkStatus();
}

absl::StatusOr<RouteGroups> ReadGroups(const ModelConfig& config, const MoeSettings& parts) {
  RouteGroups groups;
  ASSIGN_OR_RETURN(groups.count, config.required_int("n_group", {1, parts.experts}));
  ASSIGN_OR_RETURN(groups.topk_group, config.required_int("topk_group", {1, groups.count}));
  if (parts.experts % groups.count != 0) {
    return InvalidArgument("{}: expected a divisor of {} experts, found {}", config.where("n_group"),
                           parts.experts, groups.count);
  }
  if (parts.experts / groups.count * groups.topk_group < parts.top_k) {
    return InvalidArgument("{}: expected groups that hold {} experts, found {} of {}",
                           config.where("topk_group"), parts.top_k, groups.topk_group,
                           parts.experts / groups.count);
  }
  return groups;
}

absl::StatusOr<RouteWeights> ReadWeighting(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const bool renormalize, config.required_bool("norm_topk_prob"));
  return renormalize ? RouteWeights::kRenormalized : RouteWeights::kAsIs;
}

absl::Status RequireIfPresent(const ModelConfig& config, const char* key, std::string_view expected) {
  ASSIGN_OR_RETURN(const std::optional<std::string> value, config.optional_string(key));
  if (!value || *value == expected) return absl::OkStatus();
  return Unimplemented("{}: expected \"{}\", found \"{}\"; nothing else is built", config.where(key),
                       expected, *value);
}

absl::StatusOr<std::vector<bool>> ReadLayersAfterDense(const ModelConfig& config, int64_t layers) {
  ASSIGN_OR_RETURN(const int64_t dense, config.required_int("first_k_dense_replace", {0, layers}));
  ASSIGN_OR_RETURN(const std::optional<int64_t> every, config.optional_int("moe_layer_freq"));
  std::vector<bool> sparse(static_cast<size_t>(layers));
  for (int64_t i = dense; i < layers; ++i) sparse[static_cast<size_t>(i)] = i % every.value_or(1) == 0;
  return sparse;
}

absl::StatusOr<std::vector<bool>> ReadLayerKinds(const ModelConfig& config, const char* key,
                                                 const std::array<std::string_view, 2>& words,
                                                 int64_t layers) {
  ASSIGN_OR_RETURN(const std::vector<std::string> types, config.string_list(key));
  if (std::ssize(types) != layers) {
    return InvalidArgument("{}: expected one for each of {} layers, found {}", config.where(key), layers,
                           types.size());
  }
  std::vector<bool> first;
  for (const std::string& type : types) {
    if (type != words[0] && type != words[1]) {
      return Unimplemented("{}: expected \"{}\" or \"{}\", found \"{}\"", config.where(key), words[0],
                           words[1], type);
    }
    first.push_back(type == words[0]);
  }
  return first;
}

absl::StatusOr<std::vector<bool>> ReadMlpLayerTypes(const ModelConfig& config, int64_t layers) {
  constexpr char kKey[] = "mlp_layer_types";
  ASSIGN_OR_RETURN(const std::vector<std::string> types, config.string_list(kKey));
  if (types.empty()) return ReadLayersAfterDense(config, layers);
  return ReadLayerKinds(config, kKey, {"sparse", "dense"}, layers);
}

absl::StatusOr<std::vector<bool>> ReadSparseLayers(const ModelConfig& config, int64_t layers) {
  ASSIGN_OR_RETURN(const int64_t step, config.required_int("decoder_sparse_step"));
  if (!config.has("mlp_only_layers")) {
    return InvalidArgument("{}: expected a list of layers ([] for none), found nothing",
                           config.where("mlp_only_layers"));
  }
  ASSIGN_OR_RETURN(const std::vector<int64_t> dense, config.int_list("mlp_only_layers", {0, layers - 1}));
  std::vector<bool> sparse(static_cast<size_t>(layers));
  for (int64_t i = 0; i < layers; ++i) {
    sparse[static_cast<size_t>(i)] =
        (i + 1) % step == 0 && std::find(dense.begin(), dense.end(), i) == dense.end();
  }
  return sparse;
}

MoeSpec MoeAt(const std::string& base, int64_t width, const MoeSettings& parts, const ExpertNames& names) {
  MoeSpec moe;
  moe.top_k = static_cast<int>(parts.top_k);
  moe.router = {.linear = LinearAt(base + ".gate", parts.experts, width, false),
                .scores = parts.scores,
                .selection_bias = std::nullopt,
                .groups = parts.groups,
                .weighting = parts.weighting,
                .routed_scaling_factor = parts.routed_scaling_factor,
                .kept_float = parts.float_router};
  if (parts.has_selection_bias) {
    moe.router.selection_bias =
        WeightRef{.shape = {parts.experts},
                  .sources = {{.base = base + names.selection_bias, .suffix = "e_score_correction_bias"}}};
  }
  if (parts.shared_width > 0) {
    moe.shared = DenseAt(base + ".shared_experts", width, parts.shared_width, false);
  }
  const std::string stacks = base + names.stacks + ".";
  for (int64_t e = 0; e < parts.experts; ++e) {
    const std::string expert = fmt::format("{}.experts.{}.", base, e);
    std::array<WeightSource, 3> fused = FusedPlaces(FusedBase(base), parts, e);
    size_t next = 0;
    const auto linear = [&](const char* name, const char* stack, int64_t rows, int64_t cols) {
      LinearSpec made = ExpertLinear(expert + name, stacks + stack, e, parts.experts, rows, cols);
      made.weight.sources.push_back(std::move(fused[next++]));
      return made;
    };
    moe.experts.push_back({.width = parts.width,
                           .gate = linear(names.gate, "gate_proj", parts.width, width),
                           .up = linear(names.up, "up_proj", parts.width, width),
                           .down = linear(names.down, "down_proj", width, parts.width)});
  }
  return moe;
}

void FuseExperts(const std::string& base, const MoeSettings& parts, MoeSpec& moe) {
  for (int64_t e = 0; e < parts.experts; ++e) {
    DenseSpec& expert = moe.experts[static_cast<size_t>(e)];
    std::array<WeightSource, 3> fused = FusedPlaces(base + ".experts", parts, e);
    expert.gate.weight.sources[0] = std::move(fused[0]);
    expert.up.weight.sources[0] = std::move(fused[1]);
    expert.down.weight.sources[0] = std::move(fused[2]);
    for (LinearSpec* linear : {&expert.gate, &expert.up, &expert.down}) linear->weight.sources.resize(2);
  }
}

void FuseTransposedExperts(const std::string& base, int64_t width, MoeSpec& moe) {
  const auto experts = std::ssize(moe.experts);
  for (int64_t e = 0; e < experts; ++e) {
    // Row n of a weight is column first + n of the expert's stored matrix [rows, cols].
    const auto set = [&](LinearSpec& linear, const char* tensor, std::array<int64_t, 2> shape,
                         int64_t first) {
      WeightSource hub{
          .base = base + ".experts", .suffix = tensor, .stack = experts, .index = e, .written = false};
      hub.strided = WeightSource::StridedView{.stored_shape = {experts, shape[0], shape[1]},
                                              .offset = first,
                                              .row_stride = 1,
                                              .col_stride = shape[1]};
      linear.weight.sources[0] = std::move(hub);
    };
    DenseSpec& expert = moe.experts[static_cast<size_t>(e)];
    set(expert.gate, "gate_up_proj", {width, 2 * expert.width}, 0);
    set(expert.up, "gate_up_proj", {width, 2 * expert.width}, expert.width);
    set(expert.down, "down_proj", {expert.width, width}, 0);
  }
}

MakeFeedForward MoeEverywhere(const DecoderSizes& sizes, const MoeSettings& parts) {
  return [width = sizes.width, parts](int64_t, const std::string& base) -> FeedForwardSpec {
    return MoeAt(base + ".mlp", width, parts);
  };
}

MakeFeedForward UsualMoe(const DecoderSizes& sizes, const MoeSettings& parts, std::vector<bool> sparse,
                         int64_t ffn) {
  return [width = sizes.width, parts, sparse = std::move(sparse), ffn](
             int64_t layer, const std::string& base) -> FeedForwardSpec {
    if (!sparse[static_cast<size_t>(layer)]) return DenseAt(base + ".mlp", width, ffn, false);
    return MoeAt(base + ".mlp", width, parts);
  };
}

}  // namespace shoal
