#include "loading/weight_loader.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "base/text.h"
#include "formats/content_hash.h"
#include "models/stored_form.h"
#include "numeric/transcendental.h"

namespace shoal {
namespace {

/// Source bytes, over all threads, that are packed before their pages are given back; as many are read ahead.
/// Large against a page and against what taking pages from a map costs, which interrupts every other thread;
/// small against the 200 MB that a node may take beside weights and cache.
constexpr int64_t kSlabBytes = int64_t{16} << 20;
/// Chunks in a slab, at least: so far may what is held exceed it.
constexpr int64_t kChunksPerSlab = 4;

}  // namespace

absl::StatusOr<WeightLoader> WeightLoader::Create(const Checkpoint& checkpoint) {
  ASSIGN_OR_RETURN(WeightFinder finder, WeightFinder::Create(checkpoint));
  return WeightLoader(std::make_shared<const WeightFinder>(std::move(finder)));
}

absl::StatusOr<StoredWeight> WeightLoader::find(const WeightRef& ref) const {
  if (const StoredWeight* known = resolved_ == nullptr ? nullptr : resolved_->find(ref)) return *known;
  return finder_->find(ref);
}

absl::StatusOr<StoredWeight> WeightLoader::find(const LinearSpec& linear) const {
  const StoredWeight* known = resolved_ == nullptr ? nullptr : resolved_->find(linear.weight);
  if (known != nullptr) return *known;  // ResolvedWeights refuses a bias without a place in the spec.
  ASSIGN_OR_RETURN(StoredWeight weight, finder_->find(linear.weight));
  const std::string bias = weight.source->base + ".bias";
  if (!linear.bias && checkpoint_->has(bias)) {
    return InvalidArgument(
        "checkpoint: tensor '{}' in {}: expected none, as {} says that this projection has no bias", bias,
        checkpoint_->folder(), checkpoint_->config().file());
  }
  return weight;
}

std::string WeightLoader::PackedName(const StoredWeight& weight) {
  const WeightSource& source = *weight.source;
  std::string name = source.name();
  if (source.stack > 0) name += fmt::format("[{}]", source.index);
  if (!source.rows.empty()) name += fmt::format("[{}:{}]", source.rows.begin, source.rows.end);
  if (source.row_interval > 1) name += fmt::format("[::{}]", source.row_interval);
  if (source.row_run > 1) name += fmt::format("[runs of {}]", source.row_run);
  if (source.strided)
    name += fmt::format("[{}+{}+{}]", source.strided->offset, weight.row_stride, weight.col_stride);
  return name;
}

absl::StatusOr<PackedStore::Place> WeightLoader::place(const StoredWeight& weight) const {
  if (store_ == nullptr) {
    ASSIGN_OR_RETURN(PackedMatrix matrix, PackedMatrix::Allocate(weight.format, weight.rows, weight.cols));
    return PackedStore::Place{.matrix = std::move(matrix)};
  }
  return store_->place(weight.unit, PackedName(weight), weight.format, weight.rows, weight.cols);
}

/// Rows of one of the weights that are packed together.
struct WeightLoader::Chunk {
  const StoredWeight* weight = nullptr;
  size_t index = 0;  ///< Of the weight among them.
  Range rows;
  int64_t bytes = 0;  ///< Of these rows in the files.
};

void WeightLoader::Cut(const StoredWeight& weight, size_t index, Range tiles, int64_t slab_bytes,
                       std::vector<Chunk>& chunks) {
  const Range rows{tiles.begin * kTileRows, std::min(weight.rows, tiles.end * kTileRows)};
  const int64_t row_bytes = std::max<int64_t>(1, weight.stored_bytes() / weight.rows);
  // Every row of a strided view reads nearly all of its bytes.
  const int64_t step = weight.strided() ? weight.rows : slab_bytes / kChunksPerSlab / row_bytes;
  const int64_t chunk_rows = std::max<int64_t>(1, step / kTileRows) * kTileRows;
  for (int64_t row = rows.begin; row < rows.end; row += chunk_rows) {
    const Range chunk{row, std::min(rows.end, row + chunk_rows)};
    chunks.push_back({&weight, index, chunk, chunk.size() * row_bytes});
  }
}

absl::StatusOr<std::vector<PackedMatrix>> WeightLoader::pack(std::span<const StoredWeight> weights,
                                                             ThreadPool& pool) const {
  if (store_ != nullptr && !weights.empty()) store_->begin_batch(weights[0].unit.layer);
  std::vector<PackedStore::Place> places;
  for (const StoredWeight& weight : weights) {
    RETURN_IF_ERROR(CheckHere(*checkpoint_, weight));
    ASSIGN_OR_RETURN(places.emplace_back(), place(weight));
  }
  RETURN_IF_ERROR(fill(weights, places, pool));
  if (store_ != nullptr) {
    for (PackedStore::Place& place : places) store_->settle(place);
    RETURN_IF_ERROR(fill(weights, places, pool));  // What was damaged in a file.
  }
  std::vector<PackedMatrix> packed;
  for (PackedStore::Place& place : places) packed.push_back(std::move(place.matrix));
  return packed;
}

absl::Status WeightLoader::fill(std::span<const StoredWeight> weights, std::span<PackedStore::Place> places,
                                ThreadPool& pool) const {
  using State = PackedStore::Place::State;
  const auto tiles_of = [](const PackedStore::Place& place) {
    return place.state == State::kReady ? 0 : place.matrix.view().tiles();
  };
  int64_t tiles_total = 0;
  for (const PackedStore::Place& place : places) tiles_total += tiles_of(place);
  if (tiles_total == 0) return absl::OkStatus();
  const int64_t slab_bytes = kSlabBytes / pool.threads();
  std::mutex mutex;
  absl::Status first_error;
  const auto fill_part = [&](Range part) -> absl::Status {
    std::vector<Chunk> chunks;
    int64_t first = 0;  // Tile of this matrix in the row of all.
    for (size_t i = 0; i < places.size() && first < part.end; ++i) {
      const int64_t tiles = tiles_of(places[i]);
      const Range mine{std::max<int64_t>(part.begin - first, 0), std::min(part.end - first, tiles)};
      first += tiles;
      if (mine.empty()) continue;
      if (places[i].state == State::kCached) {
        RETURN_IF_ERROR(store_->check_cancelled());
        store_->read(places[i], mine);
      } else {
        Cut(weights[i], i, mine, slab_bytes, chunks);
      }
    }
    return pack_chunks(chunks, slab_bytes, places);
  };
  // Not in chunks that others take: a part is read ahead of where it is packed.
  pool.run([&](int worker, int threads) {
    const Range part = StaticRange(tiles_total, 1, worker, threads);
    if (part.empty()) return;
    const absl::Status status = fill_part(part);
    const std::lock_guard lock(mutex);
    if (first_error.ok()) first_error = status;
  });
  RETURN_IF_ERROR(first_error);
  for (PackedStore::Place& place : places) {
    if (place.state == State::kEmpty) place.state = State::kReady;
  }
  return absl::OkStatus();
}

namespace {

/// Gives pages back, those of sources that lie side by side in one call: the matrices of a stack, or the
/// tensors of one file. (Two files never meet: each begins with a header.)
void DropTogether(const Checkpoint& checkpoint, std::vector<std::span<const std::byte>>& sources) {
  std::ranges::sort(sources, {}, [](std::span<const std::byte> source) { return source.data(); });
  for (size_t i = 0; i < sources.size();) {
    const std::byte* const begin = sources[i].data();
    const std::byte* end = begin;
    for (; i < sources.size() && sources[i].data() <= end; ++i) {
      end = std::max(end, sources[i].data() + sources[i].size());
    }
    checkpoint.drop(begin, end - begin);
  }
  sources.clear();
}

/// Rows of a weight that is a strided view of a tensor, row by row.
void PackStrided(const StoredWeight& weight, Range rows, PackedMatrix& packed) {
  const auto bytes = static_cast<size_t>(DTypeBytes(weight.format.dtype));
  std::vector<std::byte> row(static_cast<size_t>(weight.cols) * bytes);
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    for (int64_t k = 0; k < weight.cols; ++k) {
      const int64_t at = n * weight.row_stride + k * weight.col_stride;
      std::memcpy(row.data() + static_cast<size_t>(k) * bytes, weight.data + static_cast<size_t>(at) * bytes,
                  bytes);
    }
    packed.set_float_rows(n, row.data(), weight.cols, {0, 1});
  }
}

}  // namespace

