// Facts for the tests of plan/: small, and easy to add up by hand.
#pragma once

#include <string>
#include <vector>

#include "plan/facts.h"

namespace shoal {

inline constexpr int64_t kMiB = 1 << 20;

/// `layers` dense layers of 10 MiB, 1024 cached values per position, embedding 4 MiB, head 6 MiB, D = 128.
inline ModelFacts DenseModel(int layers) {
  ModelFacts model{
      .name = "dense", .hash = "d1", .hidden = 128, .embed_bytes = 4 * kMiB, .head_bytes = 6 * kMiB};
  model.layers.assign(static_cast<size_t>(layers),
                      {.bytes = 10 * kMiB, .kv_values_per_position = 1024, .kv_q8_bytes_per_position = 1056});
  return model;
}

/// DenseModel with `experts` experts of 1 MiB each in every layer except the first; each token uses 4.
inline ModelFacts MoeModel(int layers, int experts) {
  ModelFacts model = DenseModel(layers);
  model.name = "moe";
  model.hash = "m1";
  model.top_k = 4;
  for (size_t l = 1; l < model.layers.size(); ++l) {
    model.layers[l].experts = experts;
    model.layers[l].expert_bytes = kMiB;
  }
  return model;
}

/// Nodes n0 (in this process), n1, ... with these memories (0: unknown) and computes (missing: unknown).
inline std::vector<NodeFacts> Nodes(const std::vector<int64_t>& memories,
                                    const std::vector<double>& computes = {}) {
  std::vector<NodeFacts> nodes;
  for (size_t i = 0; i < memories.size(); ++i) {
    NodeFacts node{.name = "n" + std::to_string(i), .memory_bytes = memories[i]};
    if (i > 0) node.address = "n" + std::to_string(i) + ".local:50051";
    if (i < computes.size()) node.compute = computes[i];
    nodes.push_back(node);
  }
  return nodes;
}

}  // namespace shoal
