#include "models/weight_reader.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

/// Source bytes that are packed before their pages are given back: large against a page, small against 200
/// MB.
constexpr int64_t kSlabBytes = int64_t{32} << 20;

int64_t Cols(const WeightRef& ref) { return ref.shape.back(); }
int64_t Rows(const WeightRef& ref) { return ref.shape.size() == 1 ? 1 : ref.shape.front(); }

/// Rows of the stored matrix, of which the weight may be a slice.
int64_t StoredRows(const WeightRef& ref, const WeightSource& source) {
  return source.rows.empty() ? Rows(ref) : source.stored_rows;
}

/// The first place that the checkpoint has; where it has none, the first of all, for the error.
const WeightSource& ChooseSource(const Checkpoint& checkpoint, const WeightRef& ref) {
  SHOAL_CHECK(!ref.sources.empty());
  for (const WeightSource& source : ref.sources) {
    if (checkpoint.has(source.name())) return source;
  }
  return ref.sources.front();
}

absl::Status AlsoTried(const absl::Status& status, const WeightRef& ref) {
  if (status.code() != absl::StatusCode::kNotFound || ref.sources.size() < 2) return status;
  std::vector<std::string> others;
  for (size_t i = 1; i < ref.sources.size(); ++i) others.push_back("'" + ref.sources[i].name() + "'");
  return NotFound("{}; nor is there {}", Message(status), Join(others, ", "));
}

}  // namespace

int64_t StoredWeight::stored_bytes() const {
  if (!format.affine()) return elements() * DTypeBytes(format.dtype);
  AffineView slice = affine;
  slice.rows = rows;
  const AffineBytes bytes = BytesOf(slice);
  return bytes.words + 2 * bytes.scales;
}

absl::StatusOr<WeightReader> WeightReader::Create(const Checkpoint& checkpoint) {
  ASSIGN_OR_RETURN(Quantization quantization, Quantization::FromConfig(checkpoint.config()));
  return WeightReader(checkpoint, std::move(quantization));
}

absl::StatusOr<StoredWeight> WeightReader::find(const WeightRef& ref) const {
  const WeightSource& source = ChooseSource(*checkpoint_, ref);
  const int64_t stored_rows = StoredRows(ref, source);
  StoredWeight weight{
      .source = &source, .rows = Rows(ref), .cols = Cols(ref), .first_row = source.rows.begin};
  SHOAL_CHECK(source.rows.empty() || (source.rows.size() == weight.rows && source.rows.end <= stored_rows));

  if (ref.shape.size() == 2 && source.suffix == "weight" && IsQuantized(*checkpoint_, source.base)) {
    const MatrixShape shape{
        .rows = stored_rows, .cols = weight.cols, .experts = source.stack, .expert = source.index};
    ASSIGN_OR_RETURN(weight.affine, ViewAffine(*checkpoint_, quantization_, source.base, shape));
    weight.format = {
        .dtype = weight.affine.scale_dtype, .bits = weight.affine.bits, .group = weight.affine.group};
    return weight;
  }
  std::vector<int64_t> shape;
  if (source.stack > 0) shape.push_back(source.stack);
  if (ref.shape.size() == 2) shape.push_back(stored_rows);
  shape.push_back(weight.cols);
  const absl::StatusOr<TensorView> view = checkpoint_->view(source.name(), kFloatWeights, shape);
  if (!view.ok()) return AlsoTried(view.status(), ref);
  weight.format = {.dtype = view->dtype};
  weight.data = view->data + source.index * stored_rows * weight.cols * DTypeBytes(view->dtype);
  return weight;
}

absl::StatusOr<StoredWeight> WeightReader::find(const LinearSpec& linear) const {
  ASSIGN_OR_RETURN(StoredWeight weight, find(linear.weight));
  const std::string bias = weight.source->base + ".bias";
  if (!linear.bias && checkpoint_->has(bias)) {
    return InvalidArgument(
        "checkpoint: tensor '{}' in {}: expected none, as {} says that this projection has no bias", bias,
        checkpoint_->folder(), checkpoint_->config().file());
  }
  return weight;
}

absl::StatusOr<PackedMatrix> WeightReader::pack(const StoredWeight& weight, ThreadPool& pool) const {
  ASSIGN_OR_RETURN(PackedMatrix packed, PackedMatrix::Allocate(weight.format, weight.rows, weight.cols));
  const int64_t row_bytes = std::max<int64_t>(1, weight.stored_bytes() / weight.rows);
  const int64_t slab_rows = std::max<int64_t>(kTileRows, kSlabBytes / row_bytes / kTileRows * kTileRows);
  for (int64_t begin = 0; begin < weight.rows; begin += slab_rows) {
    const Range slab{begin, std::min(weight.rows, begin + slab_rows)};
    pool.run_parts(slab.size(), kTileRows, [&](Range part) {
      const int64_t first = slab.begin + part.begin;
      const Range source{weight.first_row + first, weight.first_row + first + part.size()};
      if (weight.format.affine()) {
        packed.set_affine_rows(first, weight.affine, source);
      } else {
        packed.set_float_rows(first, weight.data, weight.cols, source);
      }
    });
    drop_rows(weight, {weight.first_row + slab.begin, weight.first_row + slab.end});
  }
  return packed;
}

void WeightReader::drop_rows(const StoredWeight& weight, Range rows) const {
  const auto drop = [&](const void* data, int64_t row_bytes) {
    checkpoint_->drop(static_cast<const std::byte*>(data) + rows.begin * row_bytes, rows.size() * row_bytes);
  };
  if (!weight.format.affine()) return drop(weight.data, weight.cols * DTypeBytes(weight.format.dtype));
  const AffineView& view = weight.affine;
  const int64_t scale_bytes = view.groups_per_row() * DTypeBytes(view.scale_dtype);
  drop(view.words, view.words_per_row() * 4);
  drop(view.scales, scale_bytes);
  drop(view.biases, scale_bytes);
}

absl::StatusOr<std::vector<float>> WeightReader::read_vector(const WeightRef& ref) const {
  SHOAL_CHECK_EQ(ref.shape.size(), 1u);
  ASSIGN_OR_RETURN(const StoredWeight weight, find(ref));
  std::vector<float> values(static_cast<size_t>(weight.cols));
  for (int64_t i = 0; i < weight.cols; ++i) {
    values[static_cast<size_t>(i)] = LoadFloatWeight(weight.data, weight.format.dtype, i);
  }
  return values;
}

}  // namespace shoal
