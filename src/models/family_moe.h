// Parts that families with experts share: reading how experts are configured, and naming their tensors.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/family_parts.h"
#include "models/spec.h"
#include "weights/config.h"

namespace shoal {

/// What a config says of a layer's experts, whatever it calls them.
struct ExpertParts {
  int64_t experts = 0;
  int64_t top_k = 0;
  int64_t width = 0;  ///< Hidden width of an expert.
  bool renormalize = false;
};

/// The keys of a family's config.
struct ExpertKeys {
  const char* experts = "num_experts";
  const char* top_k = "num_experts_per_tok";
  const char* width = "moe_intermediate_size";
};
/// All but `renormalize`. Bounds the experts of a model, and so the memory of its spec.
absl::StatusOr<ExpertParts> ReadExperts(const ModelConfig& config, const DecoderSizes& sizes,
                                        const ExpertKeys& keys = {});

/// Which layers have experts: every decoder_sparse_step-th, counted from layer decoder_sparse_step - 1, but
/// for those of mlp_only_layers.
absl::StatusOr<std::vector<bool>> ReadSparseLayers(const ModelConfig& config, int64_t layers);

/// Names below `<base>.experts.<i>`; MLX's stacks are `<base>.switch_mlp.<gate_proj|up_proj|down_proj>` for
/// every family.
struct ExpertNames {
  const char* gate = "gate_proj";
  const char* up = "up_proj";
  const char* down = "down_proj";
};

/// The router `<base>.gate`, and experts alone as on the hub or stacked as in MLX folders.
MoeSpec MoeAt(const std::string& base, int64_t width, const ExpertParts& parts,
              const ExpertNames& names = {});

}  // namespace shoal
