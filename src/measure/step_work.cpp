#include "measure/step_work.h"

#include <algorithm>

#include "numeric/cache_shape.h"

namespace shoal {
WorkModel::WorkModel(const ResolvedWeights& weights, ActivationMode activations, DType kv) {
  Products experts;  // All routed experts together.
  for (const auto& [use, stored, packed_bytes] : weights.all()) {
    if (use.role == "embedding") {
      embedding_bytes_ += packed_bytes / stored.rows;
      continue;
    }
    if (use.role == "choice") continue;  // A row reads some ids.
    if (use.is_mtp) continue;            // It adds nothing to what a model without such a head computes.
    Products& products = use.expert >= 0 ? experts : use.is_head ? sampled_row_ : every_row_;
    products.bytes += packed_bytes;
    if (stored.is_vector) continue;
    // Routers always multiply f32 rows (RunExactLinear).
    const bool int8 = stored.format.affine() && activations == ActivationMode::kInt8 && use.role != "router";
    (int8 ? products.int8_multiplies : products.f32_multiplies) += stored.elements();
  }
  for (const LayerSpec& layer : weights.spec().layers) {
    const KvLayerShape shape = CacheShapeOf(layer.mixer);
    const MixerWork mixer = WorkOf(layer.mixer);
    attention_.push_back(
        {.attended_max = mixer.attended_max,
         .kv_bytes = int64_t{2} * shape.kv_heads * KvHeadBytes(shape.head_dim, kv) / kBlockPositions,
         .index_bytes = KvHeadBytes(shape.index_dim, kv) / kBlockPositions,
         .multiplies = mixer.per_position,
         .index_multiplies = mixer.per_scanned});
    every_row_.f32_multiplies += mixer.per_row;
    state_bytes_ += shape.state_values * int64_t{sizeof(float)};
    const MoeSpec* moe = MoeOf(layer);
    if (moe == nullptr) continue;
    experts_ += static_cast<int64_t>(moe->experts.size());
    experts_per_row_ += moe->computed_per_row();
    ++moe_layers_;
  }
  if (experts_ > 0) {
    expert_bytes_ = static_cast<double>(experts.bytes) / static_cast<double>(experts_);
    called_.int8_multiplies = experts.int8_multiplies / experts_ * experts_per_row_;
    called_.f32_multiplies = experts.f32_multiplies / experts_ * experts_per_row_;
  }
}

WorkPerPhase WorkModel::of(const StepSize& size) const {
  const auto steps = static_cast<double>(size.steps);
  const auto rows = static_cast<double>(size.rows);
  const auto sampled = static_cast<double>(size.sampled);
  const auto multiply = [](const Products& products, double met, StepWork& work) {
    work.int8_ops = 2 * met * static_cast<double>(products.int8_multiplies);
    work.f32_ops = 2 * met * static_cast<double>(products.f32_multiplies);
  };
  WorkPerPhase phases;
  const auto phase = [&](WorkPhase which) -> StepWork& { return phases[static_cast<size_t>(which)]; };
  phase(WorkPhase::kLayers).weight_bytes =
      steps * static_cast<double>(every_row_.bytes) + rows * static_cast<double>(embedding_bytes_);
  multiply(every_row_, rows, phase(WorkPhase::kLayers));
  phase(WorkPhase::kExperts).weight_bytes = size.experts * expert_bytes_;
  multiply(called_, rows, phase(WorkPhase::kExperts));
  // The head is read once per step with samples: at most once per step, and once per sampled row.
  phase(WorkPhase::kHead).weight_bytes = std::min(steps, sampled) * static_cast<double>(sampled_row_.bytes);
  multiply(sampled_row_, sampled, phase(WorkPhase::kHead));
  // States belong to the layers, which read, multiply and write them in one pass.
  phase(WorkPhase::kLayers).kv_bytes =
      2 * static_cast<double>(size.states) * static_cast<double>(state_bytes_);
  StepWork& attention = phase(WorkPhase::kAttention);
  for (const Attention& layer : attention_) attention += AttentionWork(layer, size);
  return phases;
}

/// Rows are taken to be equally far: whether they pick is decided by their mean.
StepWork WorkModel::AttentionWork(const Attention& layer, const StepSize& size) {
  const auto cached = static_cast<double>(size.cached);
  const auto attended = static_cast<double>(size.attended);
  const auto most = static_cast<double>(size.rows) * static_cast<double>(layer.attended_max);
  StepWork work;
  if (layer.attended_max == 0 || attended <= most) {
    work.kv_bytes = cached * static_cast<double>(layer.kv_bytes);
    work.attention_ops = 2 * attended * static_cast<double>(layer.multiplies);
    return work;
  }
  work.kv_bytes = cached * static_cast<double>(layer.index_bytes) +
                  std::min(cached, most) * static_cast<double>(layer.kv_bytes);
  work.attention_ops = 2 * (attended * static_cast<double>(layer.index_multiplies) +
                            most * static_cast<double>(layer.multiplies));
  return work;
}

std::string_view WorkPhaseName(WorkPhase phase) {
  constexpr std::array<std::string_view, kWorkPhases> kNames = {"layers", "experts", "attention", "head"};
  return kNames[static_cast<size_t>(phase)];
}

StepWork& StepWork::operator+=(const StepWork& other) {
  weight_bytes += other.weight_bytes;
  kv_bytes += other.kv_bytes;
  int8_ops += other.int8_ops;
  f32_ops += other.f32_ops;
  attention_ops += other.attention_ops;
  return *this;
}

StepWork SumOf(const WorkPerPhase& phases) {
  StepWork sum;
  for (const StepWork& phase : phases) sum += phase;
  return sum;
}

RooflineTime RooflineTimeOf(const StepWork& work, const MachineRates& rates) {
  const double read_s = 1e-9 * work.bytes() / rates.read_gbs;
  const double multiply_s = 1e-9 * (work.int8_ops / rates.int8_gops + work.all_f32_ops() / rates.f32_gflops);
  return read_s > multiply_s ? RooflineTime{read_s, "read"} : RooflineTime{multiply_s, "multiply"};
}

RooflineTime RooflineTimePerPhase(const WorkPerPhase& phases, const MachineRates& rates) {
  double seconds = 0;
  double reading_s = 0;
  for (const StepWork& work : phases) {
    const RooflineTime phase = RooflineTimeOf(work, rates);
    seconds += phase.seconds;
    if (phase.by == "read") reading_s += phase.seconds;
  }
  return {seconds, 2 * reading_s > seconds ? "read" : "multiply"};
}

}  // namespace shoal
