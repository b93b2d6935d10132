// The input of the planner: plain numbers about nodes and a model. They come from the command line, a cluster
// file, a worker's hello, or the tensors of a checkpoint.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace shoal {

struct NodeFacts {
  std::string name;          ///< Unique in a plan: letters, digits and any of ._-:/@[]
  std::string address;       ///< HOST:PORT; empty: in this process.
  int64_t memory_bytes = 0;  ///< For weights and cache; 0: unknown, taken as unlimited with a note.
  double compute = 0;        ///< Relative speed, comparable between nodes (GPU or CPU cores); 0: unknown.
  bool may_hold_layers = true;
  bool may_hold_experts = true;
  std::string device;  ///< For people: "Mac mini M4".
};

struct LayerFacts {
  int64_t bytes = 0;         ///< Weights without routed experts; includes shared experts and router.
  int32_t experts = 0;       ///< Routed experts E; 0 for a dense layer.
  int64_t expert_bytes = 0;  ///< Weights of one routed expert.
  int64_t kv_values_per_position = 0;  ///< Elements cached per position, keys and values together.
  int64_t state_bytes = 0;             ///< Of the state of one sequence; 0 if the layer keeps none.
};

struct ModelFacts {
  std::string name;         ///< As users write it: "mlx-community/Qwen3-1.7B-8bit".
  std::string hash;         ///< Of config and tensor table; empty: unknown.
  int64_t hidden = 0;       ///< D.
  int32_t top_k = 0;        ///< Experts per token; 0 for a dense model.
  int64_t embed_bytes = 0;  ///< Held by the node of the first stage.
  int64_t head_bytes = 0;   ///< Held by the node of the last stage.
  bool tied_head = false;   ///< The head is the embedding; a node with both holds embed_bytes only.
  std::vector<LayerFacts> layers;

  /// Bytes of the states of one sequence in all layers.
  int64_t state_bytes() const {
    int64_t sum = 0;
    for (const LayerFacts& layer : layers) sum += layer.state_bytes;
    return sum;
  }
};

}  // namespace shoal
