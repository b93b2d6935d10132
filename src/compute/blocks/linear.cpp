#include "compute/blocks/linear.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "compute/step_profile.h"

namespace shoal {
namespace {

int GroupSlot(int group) {
  SHOAL_CHECK(IsAffineGroup(group));
  return group == 16 ? 0 : group == 32 ? 1 : group == 64 ? 2 : 3;
}

/// A tile's weights are read once for all its rows, which takes about as long as multiplying this many rows
/// (measured: one row 247 us, four 331 us, twelve 826 us for 6144 x 2048 of 4 bits).
constexpr int64_t kRowsPerRead = 3;

}  // namespace

/// What every thread of a batch does. Tiles of all products are laid end to end, each as long as its work, and are
/// cut into parts anywhere: a tile belongs to the part in which it begins.
class LinearBatch {
 public:
  /// `tasks_max`: calls of add() to come.
  LinearBatch(const ComputeContext& context, MatView<const float> x, int64_t tasks_max)
      : context_(context), x_(x), items_(context.arena->allocate<Item>(tasks_max)) {}

  /// codes: of all rows of the input; nullptr where the rows enter as f32.
  void add(const LinearTask& task, const QuantizedRows* codes) {
    const Linear& linear = *task.linear;
    SHOAL_CHECK_LT(size_, items_.size());
    SHOAL_CHECK(0 <= task.rows.begin && task.rows.begin <= task.rows.end && task.rows.end <= x_.rows);
    SHOAL_CHECK(task.y.rows == task.rows.size() && task.y.cols == linear.rows() && x_.cols == linear.cols());
    if (task.rows.empty()) return;
    const int64_t tile_cost = std::max(task.rows.size(), kRowsPerRead) * linear.cols();
    items_[size_++] = {&linear, task.y, task.rows, codes, tile_cost};
    cost_ += tile_cost * linear.weight().view().tiles();
    multiplies_ += task.rows.size() * linear.rows() * linear.cols();
  }

  void run() {
    context_.for_ranges(cost_, multiplies_, [this](Range part) {
      int64_t start = 0;  // Of the item, in the row of all tiles.
      for (const Item& item : items_.first(size_)) {
        const int64_t tiles = item.linear->weight().view().tiles();
        const auto first_from = [&](int64_t cost) {
          return std::clamp((cost - start + item.tile_cost - 1) / item.tile_cost, int64_t{0}, tiles);
        };
        const Range mine{part.begin <= start ? 0 : first_from(part.begin),
                         part.end <= start ? 0 : first_from(part.end)};
        multiply_in_chunks(item, mine);
        start += tiles * item.tile_cost;
      }
    });
  }

 private:
  struct Item {
    const Linear* linear;
    MatView<float> y;
    Range rows;
    const QuantizedRows* codes;
    int64_t tile_cost;
  };

  /// Tiles are independent of one another, so where they are cut changes no bit.
  void multiply_in_chunks(const Item& item, Range tiles) const {
    const int64_t tile_multiplies = item.rows.size() * item.linear->cols() * kTileRows;
    const int64_t chunk = std::max<int64_t>(kMultipliesPerProgress / tile_multiplies, 1);
    for (int64_t begin = tiles.begin; begin < tiles.end; begin += chunk) {
      const Range part{begin, std::min(begin + chunk, tiles.end)};
      multiply(item, part);
      if (part.end < tiles.end) context_.pool->note_progress();
    }
  }

  void multiply(const Item& item, Range tiles) const {
    const PackedView w = item.linear->weight().view();
    if (item.codes != nullptr) {
      context_.kernels->matmul_affine(
          {.x = item.codes->rows_between(item.rows), .w = w, .y = item.y, .tiles = tiles});
    } else {
      context_.kernels->matmul_float(
          {.x = x_.rows_between(item.rows.begin, item.rows.end), .w = w, .y = item.y, .tiles = tiles});
    }
    if (item.linear->bias_.empty()) return;
    const Range cols{tiles.begin * kTileRows, std::min(w.rows, tiles.end * kTileRows)};
    context_.kernels->add_bias({.bias = item.linear->bias_.data() + cols.begin,
                                .y = item.y.cols_between(cols.begin, cols.end),
                                .rows = {0, item.y.rows}});
  }

