#include "loading/stored_weight.h"

#include <string>
#include <vector>

#include "base/check.h"
#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

int64_t Cols(const WeightRef& ref) { return ref.shape.back(); }
int64_t Rows(const WeightRef& ref) { return ref.shape.size() == 1 ? 1 : ref.shape.front(); }

/// Rows of the stored matrix, of which the weight may be a slice.
int64_t StoredRows(const WeightRef& ref, const WeightSource& source) {
  return source.rows.empty() ? Rows(ref) : source.stored_rows;
}

/// Whether a vector that may be stored in one shape or another (the taps of a convolution) is stored as this source says.
bool HasItsShape(const Checkpoint& checkpoint, const WeightRef& ref, const WeightSource& source) {
  if (ref.shape.size() != 1 || !source.strided) return true;
  const TensorInfo* info = checkpoint.find(source.name());
  return info == nullptr || info->shape == source.strided->stored_shape;
}

/// The first place that the checkpoint has, first of all of its layout (WeightSource::only_with); where it has none, the
/// first, for the error.
const WeightSource& ChooseSource(const Checkpoint& checkpoint, const WeightRef& ref) {
  SHOAL_CHECK(!ref.sources.empty());
  for (const WeightSource& source : ref.sources) {
    if (!source.only_with.empty() && checkpoint.has(source.only_with) && checkpoint.has(source.name()))
      return source;
  }
  const WeightSource* known = nullptr;
  for (const WeightSource& source : ref.sources) {
    if (!source.only_with.empty() || !checkpoint.has(source.name())) continue;
    if (HasItsShape(checkpoint, ref, source)) return source;
    if (known == nullptr) known = &source;
  }
  if (known != nullptr) return *known;
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
  if (strided() && affine.rows > 0) {  // Rows of codes, which are columns of the weight.
    AffineView slice = affine;
    slice.rows = cols;
    const AffineBytes bytes = BytesOf(slice);
    return bytes.words + 2 * bytes.scales;
  }
  if (blocks.type != BlockType::kNone) return (strided() ? cols : rows) * blocks.row_bytes();
  if (!format.affine()) return elements() * DTypeBytes(format.dtype);
  AffineView slice = affine;
  slice.rows = rows;
  const AffineBytes bytes = BytesOf(slice);
  return bytes.words + 2 * bytes.scales;
}

absl::StatusOr<WeightFinder> WeightFinder::Create(const Checkpoint& checkpoint) {
  ASSIGN_OR_RETURN(Quantization quantization, Quantization::FromConfig(checkpoint.config()));
  return WeightFinder(checkpoint, std::move(quantization));
}

absl::StatusOr<StoredWeight> WeightFinder::find(const WeightRef& ref) const {
  const WeightSource& source = ChooseSource(*checkpoint_, ref);
  const int64_t stored_rows = StoredRows(ref, source);
  StoredWeight weight{.source = &source,
                      .rows = Rows(ref),
                      .cols = Cols(ref),
                      .first_row = source.rows.begin,
                      .row_interval = source.row_interval,
                      .row_run = source.row_run};
  weight.is_vector = ref.shape.size() == 1;
  if (source.strided) return find_strided(weight);
  SHOAL_CHECK(source.rows.empty() || (source.rows.end == weight.row_in_order(weight.rows - 1) + 1 &&
                                      source.rows.end <= stored_rows));

  if (ref.shape.size() == 2 && source.suffix == "weight" && IsQuantized(*checkpoint_, source.base)) {
    const MatrixShape shape{
        .rows = stored_rows, .cols = weight.cols, .experts = source.stack, .expert = source.index};
    ASSIGN_OR_RETURN(weight.affine, ViewAffine(*checkpoint_, quantization_, source.base, shape));
    weight.format = {
        .dtype = weight.affine.scale_dtype, .bits = weight.affine.bits, .group = weight.affine.group};
    const AffineView& parts = weight.affine;
    weight.absent = parts.words == nullptr || parts.scales == nullptr || parts.biases == nullptr;
    return weight;
  }
  std::vector<int64_t> shape;
  if (source.stack > 0) shape.push_back(source.stack);
  if (ref.shape.size() == 2) shape.push_back(stored_rows);
  shape.push_back(weight.cols);
  const TensorInfo* info = checkpoint_->find(source.name());
  if (info != nullptr && info->shape.empty() && ref.elements() == 1)
    shape.clear();  // A scalar is a vector of one.
  if (info != nullptr && info->permuted_heads > 0) {
    // A vector (a bias) is permuted as the rows of its matrix are.
    weight.head_rows = (ref.shape.size() == 2 ? stored_rows : weight.cols) / info->permuted_heads;
  }
  if (info != nullptr) weight.tiled = info->tiled;
  if (info != nullptr && info->blocks != BlockType::kNone && ref.shape.size() == 2) {
    return find_blocks(weight, *info, shape);
  }
  const absl::StatusOr<TensorView> view = checkpoint_->view(source.name(), kFloatWeights, shape);
  if (!view.ok()) return AlsoTried(view.status(), ref);
  weight.format = {.dtype = view->dtype};
  weight.data = checkpoint_->matrix(*info, source.stack, source.index);
  weight.absent = weight.data == nullptr;
  return weight;
}

