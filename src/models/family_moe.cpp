#include "models/family_moe.h"

#include <algorithm>
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

}  // namespace

absl::StatusOr<ExpertParts> ReadExperts(const ModelConfig& config, const DecoderSizes& sizes,
                                        const ExpertKeys& keys) {
  ExpertParts parts;
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

MoeSpec MoeAt(const std::string& base, int64_t width, const ExpertParts& parts, const ExpertNames& names) {
  MoeSpec moe;
  moe.top_k = static_cast<int>(parts.top_k);
  moe.router = {.weight = MatrixAt(base + ".gate", parts.experts, width), .renormalize = parts.renormalize};
  const std::string stacks = base + ".switch_mlp.";
  for (int64_t e = 0; e < parts.experts; ++e) {
    const std::string expert = fmt::format("{}.experts.{}.", base, e);
    const auto linear = [&](const char* name, const char* stack, int64_t rows, int64_t cols) {
      return ExpertLinear(expert + name, stacks + stack, e, parts.experts, rows, cols);
    };
    moe.experts.push_back({.width = parts.width,
                           .gate = linear(names.gate, "gate_proj", parts.width, width),
                           .up = linear(names.up, "up_proj", parts.width, width),
                           .down = linear(names.down, "down_proj", width, parts.width)});
  }
  return moe;
}

}  // namespace shoal
