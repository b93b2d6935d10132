// What a step of a model must at least read and multiply, whoever computes it: what benchmarks divide by the
// bounds of a machine.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "compute/compute_context.h"
#include "loading/resolved_weights.h"
#include "numeric/dtype.h"

namespace shoal {

/// The size of a step, or of several together.
struct StepSize {
  int64_t steps = 1;
  int64_t rows = 0;     ///< Tokens computed.
  int64_t sampled = 0;  ///< Rows of which the logits are wanted.
  int64_t cached =
      0;  ///< Positions of which keys and values are read: per step and sequence, those before and of it.
  int64_t states = 0;    ///< States of sequences that are read and written: one per step and sequence.
  int64_t attended = 0;  ///< Positions that rows attend to, summed over the rows.
  double experts = 0;    ///< Distinct routed experts whose weights are read, summed over steps and layers.
};

/// Bytes and operations. A multiply-add is two operations.
struct StepWork {
  double weight_bytes = 0;   ///< Packed, each weight once a step; of routed experts those of StepSize.
  double kv_bytes = 0;       ///< Keys and values read, states read and written, once a step and sequence.
  double int8_ops = 0;       ///< Products of quantized weights with 8-bit activations.
  double f32_ops = 0;        ///< All other products, attention's excepted.
  double attention_ops = 0;  ///< Scores and values, f32.

  double bytes() const { return weight_bytes + kv_bytes; }
  double all_f32_ops() const { return f32_ops + attention_ops; }
  StepWork& operator+=(const StepWork& other);
};

/// The parts of a step that differ in how many rows meet a weight once it is read.
enum class WorkPart : uint8_t {
  kLayers,     ///< Embedding, and all weights of layers but routed experts: all rows.
  kExperts,    ///< Routed experts: the rows that chose them.
  kAttention,  ///< Keys and values, not weights.
  kHead,       ///< Final norm and head: the rows that are sampled.
};
inline constexpr int kWorkParts = 4;
using StepWorkParts = std::array<StepWork, kWorkParts>;

/// "layers", "experts", "attention", "head".
std::string_view WorkPartName(WorkPart part);
/// All parts together.
StepWork SumOf(const StepWorkParts& parts);

/// What a machine can do at most, as measured.
struct MachineRates {
  double read_gbs = 0;
  double int8_gops = 0;
  double f32_gflops = 0;
};

/// The roofline time of some work, and what bounds it.
struct RooflineTime {
  double seconds = 0;
  std::string_view by;  ///< "read" | "multiply"
};
/// Reading and multiplying overlap at best, so the longer of the two; integer and float products share their
/// units, so the sum of those.
RooflineTime RooflineTimeOf(const StepWork& work, const MachineRates& rates);
/// The same per phase, added up: phases follow one another, so while one of them only reads, no other
/// multiplies. Never below the roofline time of their sum. `by`: what bounds the larger share of the time.
RooflineTime RooflineTimePerPhase(const StepWorkParts& parts, const MachineRates& rates);

class WorkModel {
 public:
  /// `kv`: type of the cache's elements.
  WorkModel(const ResolvedWeights& weights, ActivationMode activations, DType kv);

  StepWorkParts of(const StepSize& size) const;
  /// Routed experts of all layers.
  int64_t experts() const { return experts_; }
  /// Layers with routed experts.
  int64_t moe_layers() const { return moe_layers_; }

 private:
  /// Products with some weights, per row that meets them.
  struct Products {
    int64_t bytes = 0;
    int64_t int8_multiplies = 0;
    int64_t f32_multiplies = 0;
  };

  Products every_row_;           ///< All layers but routed experts.
  Products sampled_row_;         ///< Final norm and head.
  double expert_bytes_ = 0;      ///< Of one routed expert, on average.
  Products called_;              ///< Routed experts of a row: products alone, bytes are StepSize's.
  int64_t embedding_bytes_ = 0;  ///< Of one row of the table.
  int64_t experts_ = 0;
  int64_t experts_per_row_ = 0;
  int64_t moe_layers_ = 0;
  int64_t kv_bytes_ = 0;              ///< Of one position, all layers.
  int64_t state_bytes_ = 0;           ///< Of one sequence, all layers.
  int64_t attention_multiplies_ = 0;  ///< Of one row and position, all layers.
};

}  // namespace shoal
