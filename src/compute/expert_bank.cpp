#include "compute/expert_bank.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
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

/// Threads that read experts: more keep a disk busier, and take more of the CPUs from computing.
int ReadersOf(int threads) {
  constexpr int kReadersMax = 4;
  return std::clamp(threads, 1, kReadersMax);
}

/// So many of `count` experts, evenly spread over all layers.
std::vector<int64_t> SpreadOverLayers(int64_t count, int64_t picked) {
  std::vector<int64_t> experts;
  for (int64_t i = 0; i < picked; ++i) experts.push_back(i * count / picked);
  return experts;
}

}  // namespace

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

absl::StatusOr<std::unique_ptr<ExpertBank>> ExpertBank::LoadTiered(
    const ResolvedWeights& weights, const std::vector<std::vector<ExpertId>>& held, const Tier& tier,
    ThreadPool& pool, const LoadProgress& progress, PackedStore* store) {
  const ModelSpec& spec = weights.spec();
  std::unique_ptr<ExpertBank> bank(new ExpertBank);
  bank->width_ = spec.width;
  bank->layers_.resize(held.size());
  bank->tiered_layers_ = spec.layers.size();
  const std::vector<int64_t> stored = StoredBytes(weights, held);
  const int64_t total = std::accumulate(stored.begin(), stored.end(), int64_t{0});
  ASSIGN_OR_RETURN(bank->files_, ExpertFiles::Create(
                                     weights, {held.begin(), held.begin() + spec.layer_count()}, tier.cache));
  const auto made = [&](int64_t done) {
    if (progress) progress(done, total);
  };
  RETURN_IF_ERROR(bank->files_->make_files(pool, made, tier.cancelled, tier.kept_bytes));
  for (size_t layer = 0; layer < held.size(); ++layer) {
    if (held[layer].empty()) continue;
    const LayerId id{static_cast<int32_t>(layer)};
    if (layer < bank->tiered_layers_) {
      ASSIGN_OR_RETURN(bank->layers_[layer], ExpertSet::LoadWithoutWeights(weights, id, held[layer]));
    } else {
      ASSIGN_OR_RETURN(bank->layers_[layer], ExpertSet::Load(weights, id, held[layer], pool, store));
    }
  }
  RETURN_IF_ERROR(bank->open_tier(tier, ReadersOf(pool.threads())));
  if (progress) progress(total, total);
  return bank;
}

absl::Status ExpertBank::open_tier(const Tier& tier, int readers) {
  const int64_t slots = std::min(tier.memory_bytes / files_->bytes_max(), files_->count());
  if (slots < 1) {
    return InvalidArgument("--expert-memory: {} hold no expert: the largest takes {}",
                           FormatBytes(tier.memory_bytes), FormatBytes(files_->bytes_max()));
  }
  const auto read = [this](int64_t number, std::byte* memory) -> absl::StatusOr<ExpertTier::Loaded> {
    ASSIGN_OR_RETURN(const ExpertFiles::Read done, files_->read(number, memory));
    return ExpertTier::Loaded{done.bytes, done.packed_again};
  };
  const auto place = [this](int64_t number, const std::shared_ptr<std::byte>& memory) {
    const auto& matrices = files_->matrices(number);
    layers_[static_cast<size_t>(files_->layer(number).value)]->place(
        files_->id(number), memory, {matrices[0].offset, matrices[1].offset, matrices[2].offset});
  };
  ASSIGN_OR_RETURN(tier_,
                   ExpertTier::Create({.experts = files_->count(),
                                       .slots = slots,
                                       .slot_bytes = files_->bytes_max(),
                                       .readers = readers,
                                       .read = read,
                                       .place = place,
                                       .name = [this](int64_t number) { return files_->name(number); }}));
  RETURN_IF_ERROR(tier_->warm(SpreadOverLayers(files_->count(), slots), tier.cancelled));
  LogInfo("experts: {} of {} are resident, the rest is read from {} when it is wanted",
          FormatBytes(slots * files_->bytes_max()), FormatBytes(files_->bytes()), files_->source());
  return absl::OkStatus();
}

absl::Status ExpertBank::begin_serving(int threads) {
  return tier_ == nullptr ? absl::OkStatus() : tier_->start_readers(ReadersOf(threads));
}