absl::Status WeightLoader::pack_chunks(std::span<const Chunk> chunks, int64_t slab_bytes,
                                       std::span<PackedStore::Place> places) const {
  size_t next = 0;     // The first chunk that is not being read yet.
  int64_t ahead = 0;   // Bytes that are, and are to be packed.
  int64_t behind = 0;  // Bytes that are packed, and in `sources`.
  std::vector<std::span<const std::byte>> sources;
  for (const Chunk& chunk : chunks) {
    if (store_ != nullptr) RETURN_IF_ERROR(store_->check_cancelled());
    for (; next < chunks.size() && ahead <= slab_bytes; ++next) {
      for_sources(*chunks[next].weight, chunks[next].rows,
                  [&](const std::byte* data, int64_t bytes) { checkpoint_->will_need(data, bytes); });
      ahead += chunks[next].bytes;
    }
    RETURN_IF_ERROR(pack_rows(*chunk.weight, chunk.rows, places[chunk.index].matrix));
    for_sources(*chunk.weight, chunk.rows, [&](const std::byte* data, int64_t bytes) {
      sources.emplace_back(data, static_cast<size_t>(bytes));
    });
    ahead -= chunk.bytes;
    behind += chunk.bytes;
    if (behind < slab_bytes) continue;
    DropTogether(*checkpoint_, sources);
    behind = 0;
  }
  DropTogether(*checkpoint_, sources);
  return absl::OkStatus();
}

