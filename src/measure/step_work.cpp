#include "measure/step_work.h"

#include <algorithm>

#include "base/status.h"
#include "loading/weight_loader.h"

namespace shoal {
namespace {

/// Of one row and position: scores, then values.
int64_t AttentionMultiplies(const MixerSpec& mixer) {
  if (const auto* mla = std::get_if<MlaSpec>(&mixer)) return mla->heads * (2 * mla->latent + mla->rope_dim);
  const auto* gqa = std::get_if<GqaSpec>(&mixer);
  return gqa == nullptr ? 0 : int64_t{2} * gqa->heads * gqa->head_dim;
}

/// Of one row, whatever its position: the passes over a state, and the convolution.
int64_t StateMultiplies(const MixerSpec& mixer) {
  const auto* delta = std::get_if<GatedDeltaNetSpec>(&mixer);
  if (delta == nullptr) return 0;
  return int64_t{3} * delta->value_heads * delta->key_dim * delta->value_dim +
         delta->conv_width * delta->channels();
}

}  // namespace

absl::StatusOr<WorkModel> WorkModel::Create(const ModelSpec& spec, const Checkpoint& checkpoint,
                                            ActivationMode activations, DType kv) {
  ASSIGN_OR_RETURN(const WeightLoader loader, WeightLoader::Create(checkpoint));
  WorkModel work;
  Products experts;  // Of all routed experts together.
  absl::Status status;
  ForEachWeight(spec, [&](const WeightUse& use) {
    const absl::StatusOr<StoredWeight> weight = loader.find(use.ref);
    if (!weight.ok()) {
      if (status.ok()) status = weight.status();
      return;
    }
    const bool vector = use.ref.shape.size() == 1;
    const int64_t bytes = vector ? weight->elements() * int64_t{sizeof(float)}
                                 : PackedBytes(weight->format, weight->rows, weight->cols);
    if (use.role == "embedding") {
      work.embedding_bytes_ = bytes / weight->rows;
      return;
    }
    Products& products = use.expert >= 0 ? experts : use.is_head ? work.sampled_row_ : work.every_row_;
    products.bytes += bytes;
    if (vector) return;
    // Routers always meet f32 rows (RunExactLinear).
    const bool int8 = weight->format.affine() && activations == ActivationMode::kInt8 && use.role != "router";
    (int8 ? products.int8_multiplies : products.f32_multiplies) += weight->elements();
  });
  RETURN_IF_ERROR(status);

  for (const LayerSpec& layer : spec.layers) {
    const KvLayerShape shape = KvShapeOf(layer.mixer);
    work.kv_bytes_ += int64_t{2} * shape.kv_heads * shape.head_dim * DTypeBytes(kv);
    work.attention_multiplies_ += AttentionMultiplies(layer.mixer);
    work.every_row_.f32_multiplies += StateMultiplies(layer.mixer);
    work.state_bytes_ += shape.state_values * int64_t{sizeof(float)};
    const MoeSpec* moe = MoeOf(layer);
    if (moe == nullptr) continue;
    work.experts_ += static_cast<int64_t>(moe->experts.size());
    work.experts_per_row_ += moe->top_k;
    ++work.moe_layers_;
  }
  if (work.experts_ > 0) {
    work.expert_bytes_ = static_cast<double>(experts.bytes) / static_cast<double>(work.experts_);
    work.called_.int8_multiplies = experts.int8_multiplies / work.experts_ * work.experts_per_row_;
    work.called_.f32_multiplies = experts.f32_multiplies / work.experts_ * work.experts_per_row_;
  }
  return work;
}

StepWorkParts WorkModel::of(const StepSize& size) const {
  const auto steps = static_cast<double>(size.steps);
  const auto rows = static_cast<double>(size.rows);
  const auto sampled = static_cast<double>(size.sampled);
  const auto multiply = [](const Products& products, double met, StepWork& work) {
    work.int8_ops = 2 * met * static_cast<double>(products.int8_multiplies);
    work.f32_ops = 2 * met * static_cast<double>(products.f32_multiplies);
  };
  StepWorkParts parts;
  const auto part = [&](WorkPart which) -> StepWork& { return parts[static_cast<size_t>(which)]; };
  part(WorkPart::kLayers).weight_bytes =
      steps * static_cast<double>(every_row_.bytes) + rows * static_cast<double>(embedding_bytes_);
  multiply(every_row_, rows, part(WorkPart::kLayers));
  part(WorkPart::kExperts).weight_bytes = size.experts * expert_bytes_;
  multiply(called_, rows, part(WorkPart::kExperts));
  // One reading of the head serves all samples of a step; there are as many as steps, or fewer.
  part(WorkPart::kHead).weight_bytes = std::min(steps, sampled) * static_cast<double>(sampled_row_.bytes);
  multiply(sampled_row_, sampled, part(WorkPart::kHead));
  // States are read and written by layers that multiply them in the same pass.
  part(WorkPart::kLayers).kv_bytes = 2 * static_cast<double>(size.states) * static_cast<double>(state_bytes_);
  StepWork& attention = part(WorkPart::kAttention);
  attention.kv_bytes = static_cast<double>(size.cached) * static_cast<double>(kv_bytes_);
  attention.attention_ops =
      2 * static_cast<double>(size.attended) * static_cast<double>(attention_multiplies_);
  return parts;
}

std::string_view WorkPartName(WorkPart part) {
  constexpr std::array<std::string_view, kWorkParts> kNames = {"layers", "experts", "attention", "head"};
  return kNames[static_cast<size_t>(part)];
}

StepWork& StepWork::operator+=(const StepWork& other) {
  weight_bytes += other.weight_bytes;
  kv_bytes += other.kv_bytes;
  int8_ops += other.int8_ops;
  f32_ops += other.f32_ops;
  attention_ops += other.attention_ops;
  return *this;
}

StepWork SumOf(const StepWorkParts& parts) {
  StepWork sum;
  for (const StepWork& part : parts) sum += part;
  return sum;
}

RooflineTime RooflineTimeOf(const StepWork& work, const MachineRates& rates) {
  const double read_s = 1e-9 * work.bytes() / rates.read_gbs;
  const double multiply_s = 1e-9 * (work.int8_ops / rates.int8_gops + work.all_f32_ops() / rates.f32_gflops);
  return read_s > multiply_s ? RooflineTime{read_s, "read"} : RooflineTime{multiply_s, "multiply"};
}

RooflineTime RooflineTimePerPhase(const StepWorkParts& parts, const MachineRates& rates) {
  double seconds = 0;
  double reading_s = 0;
  for (const StepWork& part : parts) {
    const RooflineTime phase = RooflineTimeOf(part, rates);
    seconds += phase.seconds;
    if (phase.by == "read") reading_s += phase.seconds;
  }
  return {seconds, 2 * reading_s > seconds ? "read" : "multiply"};
}

}  // namespace shoal
