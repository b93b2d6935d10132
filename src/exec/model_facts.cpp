#include "exec/model_facts.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <utility>
#include <vector>

#include "base/status.h"
#include "compute/segments.h"
#include "exec/shard_overlap.h"
#include "kv/block_key.h"
#include "kv/block_pool.h"
#include "plan/cost.h"
#include "plan/rounding.h"

namespace shoal {
namespace {

/// What no order may exceed, however much memory there is: what --rows-per-step and --kv-positions can ask
/// for, and states of 65,536 sequences over 63 stages.
constexpr int64_t kStepRowsMax = 4096;
constexpr int32_t kCacheBlocksMax = static_cast<int32_t>(BlocksFor(int64_t{1} << 30));
constexpr int32_t kStateSlotsMax = 1 << 22;

/// Of all keys and values together, with their scales.
int64_t Q8BytesPerPosition(const MixerSpec& mixer) {
  if (!MayCacheInt8(mixer)) return 0;
  const KvLayerShape shape = CacheShapeOf(mixer);
  return int64_t{2} * shape.kv_heads * KvHeadBytes(shape.head_dim, DType::kI8) / kBlockPositions;
}

}  // namespace

ModelFacts MakeModelFacts(std::string name, std::string hash, const ModelSpec& spec,
                          const Footprint& footprint) {
  ModelFacts facts;
  facts.name = std::move(name);
  facts.hash = std::move(hash);
  facts.hidden = spec.width;
  facts.row_values = spec.row_width();
  facts.carried_values = spec.carried_picks;
  facts.embed_bytes = footprint.embedding.packed;
  facts.head_bytes = footprint.head.packed;
  facts.tied_head = spec.tied_head;
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const LayerFootprint& layer = footprint.layers[i];
    LayerFacts out;
    out.bytes = layer.fixed.packed;
    out.feed_forward_bytes = layer.feed_forward.packed;
    out.experts = static_cast<int32_t>(layer.experts.size());
    for (const WeightBytes& expert : layer.experts)
      out.expert_bytes = std::max(out.expert_bytes, expert.packed);
    out.kv_values_per_position = layer.cached_values_per_position;
    out.kv_q8_bytes_per_position = Q8BytesPerPosition(spec.layers[i].mixer);
    out.attended_max = WorkOf(spec.layers[i].mixer).attended_max;
    out.index_values_per_position = CacheShapeOf(spec.layers[i].mixer).index_dim;
    out.state_bytes = layer.state_values * int64_t{sizeof(float)};
    facts.layers.push_back(out);
    if (const MoeSpec* moe = MoeOf(spec.layers[i]))
      facts.top_k = std::max(facts.top_k, moe->computed_per_row());
  }
  if (spec.mtp) {
    const KvLayerShape kept = CacheShapeOf(spec.mtp->layer.mixer);
    facts.mtp = {.bytes = footprint.mtp.packed,
                 .kv_values_per_position = kept.values_per_position(),
                 .kv_q8_bytes_per_position = Q8BytesPerPosition(spec.mtp->layer.mixer)};
  }
  return facts;
}

void AddWork(const ResolvedWeights& weights, ModelFacts& facts) {
  for (size_t i = 0; i < facts.layers.size(); ++i) {
    const LayerSpec& spec = weights.spec().layers[i];
    facts.layers[i].segments_max = SegmentsMax(weights, spec);
    if (const DenseSpec* dense = SharedByAllRows(spec)) facts.layers[i].feed_forward_width = dense->width;
    const MixerWork mixer = WorkOf(weights.spec().layers[i].mixer);
    facts.layers[i].attention_multiplies = mixer.per_position;
    facts.layers[i].index_multiplies = mixer.per_scanned;
    facts.layers[i].f32_multiplies = mixer.per_row;
  }
  for (const auto& [use, stored, packed_bytes] : weights.all()) {
    if (stored.is_vector || use.role == "embedding" || use.is_mtp) continue;
    const int64_t multiplies = stored.elements();
    if (use.is_head) {
      facts.head_multiplies += multiplies;
      continue;
    }
    if (use.layer < 0)
      continue;  // What makes more than an embedding of a token (AltUpSpec): of few columns each.
    LayerFacts& layer = facts.layers[static_cast<size_t>(use.layer)];
    if (use.role == "mlp") {
      (stored.format.affine() ? layer.feed_forward_int8 : layer.feed_forward_f32) += multiplies;
    }
    if (use.expert >= 0) {
      layer.expert_multiplies += multiplies;  // Divided below.
    } else if (stored.format.affine() && use.role != "router") {
      layer.int8_multiplies += multiplies;
    } else {
      layer.f32_multiplies += multiplies;
    }
  }
  for (LayerFacts& layer : facts.layers) {
    if (layer.experts > 0) layer.expert_multiplies /= layer.experts;
  }
}