absl::Status WeightLoader::pack_into(const StoredWeight& weight, PackedMatrix& packed) const {
  RETURN_IF_ERROR(CheckHere(*checkpoint_, weight));
  std::vector<std::span<const std::byte>> sources;
  const Range all{0, weight.rows};
  for_sources(weight, all, [&](const std::byte* data, int64_t bytes) {
    checkpoint_->will_need(data, bytes);
    sources.emplace_back(data, static_cast<size_t>(bytes));
  });
  RETURN_IF_ERROR(pack_rows(weight, all, packed));
  DropTogether(*checkpoint_, sources);
  return absl::OkStatus();
}

absl::Status WeightLoader::decode(const StoredWeight& weight, const std::vector<int64_t>& rows,
                                  DecodedRows& decoded) const {
  if (decoded.decode(weight.blocks, rows)) {
    if (weight.tiled.of_columns() && !weight.codes_as_floats()) decoded.order_columns(weight.tiled);
    return absl::OkStatus();
  }
  return DataLoss(
      "checkpoint: tensor '{}' in {}: row {}: expected finite scales that {} groups hold exactly, found "
      "another. "
      "The file is damaged: download it again.",
      weight.source->name(), checkpoint_->folder(), decoded.bad_row(), DTypeName(weight.format.dtype));
}

