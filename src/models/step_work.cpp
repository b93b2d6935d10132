#include "models/step_work.h"

#include "base/status.h"
#include "models/blocks/attention.h"
#include "models/weight_reader.h"

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
  const auto* delta = std::get_if<DeltaSpec>(&mixer);
  if (delta == nullptr) return 0;
  return int64_t{3} * delta->value_heads * delta->key_dim * delta->value_dim +
         delta->conv_width * delta->channels();
}

}  // namespace

absl::StatusOr<WorkModel> WorkModel::Create(const ModelSpec& spec, const Checkpoint& checkpoint,
                                            ActivationMode activations, DType kv) {
  ASSIGN_OR_RETURN(const WeightReader reader, WeightReader::Create(checkpoint));
  WorkModel work;
  Products experts;  // Of all routed experts together.
  absl::Status status;
  ForEachWeight(spec, [&](const WeightUse& use) {
    const absl::StatusOr<StoredWeight> weight = reader.find(use.ref);
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
  }
  if (work.experts_ > 0) {
    work.expert_bytes_ = static_cast<double>(experts.bytes) / static_cast<double>(work.experts_);
    work.called_.int8_multiplies = experts.int8_multiplies / work.experts_ * work.experts_per_row_;
    work.called_.f32_multiplies = experts.f32_multiplies / work.experts_ * work.experts_per_row_;
  }
  return work;
}

StepWork WorkModel::of(const StepSize& size) const {
  const auto steps = static_cast<double>(size.steps);
  const auto rows = static_cast<double>(size.rows);
  const auto sampled = static_cast<double>(size.sampled);
  StepWork work;
  work.weight_bytes = steps * static_cast<double>(every_row_.bytes) + size.experts * expert_bytes_ +
                      rows * static_cast<double>(embedding_bytes_);
  // One reading of the head serves all samples of a step; there are as many as steps, or fewer.
  work.weight_bytes += std::min(steps, sampled) * static_cast<double>(sampled_row_.bytes);
  work.kv_bytes = static_cast<double>(size.cached) * static_cast<double>(kv_bytes_) +
                  2 * static_cast<double>(size.states) * static_cast<double>(state_bytes_);
  work.int8_ops = 2 * (rows * static_cast<double>(every_row_.int8_multiplies + called_.int8_multiplies) +
                       sampled * static_cast<double>(sampled_row_.int8_multiplies));
  work.f32_ops = 2 * (rows * static_cast<double>(every_row_.f32_multiplies + called_.f32_multiplies) +
                      sampled * static_cast<double>(sampled_row_.f32_multiplies));
  work.attention_ops = 2 * static_cast<double>(size.attended) * static_cast<double>(attention_multiplies_);
  return work;
}

}  // namespace shoal
