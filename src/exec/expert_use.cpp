#include "exec/expert_use.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/check.h"

namespace shoal {
namespace {

/// A counter with a single writer: no read-modify-write that other CPUs have to wait for.
using Count = std::atomic<uint64_t>;

void Add(Count& count, uint64_t more) {
  count.store(count.load(std::memory_order_relaxed) + more, std::memory_order_relaxed);
}

}  // namespace

/// Counters only grow; what was taken is subtracted by whoever takes. Sampled rows are a ring: the writer fills places
/// ahead of `sampled`, the reader frees them by `freed`.
struct ExpertUse::Layer {
  explicit Layer(Shape shape_in)
      : shape(shape_in),
        rows(static_cast<size_t>(shape.experts)),
        taken_rows(rows.size()),
        ring(kSamples * static_cast<size_t>(shape.top_k)) {}

  const Shape shape;
  std::vector<Count> rows;
  std::array<Count, 4> sent = {};
  uint64_t seen = 0;  ///< Rows, of the writer.
  std::atomic<uint64_t> stride{1};
  std::vector<uint64_t> taken_rows;
  std::array<uint64_t, 4> taken_sent = {};
  std::vector<uint16_t> ring;  ///< [kSamples, K]
  std::atomic<uint64_t> sampled{0};
  std::atomic<uint64_t> freed{0};
};

ExpertRowCounts& ExpertRowCounts::operator+=(const ExpertRowCounts& other) {
  rows += other.rows;
  rows_local += other.rows_local;
  rows_sent += other.rows_sent;
  messages += other.messages;
  return *this;
}

ExpertUse::ExpertUse(Range layers, const std::vector<Shape>& shapes) : range_(layers), shapes_(shapes) {
  for (int64_t l = layers.begin; l < layers.end; ++l) {
    const Shape& shape = shapes[static_cast<size_t>(l)];
    const bool counted = shape.experts > 0 && shape.top_k > 0 && shape.top_k <= kExpertsPerRowMax;
    layers_.push_back(counted ? std::make_unique<Layer>(shape) : nullptr);
  }
}

ExpertUse::~ExpertUse() = default;

bool ExpertUse::counts(Range layers, const std::vector<Shape>& shapes) const {
  return range_ == layers && shapes_ == shapes;
}

void ExpertUse::note(LayerId id, const Routing& routing, const ExpertRowCounts& sent) {
  if (!range_.contains(id.value)) return;
  Layer* const layer = layers_[static_cast<size_t>(id.value - range_.begin)].get();
  if (layer == nullptr || routing.ids.cols != layer->shape.top_k) return;
  for (int64_t t = 0; t < routing.ids.rows; ++t) {
    for (int64_t k = 0; k < routing.ids.cols; ++k) {
      const int32_t expert = routing.ids.at(t, k);
      if (expert != kNoExpert) Add(layer->rows[static_cast<size_t>(expert)], 1);
    }
  }
  Add(layer->sent[0], sent.rows);
  Add(layer->sent[1], sent.rows_local);
  Add(layer->sent[2], sent.rows_sent);
  Add(layer->sent[3], sent.messages);
  sample(*layer, routing.ids);
}

void ExpertUse::sample(Layer& layer, const MatView<const int32_t>& ids) {
  const uint64_t stride = layer.stride.load(std::memory_order_relaxed);
  const uint64_t freed = layer.freed.load(std::memory_order_acquire);
  const auto width = static_cast<size_t>(layer.shape.top_k);
  uint64_t next = layer.sampled.load(std::memory_order_relaxed);
  for (int64_t t = 0; t < ids.rows; ++t) {
    if (layer.seen++ % stride != 0 || next - freed == kSamples) continue;
    uint16_t* const place = layer.ring.data() + (next % kSamples) * width;
    static_assert(static_cast<uint16_t>(kNoExpert) ==
                  LayerUse::kNoneSampled);  // So that it sorts behind all ids.
    std::copy_n(ids.row(t), width, place);
    std::sort(place, place + width);
    ++next;
  }
  layer.sampled.store(next, std::memory_order_release);
}

LayerUseCount ExpertUse::take(LayerId id, Layer& layer) {
  LayerUseCount count{.layer = id, .use = {.top_k = layer.shape.top_k, .rows = {}, .sample = {}}, .rows = {}};
  for (size_t e = 0; e < layer.rows.size(); ++e) {
    const uint64_t now = layer.rows[e].load(std::memory_order_relaxed);
    count.use.rows.push_back(now - std::exchange(layer.taken_rows[e], now));
  }
  std::array<uint64_t, 4> sent = {};
  for (size_t i = 0; i < sent.size(); ++i) {
    const uint64_t now = layer.sent[i].load(std::memory_order_relaxed);
    sent[i] = now - std::exchange(layer.taken_sent[i], now);
  }
  count.rows = {sent[0], sent[1], sent[2], sent[3]};
  const auto width = static_cast<size_t>(layer.shape.top_k);
  const uint64_t end = layer.sampled.load(std::memory_order_acquire);
  for (uint64_t i = layer.freed.load(std::memory_order_relaxed); i < end; ++i) {
    const uint16_t* const place = layer.ring.data() + (i % kSamples) * width;
    count.use.sample.insert(count.use.sample.end(), place, place + width);
  }
  layer.freed.store(end, std::memory_order_release);
  // As many rows as in the time before would fill half of the ring.
  layer.stride.store(std::max<uint64_t>(1, sent[0] / (kSamples / 2)), std::memory_order_relaxed);
  return count;
}

std::vector<LayerUseCount> ExpertUse::take() {
  const std::lock_guard lock(taking_);
  std::vector<LayerUseCount> counts;
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (layers_[i] == nullptr) continue;
    LayerUseCount count =
        take(LayerId{static_cast<int32_t>(range_.begin) + static_cast<int32_t>(i)}, *layers_[i]);
    // A step that is being noted may have counted in some of the counters only.
    const bool any = count.rows != ExpertRowCounts{} || count.use.sampled() > 0 ||
                     std::ranges::any_of(count.use.rows, [](uint64_t rows) { return rows > 0; });
    if (any) counts.push_back(std::move(count));
  }
  return counts;
}

std::shared_ptr<ExpertUse> ExpertUses::next(Range layers, const std::vector<ExpertUse::Shape>& shapes) {
  const auto found =
      std::ranges::find_if(uses_, [&](const auto& use) { return use->counts(layers, shapes); });
  if (found != uses_.end()) {
    std::rotate(found, found + 1, uses_.end());
  } else {
    uses_.push_back(std::make_shared<ExpertUse>(layers, shapes));
  }
  if (uses_.size() > kKeptMax) uses_.erase(uses_.begin());
  return uses_.back();
}

std::vector<std::shared_ptr<ExpertUse>> ExpertUses::counted() {
  std::vector<std::shared_ptr<ExpertUse>> uses = uses_;
  if (uses_.size() > 1) uses_ = {uses.back()};
  return uses;
}

}  // namespace shoal