absl::StatusOr<OpenedModel> OpenModel(const std::string& folder, const std::string& name) {
  ASSIGN_OR_RETURN(std::shared_ptr<const ResolvedWeights> weights, ResolvedWeights::Open(folder));
  std::string shown = name;
  if (shown.empty()) {
    std::error_code ignored;
    shown = std::filesystem::weakly_canonical(folder, ignored).filename().string();
  }
  return MeasureModel(std::move(weights), std::move(shown));
}

OpenedModel MeasureModel(std::shared_ptr<const ResolvedWeights> weights, std::string name) {
  OpenedModel model;
  model.weights = std::move(weights);
  model.checkpoint = model.weights->shared_checkpoint();
  model.spec = model.weights->spec();
  model.footprint = MeasureFootprint(*model.weights);
  model.facts = MakeModelFacts(std::move(name), model.checkpoint->hash(), model.spec, model.footprint);
  AddWork(*model.weights, model.facts);
  return model;
}

namespace {

/// Packed bytes of the routed experts of a shard.
int64_t ExpertBytes(const Footprint& footprint, const NodeShard& shard) {
  int64_t bytes = 0;
  for (size_t i = 0; i < footprint.layers.size(); ++i) {
    for (const ExpertId expert : shard.experts[i])
      bytes += footprint.layers[i].experts[static_cast<size_t>(expert.value)].packed;
  }
  return bytes;
}

/// Packed bytes of a layer without its experts, of a shard that runs it, and of its segments.
int64_t LayerBytes(const LayerFootprint& layer, const NodeShard& shard, int64_t index) {
  int64_t bytes = shard.layers.contains(index) ? layer.fixed.packed : 0;
  const int32_t count = shard.segments.count(index);
  if (count == 0) return bytes;
  if (shard.layers.contains(index)) bytes -= layer.feed_forward.packed;
  for (const int32_t segment : shard.segments.of(index))
    bytes += SegmentBytes(layer.feed_forward.packed, count, segment);
  return bytes;
}

}  // namespace

int64_t ShardBytes(const ModelSpec& spec, const Footprint& footprint, const NodeShard& shard,
                   int64_t expert_memory) {
  int64_t bytes = shard.table() ? footprint.embedding.packed : 0;
  if (shard.head && !(shard.table() && spec.tied_head)) bytes += footprint.head.packed;
  if (shard.mtp) bytes += footprint.mtp.packed;
  for (size_t i = 0; i < footprint.layers.size(); ++i) {
    bytes += LayerBytes(footprint.layers[i], shard, static_cast<int64_t>(i));
  }
  const int64_t experts = ExpertBytes(footprint, shard);
  return bytes + (expert_memory > 0 ? std::min(experts, expert_memory) : experts);
}

int64_t BytesBeside(const ModelSpec& spec, const Footprint& footprint, const NodeShard& now,
                    const NodeShard& next, int64_t expert_memory) {
  NodeShard common = Common(now, next);
  const bool tiered = expert_memory > 0 &&
                      std::max(ExpertBytes(footprint, now), ExpertBytes(footprint, next)) > expert_memory;
  if (tiered) common.experts.assign(footprint.layers.size(), {});
  return ShardBytes(spec, footprint, next, expert_memory) -
         ShardBytes(spec, footprint, common, expert_memory);
}