absl::Status WeightLoader::pack_rows(const StoredWeight& weight, Range rows, PackedMatrix& packed) const {
  if (weight.codes_as_floats()) {
    std::vector<float> values(static_cast<size_t>(rows.size() * weight.cols));
    RETURN_IF_ERROR(read_rows(weight, rows, values.data()));
    packed.set_float_rows(rows.begin, values.data(), weight.cols, {0, rows.size()});
    return absl::OkStatus();
  }
  if (weight.strided()) {
    PackStrided(weight, rows, packed);
    return absl::OkStatus();
  }
  if (weight.blocks.type != BlockType::kNone) {
    // A tile at a time: what is decoded stays in the core's cache until it is packed.
    DecodedRows decoded;
    std::vector<int64_t> stored;
    for (int64_t begin = rows.begin; begin < rows.end; begin += kTileRows) {
      stored.clear();
      for (int64_t r = begin; r < std::min(rows.end, begin + kTileRows); ++r)
        stored.push_back(weight.stored_row(r));
      RETURN_IF_ERROR(decode(weight, stored, decoded));
      const Range all{0, std::ssize(stored)};
      if (weight.format.affine()) {
        packed.set_affine_rows(begin, decoded.affine(), all);
      } else {
        packed.set_float_rows(begin, decoded.floats(), weight.cols, all);
      }
    }
    return absl::OkStatus();
  }
  const auto set_rows = [&](int64_t row, Range stored) {
    if (weight.format.affine()) {
      packed.set_affine_rows(row, weight.affine, stored);
    } else if (weight.tiled.of_columns()) {
      const int64_t row_bytes = weight.cols * DTypeBytes(weight.format.dtype);
      std::vector<std::byte> in_order(static_cast<size_t>(stored.size() * row_bytes));
      OrderColumns(weight.tiled, weight.data + stored.begin * row_bytes, stored.size(), row_bytes,
                   in_order.data());
      packed.set_float_rows(row, in_order.data(), weight.cols, {0, stored.size()});
    } else {
      packed.set_float_rows(row, weight.data, weight.cols, stored);
    }
  };
  for (int64_t row = rows.begin; row < rows.end;) {
    const int64_t count = std::min(weight.run_from(row), rows.end - row);
    const int64_t stored = weight.stored_row(row);
    set_rows(row, {stored, stored + count});
    row += count;
  }
  return absl::OkStatus();
}

void WeightLoader::for_sources(const StoredWeight& weight, Range rows,
                               absl::FunctionRef<void(const std::byte* data, int64_t bytes)> visit) const {
  const bool transposed = weight.transposed_codes();
  const Range stored{transposed ? weight.first_row : weight.row_in_order(rows.begin),
                     transposed ? weight.first_row + weight.cols : weight.row_in_order(rows.end - 1) + 1};
  const auto visit_rows = [&](const void* data, int64_t row_bytes) {
    const auto* first = static_cast<const std::byte*>(data);
    if (!weight.tiled.of_rows() || weight.is_vector)
      return visit(first + stored.begin * row_bytes, stored.size() * row_bytes);
    for (int64_t row = rows.begin; row < rows.end;) {
      const int64_t count = std::min(weight.run_from(row), rows.end - row);
      visit(first + weight.stored_row(row) * row_bytes, count * row_bytes);
      row += count;
    }
  };
  if (weight.blocks.type != BlockType::kNone)
    return visit_rows(weight.blocks.data, weight.blocks.row_bytes());
  if (!weight.format.affine() && !transposed) {
    const int64_t element = DTypeBytes(weight.format.dtype);
    if (!weight.strided()) return visit_rows(weight.data, weight.cols * element);
    const int64_t last = (rows.size() - 1) * weight.row_stride + (weight.cols - 1) * weight.col_stride;
    return visit(weight.data + rows.begin * weight.row_stride * element, (last + 1) * element);
  }
  const AffineView& view = weight.affine;
  const int64_t scale_bytes = view.groups_per_row() * DTypeBytes(view.scale_dtype);
  visit_rows(view.words, view.words_per_row() * 4);
  visit_rows(view.scales, scale_bytes);
  visit_rows(view.biases, scale_bytes);
}

uint64_t WeightLoader::row_hash(const StoredWeight& weight, int64_t row) const {
  SHOAL_CHECK(!weight.absent && row >= 0 && row < weight.rows);
  constexpr int64_t kBytesMax = 64 << 10;
  uint64_t hash = 0;
  for_sources(weight, {row, row + 1}, [&](const std::byte* data, int64_t bytes) {
    bytes = std::min(bytes, kBytesMax);
    hash = ContentHash({data, static_cast<size_t>(bytes)}, hash);
    checkpoint_->drop(data, bytes);
  });
  return hash;
}

