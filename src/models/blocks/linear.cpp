#include "models/blocks/linear.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "models/step_profile.h"

namespace shoal {
namespace {

int GroupSlot(int group) {
  SHOAL_CHECK(IsAffineGroup(group));
  return group == 32 ? 0 : group == 64 ? 1 : 2;
}

constexpr int64_t kTasksMax = 4;

}  // namespace

/// What every thread of a batch does.
class LinearBatch {
 public:
  LinearBatch(const ComputeContext& context, MatView<const float> x) : context_(context), x_(x) {}

  /// codes: nullptr where the rows enter as f32.
  void add(const Linear& linear, MatView<float> y, const QuantizedRows* codes) {
    SHOAL_CHECK_LT(size_, kTasksMax);
    SHOAL_CHECK(y.rows == x_.rows && y.cols == linear.rows() && x_.cols == linear.cols());
    items_[static_cast<size_t>(size_++)] = {&linear, y, codes == nullptr ? QuantizedRows{} : *codes};
    tiles_ += linear.weight().view().tiles();
  }

  /// Tiles of all products in a row, cut into equal parts.
  void run() {
    if (x_.rows == 0) return;
    context_.for_parts(tiles_, x_.rows * tiles_ * kTileRows * x_.cols, [this](Range part) {
      int64_t first = 0;
      for (const Item& item : std::span(items_).first(static_cast<size_t>(size_))) {
        const int64_t tiles = item.linear->weight().view().tiles();
        const Range mine{std::max<int64_t>(part.begin - first, 0), std::min(part.end - first, tiles)};
        if (!mine.empty()) multiply(item, mine);
        first += tiles;
      }
    });
  }

 private:
  struct Item {
    const Linear* linear = nullptr;
    MatView<float> y;
    QuantizedRows codes;
  };

  void multiply(const Item& item, Range tiles) const {
    const PackedView w = item.linear->weight().view();
    if (item.codes.codes != nullptr) {
      context_.kernels->matmul_affine({.x = item.codes, .w = w, .y = item.y, .tiles = tiles});
    } else {
      context_.kernels->matmul_float({.x = x_, .w = w, .y = item.y, .tiles = tiles});
    }
    if (item.linear->bias_.empty()) return;
    const Range cols{tiles.begin * kTileRows, std::min(w.rows, tiles.end * kTileRows)};
    context_.kernels->add_bias({.bias = item.linear->bias_.data() + cols.begin,
                                .y = item.y.cols_between(cols.begin, cols.end),
                                .rows = {0, item.y.rows}});
  }

  const ComputeContext& context_;
  MatView<const float> x_;
  std::array<Item, kTasksMax> items_;
  int64_t size_ = 0;
  int64_t tiles_ = 0;
};

absl::StatusOr<Linear> Linear::Load(const WeightReader& reader, const LinearSpec& spec, ThreadPool& pool) {
  Linear linear;
  ASSIGN_OR_RETURN(const StoredWeight weight, reader.find(spec));
  ASSIGN_OR_RETURN(linear.weight_, reader.pack(weight, pool));
  if (spec.bias) {
    ASSIGN_OR_RETURN(linear.bias_, reader.read_vector(*spec.bias));
  }
  return linear;
}

LinearInput::LinearInput(MatView<const float> x, const QuantizedRows& known) : x_(x) {
  SHOAL_CHECK(known.rows == x.rows && known.cols == x.cols);
  known_[static_cast<size_t>(GroupSlot(known.group))] = known;
}

absl::StatusOr<QuantizedRows> LinearInput::quantized(const ComputeContext& context, int group) {
  std::optional<QuantizedRows>& known = known_[static_cast<size_t>(GroupSlot(group))];
  if (known) return *known;
  const PartTimer timer(context, StepPart::kNormQuantize);
  SHOAL_CHECK(x_.data != nullptr || x_.rows == 0);
  std::byte* memory = context.arena->allocate_bytes(QuantizedRowsBytes(x_.rows, x_.cols, group));
  const QuantizedRows codes = QuantizedRowsIn(memory, x_.rows, x_.cols, group);
  std::atomic<bool> finite = true;
  context.for_rows(x_.rows, x_.cols, [&](Range rows) {
    if (!context.kernels->quantize_rows({.x = x_, .out = codes, .rows = rows})) {
      finite.store(false, std::memory_order_relaxed);
    }
  });
  if (!finite) return OutOfRange("an activation is not finite (NaN or infinity)");
  known = codes;
  return codes;
}

absl::Status RunLinears(const ComputeContext& context, LinearInput& input,
                        std::span<const LinearTask> tasks) {
  LinearBatch batch(context, input.x());
  for (const LinearTask& task : tasks) {
    const int group = task.linear->activation_group(context.activations);
    if (group == 0) {
      SHOAL_CHECK(input.x().data != nullptr || input.rows() == 0);
      batch.add(*task.linear, task.y, nullptr);
      continue;
    }
    ASSIGN_OR_RETURN(const QuantizedRows codes, input.quantized(context, group));
    batch.add(*task.linear, task.y, &codes);
  }
  batch.run();
  return absl::OkStatus();
}

void RunExactLinear(const ComputeContext& context, MatView<const float> x, const Linear& linear,
                    MatView<float> y) {
  LinearBatch batch(context, x);
  batch.add(linear, y, nullptr);
  batch.run();
}

}  // namespace shoal
