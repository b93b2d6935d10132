// The least that a step of a model has to read and multiply, whatever computes it. Benchmarks divide it by
// the peak rates of a machine.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "compute/compute_context.h"
#include "loading/resolved_weights.h"
#include "numeric/dtype.h"

namespace shoal {

/// The size of a step, or of several together.
struct StepSize {
  int64_t steps = 1;
  int64_t rows = 0;     ///< Tokens computed.
  int64_t sampled = 0;  ///< Rows whose logits are computed.
  /// Positions whose keys and values are read: per step and sequence, those before the step and its own.
  int64_t cached = 0;
  int64_t states = 0;    ///< States that are read and written: one per step and sequence.
  int64_t attended = 0;  ///< Positions that rows attend to, summed over the rows.
  double experts = 0;    ///< Distinct routed experts whose weights are read, summed over steps and layers.
};

/// Bytes and operations. A multiply-add is two operations.
struct StepWork {
  double weight_bytes = 0;   ///< Packed, each weight once per step; StepSize::experts routed experts.
  double kv_bytes = 0;       ///< Keys and values read, states read and written, once per step and sequence.
  double int8_ops = 0;       ///< Products of quantized weights with 8-bit activations.
  double f32_ops = 0;        ///< All other products, except those of attention.
  double attention_ops = 0;  ///< Scores and values, f32.

  double bytes() const { return weight_bytes + kv_bytes; }
  double all_f32_ops() const { return f32_ops + attention_ops; }
  StepWork& operator+=(const StepWork& other);
};

/// The phases of a step. They differ in how many rows each weight is multiplied by once it is read.
enum class WorkPhase : uint8_t {
  kLayers,     ///< Embedding, and all weights of layers except routed experts: all rows.
  kExperts,    ///< Routed experts: the rows that chose them.
  kAttention,  ///< Keys and values, no weights.
  kHead,       ///< Final norm and head: the sampled rows.
};
inline constexpr int kWorkPhases = 4;
using WorkPerPhase = std::array<StepWork, kWorkPhases>;

/// "layers", "experts", "attention", "head".
std::string_view WorkPhaseName(WorkPhase phase);
/// The sum over all phases.
StepWork SumOf(const WorkPerPhase& phases);

/// The measured peak rates of a machine.
struct MachineRates {
  double read_gbs = 0;
  double int8_gops = 0;
  double f32_gflops = 0;
};

/// The shortest time that some work can take, and what bounds it.
struct RooflineTime {
  double seconds = 0;
  std::string_view by;  ///< "read" | "multiply"
};
/// The longer of reading and multiplying, which overlap at best. Multiplying is the sum over integer and
/// float products, which share their units.
RooflineTime RooflineTimeOf(const StepWork& work, const MachineRates& rates);
/// The sum of the roofline times of all phases. Phases follow one another, so one cannot read while another
/// multiplies. Never below the roofline time of SumOf(phases). `by`: what bounds the larger fraction of the
/// time.
RooflineTime RooflineTimePerPhase(const WorkPerPhase& phases, const MachineRates& rates);

class WorkModel {
 public:
  /// kv: the dtype of the cache.
  WorkModel(const ResolvedWeights& weights, ActivationMode activations, DType kv);

  WorkPerPhase of(const StepSize& size) const;
  /// The number of routed experts of all layers.
  int64_t experts() const { return experts_; }
  /// The number of layers with routed experts.
  int64_t moe_layers() const { return moe_layers_; }

 private:
  /// The bytes of some weights, and the products of one row with them.
  struct Products {
    int64_t bytes = 0;
    int64_t int8_multiplies = 0;
    int64_t f32_multiplies = 0;
  };

  /// What one position takes in a layer. Where more than attended_max are before a row, all are read and multiplied for
  /// picking, and so many for attention. 0: there is no such limit.
  struct Attention {
    int64_t attended_max = 0;
    int64_t kv_bytes = 0, index_bytes = 0;
    int64_t multiplies = 0, index_multiplies = 0;
  };
  static StepWork AttentionWork(const Attention& layer, const StepSize& size);

  Products every_row_;           ///< All layers, without routed experts.
  Products sampled_row_;         ///< Final norm and head.
  double expert_bytes_ = 0;      ///< Of one routed expert, on average.
  Products called_;              ///< The routed experts of a row; without bytes, which depend on StepSize.
  int64_t embedding_bytes_ = 0;  ///< Of one row of the embedding table.
  int64_t experts_ = 0;
  int64_t experts_per_row_ = 0;
  int64_t moe_layers_ = 0;
  std::vector<Attention> attention_;  ///< Of each layer.
  int64_t state_bytes_ = 0;           ///< Of one sequence, all layers.
};

}  // namespace shoal