std::optional<ExpertTierStats> ExpertBank::tier_stats() const {
  if (tier_ == nullptr) return std::nullopt;
  ExpertTierStats stats = tier_->stats();
  stats.total_bytes = files_->bytes();
  return stats;
}

std::span<const int64_t> ExpertBank::numbers_of(Arena& arena, LayerId layer,
                                                std::span<const int32_t> ids) const {
  const std::span<int32_t> sorted = arena.allocate<int32_t>(std::ssize(ids));
  std::ranges::copy(ids, sorted.begin());
  std::ranges::sort(sorted);
  const std::span<int64_t> numbers = arena.allocate<int64_t>(std::ssize(ids));
  size_t count = 0;
  for (size_t i = 0; i < sorted.size(); ++i) {
    if (i > 0 && sorted[i] == sorted[i - 1]) continue;
    const int64_t number = files_->number(layer, ExpertId{sorted[i]});
    if (number >= 0) numbers[count++] = number;
  }
  return numbers.first(count);
}

void ExpertBank::expect(Arena& arena, LayerId layer, std::span<const ExpertCall> calls) const {
  if (!is_tiered(layer)) return;
  const ArenaScope scope(arena);
  const std::span<int32_t> ids = arena.allocate<int32_t>(std::ssize(calls));
  std::ranges::transform(calls, ids.begin(), [](const ExpertCall& call) { return call.expert.value; });
  tier_->expect(numbers_of(arena, layer, ids));
}

void ExpertBank::read_ahead(Arena& arena, LayerId layer, std::span<const int32_t> ids) const {
  if (!is_tiered(layer)) return;
  const ArenaScope scope(arena);
  tier_->read_ahead(numbers_of(arena, layer, ids));
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
  for (const auto& set : layers_) {
    if (set.has_value() && !is_tiered(set->layer())) total += set->bytes();
  }
  return total + (tier_ == nullptr ? 0 : tier_->stats().resident_bytes);
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
  const ExpertSet& set = *layers_[static_cast<size_t>(layer.value)];
  if (!is_tiered(layer)) return set.forward(context, expert, rows, y);
  const int64_t number = files_->number(layer, expert);
  return tier_->with(*context.arena, {&number, 1},
                     [&](std::span<const int64_t>) { return set.forward(context, expert, rows, y); });
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
  return is_tiered(layer) ? run_tiered(context, layer, rows, sorted, acc)
                          : run_here(context, layer, rows, sorted, acc);
}

/// The sums do not depend on which experts come first (numeric/fixed_sum.h), nor an expert's rows on others' (I10).
absl::Status ExpertBank::run_tiered(const ComputeContext& context, LayerId layer, const ExpertRows& rows,
                                    std::span<const ExpertCall> sorted, MatView<int64_t> acc) const {
  Arena& arena = *context.arena;
  const std::span<ExpertSet::ExpertRange> ranges = RangesOf(arena, sorted);
  const std::span<int64_t> numbers = arena.allocate<int64_t>(std::ssize(ranges));
  for (size_t i = 0; i < ranges.size(); ++i) {
    RETURN_IF_ERROR(check(context, layer, ranges[i].expert, rows));
    numbers[i] = files_->number(layer, ranges[i].expert);
  }
  const std::span<ExpertCall> calls = arena.allocate<ExpertCall>(std::ssize(sorted));
  return tier_->with(arena, numbers, [&](std::span<const int64_t> which) {
    size_t count = 0;
    for (const int64_t i : which) {
      const Range of = ranges[static_cast<size_t>(i)].rows;
      const auto picked = sorted.subspan(static_cast<size_t>(of.begin), static_cast<size_t>(of.size()));
      std::ranges::copy(picked, calls.begin() + static_cast<std::ptrdiff_t>(count));
      count += picked.size();
    }
    return run_here(context, layer, rows, calls.first(count), acc);
  });
}

absl::Status ExpertBank::run_here(const ComputeContext& context, LayerId layer, const ExpertRows& rows,
                                  std::span<const ExpertCall> sorted, MatView<int64_t> acc) const {
  Arena& arena = *context.arena;
  const ArenaScope scope(arena);
  const auto count = std::ssize(sorted);
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