absl::Status WeightLoader::read_transposed(const StoredWeight& weight, Range rows, float* out) const {
  DecodedRows decoded;
  const bool blocks = weight.blocks.type != BlockType::kNone;
  for (int64_t col = 0; col < weight.cols; ++col) {
    const int64_t stored = weight.first_row + col;
    if (blocks) RETURN_IF_ERROR(decode(weight, {stored}, decoded));
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      out[(row - rows.begin) * weight.cols + col] =
          blocks ? decoded.value(0, row) : AffineValue(weight.affine, stored, row);
    }
  }
  return absl::OkStatus();
}

namespace {

/// An element of a tensor of floats, or of ids (WeightSource::ids).
float LoadNumber(const std::byte* data, DType dtype, int64_t index) {
  if (dtype == DType::kI64) {
    int64_t value;
    std::memcpy(&value, data + index * 8, 8);
    return static_cast<float>(value);
  }
  if (dtype == DType::kI32) {
    int32_t value;
    std::memcpy(&value, data + index * 4, 4);
    return static_cast<float>(value);
  }
  return LoadFloatWeight(data, dtype, index);
}

}  // namespace

absl::Status WeightLoader::read_rows(const StoredWeight& weight, Range rows, float* out) const {
  SHOAL_CHECK(0 <= rows.begin && rows.end <= weight.rows);
  RETURN_IF_ERROR(CheckHere(*checkpoint_, weight));
  const bool blocks = weight.blocks.type != BlockType::kNone;
  if (weight.transposed_codes()) return read_transposed(weight, rows, out);
  const bool in_file_order = weight.codes_as_floats();  // Of the columns that are decoded.
  DecodedRows decoded;
  for (int64_t row = rows.begin; row < rows.end; ++row, out += weight.cols) {
    const int64_t stored = weight.stored_row(row);
    if (blocks) RETURN_IF_ERROR(decode(weight, {stored}, decoded));
    for (int64_t col = 0; col < weight.cols; ++col) {
      if (blocks) {
        out[col] = decoded.value(0, in_file_order ? weight.stored_col(col) : col);
      } else if (weight.strided()) {
        const int64_t at = row * weight.row_stride + weight.stored_col(col) * weight.col_stride;
        out[col] = LoadNumber(weight.data, weight.format.dtype, at);
      } else if (weight.format.affine()) {
        out[col] = AffineValue(weight.affine, stored, col);
      } else if (weight.is_vector) {  // One row, whose elements are what a permutation moves.
        out[col] = LoadFloatWeight(weight.data, weight.format.dtype, weight.stored_col(col));
      } else {
        const int64_t at = stored * weight.cols + weight.stored_col(col);
        out[col] = LoadFloatWeight(weight.data, weight.format.dtype, at);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status WeightLoader::read_block_row(const StoredWeight& weight, int64_t row,
                                          DecodedRows& decoded) const {
  SHOAL_CHECK(weight.blocks.type != BlockType::kNone && !weight.strided());
  SHOAL_CHECK(0 <= row && row < weight.rows);
  RETURN_IF_ERROR(CheckHere(*checkpoint_, weight));
  return decode(weight, {weight.stored_row(row)}, decoded);
}

void WeightLoader::drop(const StoredWeight& weight) const {
  if (weight.absent) return;
  for_sources(weight, {0, weight.rows},
              [&](const std::byte* data, int64_t bytes) { checkpoint_->drop(data, bytes); });
}

absl::StatusOr<std::vector<float>> WeightLoader::read_vector(const WeightRef& ref) const {
  SHOAL_CHECK_EQ(ref.shape.size(), 1u);
  ASSIGN_OR_RETURN(const StoredWeight weight, find(ref));
  std::vector<float> values(static_cast<size_t>(weight.cols));
  RETURN_IF_ERROR(read_rows(weight, {0, 1}, values.data()));
  for (float& value : values) value += weight.source->offset;
  return values;
}

absl::StatusOr<std::vector<float>> WeightLoader::read_exp(const WeightRef& ref) const {
  ASSIGN_OR_RETURN(const StoredWeight weight, find(ref));
  ASSIGN_OR_RETURN(std::vector<float> values, read_vector(ref));
  for (float& value : values)
    value = weight.source->suffix == kMinusExpSuffix ? -value : static_cast<float>(Exp(value));
  return values;
}

}  // namespace shoal