absl::StatusOr<StoredWeight> WeightFinder::find_strided(StoredWeight weight) const {
  const WeightSource& source = *weight.source;
  const WeightSource::StridedView& strided = *source.strided;
  const TensorInfo* info = checkpoint_->find(source.name());
  const bool blocks = info != nullptr && info->blocks != BlockType::kNone;
  const bool transposed = strided.stored_shape.size() == 2 && strided.row_stride == 1 &&
                          strided.col_stride == strided.stored_shape.back();
  const bool quantized = source.suffix == "weight" && IsQuantized(*checkpoint_, source.base);
  if ((blocks || quantized) && !transposed) {
    return Unimplemented(
        "checkpoint: tensor '{}' in {}: expected a plain tensor, found a quantized one, whose values cannot "
        "be taken apart here; convert with a tool that splits it as mlx-lm does",
        source.name(), checkpoint_->folder());
  }
  weight.row_stride = strided.row_stride;
  weight.col_stride = strided.col_stride;
  if (blocks) {  // A scale is of a stored row, which is a column here: it has no exact place but as floats.
    ASSIGN_OR_RETURN(weight.blocks, checkpoint_->view_blocks(*info, strided.stored_shape));
    weight.format = {.dtype = DType::kF32};
    weight.first_row = strided.offset / strided.col_stride;
    weight.absent = Checkpoint::SlotOf(*info, source.index) < 0;
    return weight;
  }
  if (quantized) {  // As blocks above.
    const MatrixShape shape{.rows = strided.stored_shape[0], .cols = strided.stored_shape[1]};
    ASSIGN_OR_RETURN(weight.affine, ViewAffine(*checkpoint_, quantization_, source.base, shape));
    weight.format = {.dtype = DType::kF32};
    weight.first_row = strided.offset / strided.col_stride;
    const AffineView& parts = weight.affine;
    weight.absent = parts.words == nullptr || parts.scales == nullptr || parts.biases == nullptr;
    return weight;
  }
  const std::span<const DType> dtypes =
      source.ids ? std::span<const DType>(kIdWeights) : std::span<const DType>(kFloatWeights);
  ASSIGN_OR_RETURN(const TensorView view, checkpoint_->view(source.name(), dtypes, strided.stored_shape));
  weight.tiled = info->tiled;
  weight.format = {.dtype = view.dtype};
  weight.data = checkpoint_->matrix(*info, source.stack, source.index);
  weight.absent = weight.data == nullptr;
  if (!weight.absent) weight.data += strided.offset * DTypeBytes(view.dtype);
  return weight;
}

absl::StatusOr<StoredWeight> WeightFinder::find_blocks(StoredWeight weight, const TensorInfo& info,
                                                       std::span<const int64_t> shape) const {
  ASSIGN_OR_RETURN(weight.blocks, checkpoint_->view_blocks(info, shape));
  weight.format = {.dtype = weight.blocks.decoded_dtype(),
                   .bits = LawOf(weight.blocks.type).bits,
                   .group = weight.blocks.decoded_group()};
  // Groups that reach into two heads can't move with one of them.
  if (weight.tiled.of_columns() && weight.format.affine() && weight.tiled.size % weight.format.group != 0) {
    weight.format = {.dtype = DType::kF32};
  }
  const int64_t slot = Checkpoint::SlotOf(info, weight.source->index);
  weight.absent = slot < 0;
  if (shape.size() == 3) {
    // Without bytes, any matrix says what there is to say.
    BlockView& stack = weight.blocks;
    if (weight.absent) stack.data = stack.scales = nullptr;
    stack = stack.matrix(weight.absent ? 0 : slot, shape[0]);
  }
  return weight;
}

absl::Status CheckHere(const Checkpoint& checkpoint, const StoredWeight& weight) {
  if (!weight.absent) return absl::OkStatus();
  const Shard* shard = checkpoint.shard();
  SHOAL_CHECK(shard != nullptr);
  const WeightSource& source = *weight.source;
  return NotFound(
      "checkpoint: tensor '{}'{} is not in {}, which is the shard of node '{}' ({}) and not the whole model. "
      "Serve "
      "with the plan that the shards were made for, or make them again for this one: shoal convert "
      "--shard-for PLAN",
      source.name(), source.stack > 0 ? fmt::format(", matrix {} of {},", source.index, source.stack) : "",
      checkpoint.folder(), shard->node, shard->holds);
}

}  // namespace shoal
