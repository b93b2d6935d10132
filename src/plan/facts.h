// The input of the planner: plain numbers about nodes and a model. They come from the command line, a cluster
// file, a worker's hello, or the tensors of a checkpoint.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace shoal {

/// What some threads of a machine reach together with shoal's own kernels, as `shoal profile` measured it. G is 1e9; a
/// multiply-add is two operations.
struct ThreadRates {
  int32_t threads = 1;
  double read_gbs = 0;    ///< Bytes of 4-bit weights per second that one row is multiplied with.
  double int8_gops = 0;   ///< Of many rows with 4-bit weights: kManyRows.
  double f32_gflops = 0;  ///< Of many rows with f32 weights.
  double wake_us = 0;  ///< From giving the threads work until all have done it, of work that takes no time.
  /// Bytes per second of f16 keys and values that one row attends to; 0: not measured, as for what follows.
  double attention_gbs = 0;
  double attention_gflops = 0;  ///< Of many rows that attend to the same keys and values.
  double handover_us = 0;       ///< From one thread's telling another, which sleeps, until that one runs.
  double draw_ns = 0;  ///< Of drawing a token at a temperature, on one thread: per id of the vocabulary.
  double int8_few_gops = 0;  ///< As int8_gops, of about kFewRows: what an expert meets of a prompt.

  /// Rows of a chunk of a prompt (PromptChunkRows), and of those that choose the same expert.
  static constexpr int64_t kManyRows = 256;
  static constexpr int64_t kFewRows = 16;
  bool operator==(const ThreadRates&) const = default;
};

/// What a message between two nodes takes, as measured on the network that rows travel.
struct LinkFacts {
  std::string a;  ///< Names of nodes, in either order.
  std::string b;
  double rtt_us = 0;  ///< Of a frame that holds next to nothing, there and back.
  double mbs = 0;     ///< 1e6 bytes per second of large frames; 0: unknown, taken as unlimited.
  bool operator==(const LinkFacts&) const = default;
};

struct NodeFacts {
  std::string name;          ///< Unique in a plan: letters, digits and any of ._-:/@[]
  std::string address;       ///< HOST:PORT; empty: in this process.
  int64_t memory_bytes = 0;  ///< For weights and cache; 0: unknown, taken as unlimited with a note.
  /// Of routed experts so many bytes at most are in memory, the others are read from its disk when they are wanted. 0: all
  /// are in memory.
  int64_t expert_memory_bytes = 0;
  double disk_mbs = 0;  ///< 1e6 bytes per second that its disk reads; 0: not measured.
  double compute = 0;   ///< Relative speed, comparable between nodes (GPU or CPU cores); 0: unknown.
  bool may_hold_layers = true;
  bool may_hold_experts = true;
  std::string device;                ///< For people: "Mac mini M4".
  std::optional<ThreadRates> rates;  ///< Of the threads that it uses; nothing: not measured.
};

struct LayerFacts {
  int64_t bytes = 0;         ///< Weights without routed experts; includes shared experts and router.
  int32_t experts = 0;       ///< Routed experts E; 0 for a dense layer.
  int64_t expert_bytes = 0;  ///< Weights of one routed expert.
  int64_t kv_values_per_position = 0;  ///< Elements cached per position, keys and values together.
  /// Bytes of them in a cache of --kv-dtype q8, with scales; 0: they can't be int8.
  int64_t kv_q8_bytes_per_position = 0;
  int64_t state_bytes = 0;           ///< Of the state of one sequence; 0 if the layer keeps none.
  int64_t int8_multiplies = 0;       ///< Of one row with its quantized weights, without routed experts.
  int64_t f32_multiplies = 0;        ///< Of one row with all else: floats, the router, recurrent states.
  int64_t expert_multiplies = 0;     ///< Of one row with one routed expert.
  int64_t attention_multiplies = 0;  ///< Of one row with one cached position.
  /// A row attends to so many positions at most; 0: to all before it. Where there are more, it picks by values of each of
  /// them, which are some of kv_values_per_position, and by so many multiplications.
  int64_t attended_max = 0;
  int64_t index_values_per_position = 0;
  int64_t index_multiplies = 0;
  /// What the feed-forward of a dense layer, or the shared expert of another, has of the above; segments of it may be on
  /// other nodes.
  int64_t feed_forward_bytes = 0;
  int64_t feed_forward_int8 = 0;   ///< Of int8_multiplies.
  int64_t feed_forward_f32 = 0;    ///< Of f32_multiplies.
  int64_t feed_forward_width = 0;  ///< F.
  int32_t segments_max = 0;        ///< The most segments; below 2: it can't be cut.
};

/// Bytes of segment `index` of `count`, of a feed-forward of so many: as if any cut were possible. They sum up exactly.
constexpr int64_t SegmentBytes(int64_t feed_forward_bytes, int32_t count, int32_t index) {
  return feed_forward_bytes * (index + 1) / count - feed_forward_bytes * index / count;
}

/// What multi-token prediction adds to the node of the last stage, where a plan uses it. A node that is not of the
/// first stage then holds the embedding, too.
struct MtpFacts {
  int64_t bytes = 0;                   ///< Weights, routed experts included.
  int64_t kv_values_per_position = 0;  ///< As LayerFacts.
  int64_t kv_q8_bytes_per_position = 0;
};

struct ModelFacts {
  std::string name;             ///< As users write it: "mlx-community/Qwen3-1.7B-8bit".
  std::string hash;             ///< Of config and tensor table; empty: unknown.
  int64_t hidden = 0;           ///< D.
  int64_t row_values = 0;       ///< Numbers of a row between stages; 0: D.
  int32_t top_k = 0;            ///< Experts per token; 0 for a dense model.
  int64_t carried_values = 0;   ///< Those of row_values that are not rounded: f32.
  int64_t embed_bytes = 0;      ///< Held by the node of the first stage.
  int64_t head_bytes = 0;       ///< Held by the node of the last stage.
  int64_t head_multiplies = 0;  ///< Of one row with the head.
  bool tied_head = false;       ///< The head is the embedding; a node with both holds embed_bytes only.
  std::vector<LayerFacts> layers;
  std::optional<MtpFacts> mtp;  ///< Nothing: the checkpoint has no such head.

  int64_t row_width() const { return row_values > 0 ? row_values : hidden; }
  /// Bytes of the embedding on a last stage that is not the first, for multi-token prediction. A tied head is there
  /// anyway.
  int64_t mtp_embed_bytes() const { return tied_head ? 0 : embed_bytes; }
  bool has_experts() const {
    return std::ranges::any_of(layers, [](const LayerFacts& layer) { return layer.experts > 0; });
  }
  /// Bytes of the states of one sequence in all layers.
  int64_t state_bytes() const {
    int64_t sum = 0;
    for (const LayerFacts& layer : layers) sum += layer.state_bytes;
    return sum;
  }
};

}  // namespace shoal