DType CacheDTypeOf(Plan::KvDtype dtype) {
  constexpr std::array kByValue = {DType::kF16, DType::kBF16, DType::kF32, DType::kI8};
  return kByValue[static_cast<size_t>(dtype)];
}

int64_t CacheBytes(const ModelFacts& model, const NodeShard& shard, Plan::KvDtype dtype,
                   const StepLimits& limits) {
  // 128 bits hold any product of what the arguments hold.
  __int128 bytes = 0;
  for (int64_t i = shard.layers.begin; i < shard.layers.end; ++i) {
    const LayerFacts& layer = model.layers[static_cast<size_t>(i)];
    bytes += __int128{KvBytesPerPosition(layer, dtype)} * kBlockPositions * limits.blocks;
    bytes += __int128{layer.state_bytes} * limits.state_slots;
  }
  if (shard.mtp && model.mtp) {
    bytes += __int128{KvBytesPerPosition(*model.mtp, dtype)} * kBlockPositions * limits.blocks;
  }
  return static_cast<int64_t>(std::min<__int128>(bytes, INT64_MAX));
}

// plan/ includes nothing but base/, so a plan has words of its own for the formats of numeric/row_format.h.
RowFormat RowFormatOf(const Plan& plan) {
  constexpr auto kAlike = [](Plan::WireDtype of_plan, RowFormat format) {
    return static_cast<RowFormat>(of_plan) == format;
  };
  static_assert(kAlike(Plan::WireDtype::kExact, RowFormat::kExact) &&
                kAlike(Plan::WireDtype::kF16, RowFormat::kF16) &&
                kAlike(Plan::WireDtype::kQ8, RowFormat::kQ8));
  return static_cast<RowFormat>(plan.wire_dtype);
}

BlockKey CachesKeyOf(const Plan& plan, const NodeModel& model) {
  const std::string& weights = model.checkpoint().content_identity();
  const std::string numerics = model.backend().numerics_class();
  std::vector<std::string_view> bits = {weights, numerics, Name(plan.kv_dtype), Name(plan.activations)};
  if (plan.mtp) bits.emplace_back("mtp");  // The last stage's blocks have a layer more.
  const std::string roundings = RoundingsOf(plan);
  if (!roundings.empty()) bits.push_back(roundings);
  return CachesKey(bits);
}

EngineLimits EngineLimitsOf(const Plan& plan, const NodeModel& model, const StepLimits& limits) {
  return {limits.blocks,
          limits.context,
          static_cast<int>(plan.stages.size()),
          static_cast<int>(limits.vocabulary),
          ShortRopePositions(model.spec()),
          limits.state_slots,
          CachesKeyOf(plan, model),
          VisiblePositions(model.spec()),
          plan.mtp};
}

absl::Status CheckLimits(const StepLimits& limits, const ModelSpec& spec) {
  if (limits.context < 1 || limits.context > spec.max_positions) {
    return InvalidArgument("limits: context {}, expected 1 to {}, the model's", limits.context,
                           spec.max_positions);
  }
  if (limits.rows_max < 1 || limits.rows_max > kStepRowsMax) {
    return InvalidArgument("limits: {} rows a step, expected 1 to {}", limits.rows_max, kStepRowsMax);
  }
  if (limits.blocks < 1 || limits.blocks > kCacheBlocksMax) {
    return InvalidArgument("limits: {} KV blocks, expected 1 to {}", limits.blocks, kCacheBlocksMax);
  }
  const int32_t slots_min = KeepsState(spec) ? 2 : 0;
  const int32_t slots_max = KeepsState(spec) ? kStateSlotsMax : 0;
  if (limits.state_slots < slots_min || limits.state_slots > slots_max) {
    return InvalidArgument("limits: {} state slots, expected {} to {} for a model that keeps {}",
                           limits.state_slots, slots_min, slots_max,
                           KeepsState(spec) ? "states" : "no states");
  }
  return absl::OkStatus();
}

}  // namespace shoal