  const ComputeContext& context_;
  MatView<const float> x_;
  std::span<Item> items_;
  size_t size_ = 0;
  int64_t cost_ = 0;
  int64_t multiplies_ = 0;
};

absl::StatusOr<Linear> Linear::Load(const WeightLoader& loader, const LinearSpec& spec, ThreadPool& pool) {
  ASSIGN_OR_RETURN(std::vector<Linear> one, LoadTogether(loader, {&spec}, pool));
  return std::move(one[0]);
}

absl::StatusOr<Linear> Linear::Load(const WeightLoader& loader, const WeightRef& weight, ThreadPool& pool) {
  ASSIGN_OR_RETURN(const StoredWeight stored, loader.find(weight));
  ASSIGN_OR_RETURN(std::vector<PackedMatrix> packed, loader.pack({&stored, 1}, pool));
  Linear linear;
  linear.weight_ = std::move(packed[0]);
  return linear;
}

absl::StatusOr<std::vector<Linear>> Linear::LoadWithoutWeights(const WeightLoader& loader,
                                                               const std::vector<const LinearSpec*>& specs) {
  std::vector<Linear> linears(specs.size());
  for (size_t i = 0; i < specs.size(); ++i) {
    ASSIGN_OR_RETURN(const StoredWeight weight, loader.find(*specs[i]));
    if (specs[i]->bias) {
      ASSIGN_OR_RETURN(linears[i].bias_, loader.read_vector(*specs[i]->bias));
    }
    linears[i].weight_ = PackedMatrix::In(nullptr, weight.format, weight.rows, weight.cols);
  }
  return linears;
}

absl::StatusOr<std::vector<Linear>> Linear::LoadTogether(const WeightLoader& loader,
                                                         const std::vector<const LinearSpec*>& specs,
                                                         ThreadPool& pool) {
  std::vector<StoredWeight> weights;
  std::vector<Linear> linears(specs.size());
  for (const LinearSpec* spec : specs) {
    ASSIGN_OR_RETURN(const StoredWeight weight, loader.find(*spec));
    if (spec->bias) {
      ASSIGN_OR_RETURN(linears[weights.size()].bias_, loader.read_vector(*spec->bias));
    }
    weights.push_back(weight);
  }
  ASSIGN_OR_RETURN(std::vector<PackedMatrix> packed, loader.pack(weights, pool));
  for (size_t i = 0; i < linears.size(); ++i) linears[i].weight_ = std::move(packed[i]);
  return linears;
}

namespace {

/// The ref of `rows` of a weight, whose sources all say where those are. Strided ones and those of runs are left out.
absl::StatusOr<WeightRef> RowsOf(const WeightRef& whole, Range rows) {
  WeightRef part = whole;
  part.shape[0] = rows.size();
  std::erase_if(part.sources,
                [](const WeightSource& source) { return source.strided.has_value() || source.row_run > 1; });
  if (part.sources.empty()) {
    return Unimplemented(
        "checkpoint: tensor '{}': its rows are not stored one behind the other, so a part of them can't be "
        "loaded",
        whole.sources.front().name());
  }
  for (WeightSource& source : part.sources) {
    if (source.rows.empty()) {
      source.rows = {0, whole.shape[0]};
      source.stored_rows = whole.shape[0];
    }
    const int64_t begin = source.rows.begin + rows.begin * source.row_interval;
    source.rows = {begin, begin + (rows.size() - 1) * source.row_interval + 1};
  }
  return part;
}

}  // namespace

absl::StatusOr<std::vector<Linear>> Linear::LoadRows(const WeightLoader& loader, std::span<const Rows> parts,
                                                     const PackedUnit& unit, ThreadPool& pool) {
  std::vector<WeightRef> refs;  // What is found points into them.
  for (const Rows& part : parts) {
    ASSIGN_OR_RETURN(WeightRef ref, RowsOf(part.spec->weight, part.rows));
    refs.push_back(std::move(ref));
  }
  std::vector<StoredWeight> weights;
  std::vector<Linear> linears(parts.size());
  for (size_t i = 0; i < parts.size(); ++i) {
    ASSIGN_OR_RETURN(StoredWeight weight, loader.find(refs[i]));
    weight.unit = unit;
    weights.push_back(weight);
    if (!parts[i].spec->bias) continue;
    ASSIGN_OR_RETURN(const std::vector<float> bias, loader.read_vector(*parts[i].spec->bias));
    linears[i].bias_.assign(bias.begin() + parts[i].rows.begin, bias.begin() + parts[i].rows.end);
  }
  ASSIGN_OR_RETURN(std::vector<PackedMatrix> packed, loader.pack(weights, pool));
  for (size_t i = 0; i < linears.size(); ++i) linears[i].weight_ = std::move(packed[i]);
  return linears;
}

LinearInput::LinearInput(MatView<const float> x, const QuantizedRows& known) : x_(x) {
  SHOAL_CHECK(known.rows == x.rows && known.cols == x.cols);
  known_[static_cast<size_t>(GroupSlot(known.group))] = known;
}

absl::StatusOr<QuantizedRows> LinearInput::quantized(const ComputeContext& context, int group) {
  const std::optional<QuantizedRows>& known = known_[static_cast<size_t>(GroupSlot(group))];
  if (!known) {
    const PhaseTimer timer(context, StepPhase::kNormQuantize);
    SHOAL_CHECK(x_.data != nullptr || x_.rows == 0);
    RETURN_IF_ERROR(fill(context, group, [](Range) {}));
  }
  return *known;
}

absl::Status LinearInput::fill(const ComputeContext& context, int group,
                               absl::FunctionRef<void(Range rows)> make_rows) {
  if (group == 0) {
    context.for_rows(x_.rows, x_.cols, make_rows);
    return absl::OkStatus();
  }
  std::byte* memory = context.arena->allocate_bytes(QuantizedRowsBytes(x_.rows, x_.cols, group));
  const QuantizedRows codes = QuantizedRowsIn(memory, x_.rows, x_.cols, group);
  std::atomic<bool> finite = true;
  context.for_rows(x_.rows, x_.cols, [&](Range rows) {
    make_rows(rows);
    if (!context.kernels->quantize_rows({.x = x_, .out = codes, .rows = rows})) {
      finite.store(false, std::memory_order_relaxed);
    }
  });
  if (!finite) return OutOfRange("an activation is not finite (NaN or infinity)");
  known_[static_cast<size_t>(GroupSlot(group))] = codes;
  return absl::OkStatus();
}

const QuantizedRows& LinearInput::known(int group) const {
  const std::optional<QuantizedRows>& known = known_[static_cast<size_t>(GroupSlot(group))];
  SHOAL_CHECK(known.has_value());
  return *known;
}

absl::Status RunLinears(const ComputeContext& context, LinearInput& input,
                        std::span<const LinearTask> tasks) {
  for (const LinearTask& task : tasks) {  // Codes first: they outlive the scope below.
    const int group = task.linear->activation_group(context.activations);
    if (group != 0) RETURN_IF_ERROR(input.quantized(context, group).status());
  }
  const ArenaScope scope(*context.arena);
  LinearBatch batch(context, input.x(), static_cast<int64_t>(tasks.size()));
  for (const LinearTask& task : tasks) {
    const int group = task.linear->activation_group(context.activations);
    SHOAL_CHECK(group != 0 || input.x().data != nullptr || task.rows.empty());
    batch.add(task, group == 0 ? nullptr : &input.known(group));
  }
  batch.run();
  return absl::OkStatus();
}

void RunExactLinear(const ComputeContext& context, MatView<const float> x, const Linear& linear,
                    MatView<float> y) {
  const ArenaScope scope(*context.arena);
  LinearBatch batch(context, x, 1);
  batch.add({&linear, y, {0, x.rows}}, nullptr);
  batch.run();
}

}  // namespace shoal
