#include "exec/node_model.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "base/text.h"
#include "loading/stored_weight.h"

namespace shoal {

NodeShard ShardOf(const Plan& plan, NodeId node) {
  NodeShard shard;
  shard.layers = plan.layers_of(node);
  shard.embed = plan.first_node() == node;
  shard.head = plan.last_node() == node;
  shard.mtp = plan.mtp && shard.head;
  shard.experts.resize(static_cast<size_t>(plan.layers()));
  for (int32_t layer = 0; layer < plan.layers(); ++layer) {
    shard.experts[static_cast<size_t>(layer)] = plan.experts_held(node, LayerId{layer});
  }
  for (int32_t layer = 0; layer < std::ssize(plan.segments); ++layer) {
    shard.segments.counts.push_back(static_cast<int32_t>(plan.segment_owners(LayerId{layer}).size()));
    shard.segments.held.push_back(plan.segments_held(node, LayerId{layer}));
  }
  return shard;
}

std::vector<WeightSample> SampleShard(const ResolvedWeights& weights, const NodeShard& shard) {
  return SampleWeights(weights, [&](const WeightUse& use) { return shard.holds(use); });
}

bool NodeShard::empty() const {
  return layers.empty() && segments.empty() &&
         std::ranges::all_of(experts, [](const auto& ids) { return ids.empty(); });
}

bool NodeShard::holds(const WeightUse& use) const {
  return ReadsWeight({.layers = layers, .embed = embed, .head = head, .mtp = mtp}, experts, segments, use);
}

namespace {

/// "layer 3", "expert 5 of layer 3", "the embedding".
std::string PlaceOf(const WeightUse& use) {
  if (use.is_mtp) return "the head for multi-token prediction";
  if (use.layer < 0) return use.is_head ? "the final norm and head" : "the embedding";
  return use.expert < 0 ? fmt::format("layer {}", use.layer)
                        : fmt::format("expert {} of layer {}", use.expert, use.layer);
}

/// Says which part of the shard a shard lacks.
absl::Status CheckShard(const ResolvedWeights& weights, const NodeShard& shard) {
  if (weights.checkpoint().shard() == nullptr) return absl::OkStatus();
  for (const ResolvedWeight& weight : weights.all()) {
    if (!weight.stored.absent || !shard.holds(weight.use)) continue;
    return Annotate(CheckHere(weights.checkpoint(), weight.stored),
                    fmt::format("{} of {}, which the plan gives it", PlaceOf(weight.use), shard.summary()));
  }
  return absl::OkStatus();
}

}  // namespace

std::string NodeShard::summary() const {
  std::string text = layers.empty() ? "no layers" : fmt::format("layers [{}, {})", layers.begin, layers.end);
  if (embed) text += ", embedding";
  if (head) text += ", head";
  if (mtp) text += ", MTP";
  size_t count = 0;
  for (const std::vector<ExpertId>& ids : experts) count += ids.size();
  if (count > 0) text += fmt::format(", {} experts", count);
  size_t parts = 0;
  for (const std::vector<int32_t>& held : segments.held) parts += held.size();
  if (parts > 0) text += fmt::format(", {} segments", parts);
  return text;
}

LoadStats& LoadStats::operator+=(const LoadStats& other) {
  // A node without weights says nothing of the cache.
  if (other.bytes > 0) from_cache = other.from_cache && (from_cache || bytes == 0);
  bytes += other.bytes;
  cached_bytes += other.cached_bytes;
  ns += other.ns;
  return *this;
}

double LoadStats::gigabytes_per_second() const {
  return ns > 0 ? static_cast<double>(bytes) / static_cast<double>(ns) : 0;
}

std::string LoadStats::text() const {
  std::string text = fmt::format("{} in {:.2f} s, {:.2f} GB/s", FormatBytes(bytes),
                                 static_cast<double>(ns) * 1e-9, gigabytes_per_second());
  if (from_cache) return text + ", from the packed cache";
  if (cached_bytes > 0) text += fmt::format(", {} of it from the packed cache", FormatBytes(cached_bytes));
  return text;
}

absl::StatusOr<std::unique_ptr<NodeModel>> NodeModel::Load(std::shared_ptr<const ResolvedWeights> weights,
                                                           NodeShard shard, Backend& backend,
                                                           const LoadProgress& progress,
                                                           NodeLoadOptions options) {
  const int64_t started_ns = NowNs();
  std::unique_ptr<NodeModel> model(new NodeModel);
  model->weights_ = std::move(weights);
  model->shard_ = std::move(shard);
  RETURN_IF_ERROR(CheckShard(*model->weights_, model->shard_));
  model->backend_ = &backend;
  const NodeShard& held = model->shard_;
  ASSIGN_OR_RETURN(
      model->held_,
      backend.load({.weights = model->weights_,
                    .stage = {held.layers, held.embed, held.head, held.mtp, held.segments.counts},
                    .experts = held.experts,
                    .segments = held.segments,
                    .progress = progress,
                    .cache = held.empty() ? nullptr : std::move(options.cache),
                    .expert_memory = options.expert_memory,
                    .beside_session = options.beside_until != nullptr,
                    .cancelled = options.beside_until}));
  model->load_stats_ = {.bytes = model->bytes(),
                        .cached_bytes = model->held_->cached_bytes(),
                        .ns = NowNs() - started_ns,
                        .from_cache = model->held_->from_cache()};
  return model;
}

}  // namespace shoal
