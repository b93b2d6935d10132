#include "compute/expert_bank.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "compute/step_profile.h"
#include "numeric/fixed_sum.h"

namespace shoal {
namespace {

/// The runs of calls of one expert, in the order of `sorted`.
std::span<ExpertSet::ExpertRange> RangesOf(Arena& arena, std::span<const ExpertCall> sorted) {
  const std::span<ExpertSet::ExpertRange> ranges =
      arena.allocate<ExpertSet::ExpertRange>(static_cast<int64_t>(sorted.size()));
  size_t count = 0;
  for (size_t begin = 0; begin < sorted.size();) {
    size_t end = begin;
    while (end < sorted.size() && sorted[end].expert == sorted[begin].expert) ++end;
    ranges[count++] = {sorted[begin].expert, {static_cast<int64_t>(begin), static_cast<int64_t>(end)}};
    begin = end;
  }
  return ranges.first(count);
}

/// Bytes of each layer's held experts, as they are in the files.
std::vector<int64_t> StoredBytes(const ResolvedWeights& weights,
                                 const std::vector<std::vector<ExpertId>>& held) {
  std::vector<int64_t> bytes(held.size());
  for (const ResolvedWeight& weight : weights.all()) {
    if (weight.use.layer < 0 || weight.use.expert < 0) continue;
    const auto layer = static_cast<size_t>(weight.use.layer);
    const ExpertId expert{static_cast<int32_t>(weight.use.expert)};
    if (std::ranges::binary_search(held[layer], expert)) bytes[layer] += weight.stored.stored_bytes();
  }
  return bytes;
}

}  // namespace

std::vector<ExpertId> AllExperts(const LayerSpec& layer) {
  const MoeSpec* moe = MoeOf(layer);
  std::vector<ExpertId> ids(moe == nullptr ? 0 : moe->experts.size());
  for (size_t e = 0; e < ids.size(); ++e) ids[e] = ExpertId{static_cast<int32_t>(e)};
  return ids;
}

absl::StatusOr<std::unique_ptr<ExpertBank>> ExpertBank::Load(const ResolvedWeights& weights,
                                                             const std::vector<std::vector<ExpertId>>& held,
                                                             ThreadPool& pool, const LoadProgress& progress,
                                                             PackedStore* store) {
  SHOAL_CHECK_GE(static_cast<int64_t>(held.size()), weights.spec().layer_count());
  std::unique_ptr<ExpertBank> bank(new ExpertBank);
  bank->width_ = weights.spec().width;
  bank->layers_.resize(held.size());
  const std::vector<int64_t> stored = StoredBytes(weights, held);
  const int64_t total = std::accumulate(stored.begin(), stored.end(), int64_t{0});
  int64_t done = 0;
  for (size_t layer = 0; layer < held.size(); ++layer) {
    if (held[layer].empty()) continue;
    ASSIGN_OR_RETURN(bank->layers_[layer], ExpertSet::Load(weights, LayerId{static_cast<int32_t>(layer)},
                                                           held[layer], pool, store));
    done += stored[layer];
    if (progress) progress(done, total);
  }
  return bank;
}

bool ExpertBank::holds(LayerId layer, ExpertId expert) const {
  return layer.value >= 0 && static_cast<size_t>(layer.value) < layers_.size() &&
         layers_[static_cast<size_t>(layer.value)].has_value() &&
         layers_[static_cast<size_t>(layer.value)]->holds(expert);
}

int64_t ExpertBank::count() const {
  int64_t total = 0;
  for (const auto& set : layers_) total += set.has_value() ? static_cast<int64_t>(set->experts().size()) : 0;
  return total;
}

int64_t ExpertBank::bytes() const {
  int64_t total = 0;
  for (const auto& set : layers_) total += set.has_value() ? set->bytes() : 0;
  return total;
}

int ExpertBank::input_group(LayerId layer, ActivationMode activations) const {
  const auto& set = layers_[static_cast<size_t>(layer.value)];
  return set.has_value() ? set->input_group(activations) : 0;
}

ExpertRows GatherRows(Arena& arena, const ExpertRows& from, std::span<const int32_t> picked,
                      QuantizedRows& storage) {
  const auto count = static_cast<int64_t>(picked.size());
  ExpertRows out;
  if (from.quantized != nullptr) {
    const QuantizedRows& q = *from.quantized;
    storage = QuantizedRowsIn(arena.allocate_bytes(QuantizedRowsBytes(count, q.cols, q.group)), count, q.cols,
                              q.group);
    const int64_t groups = q.groups();
    for (int64_t i = 0; i < count; ++i) {
      const int64_t r = picked[static_cast<size_t>(i)];
      std::memcpy(storage.codes + i * q.cols, q.codes + r * q.cols, static_cast<size_t>(q.cols));
      std::memcpy(storage.scales + i * groups, q.scales + r * groups,
                  static_cast<size_t>(groups) * sizeof(float));
      std::memcpy(storage.sums + i * groups, q.sums + r * groups,
                  static_cast<size_t>(groups) * sizeof(float));
    }
    out.quantized = &storage;
    out.x = MatView<const float>(nullptr, count, q.cols);  // The shape; the codes are all that experts read.
    return out;
  }
  const MatView<float> rows = arena.allocate_rows<float>(count, from.x.cols);
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(rows.row(i), from.x.row(picked[static_cast<size_t>(i)]),
                static_cast<size_t>(from.x.cols) * sizeof(float));
  }
  out.x = rows;
  return out;
}

absl::Status ExpertBank::check(const ComputeContext& context, LayerId layer, ExpertId expert,
                               const ExpertRows& rows) const {
  if (!holds(layer, expert)) {
    return FailedPrecondition("layer {}: expert {} is not held here; the asker's plan is another", layer,
                              expert);
  }
  const int group = input_group(layer, context.activations);
  const int got = rows.quantized == nullptr ? 0 : rows.quantized->group;
  if (got != group && (got != 0 || rows.x.data == nullptr)) {
    return InvalidArgument("layer {}: rows come in groups of {}, its experts take {} (0 is f32)", layer, got,
                           group);
  }
  return absl::OkStatus();
}

absl::Status ExpertBank::run_one(const ComputeContext& context, LayerId layer, ExpertId expert,
                                 const ExpertRows& rows, MatView<float> y) const {
  RETURN_IF_ERROR(check(context, layer, expert, rows));
  return layers_[static_cast<size_t>(layer.value)]->forward(context, expert, rows, y);
}

absl::Status ExpertBank::run(const ComputeContext& context, LayerId layer, const ExpertRows& rows,
                             std::span<const ExpertCall> calls, MatView<int64_t> acc) const {
  if (calls.empty()) return absl::OkStatus();
  const PhaseTimer timer(context, StepPhase::kExperts);
  Arena& arena = *context.arena;
  const ArenaScope scope(arena);
  // Rows of one expert side by side: its weights are read once for all of them.
  const auto count = static_cast<int64_t>(calls.size());
  const std::span<ExpertCall> sorted = arena.allocate<ExpertCall>(count);
  std::copy(calls.begin(), calls.end(), sorted.begin());
  std::sort(sorted.begin(), sorted.end(), [](const ExpertCall& a, const ExpertCall& b) {
    return a.expert != b.expert ? a.expert < b.expert : a.row < b.row;
  });
  const std::span<ExpertSet::ExpertRange> ranges = RangesOf(arena, sorted);
  for (const ExpertSet::ExpertRange& range : ranges)
    RETURN_IF_ERROR(check(context, layer, range.expert, rows));

  const std::span<int32_t> targets = arena.allocate<int32_t>(count);
  const std::span<float> weights = arena.allocate<float>(count);
  for (size_t i = 0; i < sorted.size(); ++i) {
    targets[i] = sorted[i].row;
    weights[i] = sorted[i].weight;
  }
  QuantizedRows storage;
  const ExpertRows picked = GatherRows(arena, rows, targets, storage);
  const MatView<float> y = arena.allocate_rows<float>(count, width_);
  RETURN_IF_ERROR(layers_[static_cast<size_t>(layer.value)]->forward(context, ranges, picked, y));

  constexpr int32_t kNone = std::numeric_limits<int32_t>::max();
  std::atomic<int32_t> bad_expert{kNone};
  // A value costs about as much as four multiply-adds: it is rounded twice.
  context.for_ranges((width_ + 15) / 16, 4 * count * width_, [&](Range panels) {
    const Range cols{panels.begin * 16, std::min(panels.end * 16, width_)};
    for (const ExpertSet::ExpertRange& range : ranges) {
      const auto first = static_cast<size_t>(range.rows.begin);
      const bool fits =
          context.kernels->accumulate_fixed({.y = y.rows_between(range.rows.begin, range.rows.end),
                                             .weights = weights.data() + first,
                                             .targets = targets.data() + first,
                                             .acc = acc,
                                             .cols = cols});
      if (!fits) bad_expert = range.expert.value;
    }
  });
  if (bad_expert != kNone) {
    return OutOfRange("layer {}, expert {}: an output is not a number or not below {} in magnitude", layer,
                      bad_expert.load(), kFixedTermLimit);
  }
  return absl::OkStatus();
}

}  // namespace shoal
