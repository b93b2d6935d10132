#include "loading/packed_store.h"

#include <algorithm>
#include <mutex>
#include <span>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "formats/content_hash.h"
#include "numeric/version.h"

namespace shoal {
namespace {

/// Bytes that are read or written, and hashed, at a time: they stay in a core's cache in between.
constexpr int64_t kChunkBytes = int64_t{512} << 10;

/// "bf16 4-bit groups of 64 [6144, 2048]".
std::string FormatText(const PackedFormat& format, int64_t rows, int64_t cols) {
  const std::string shape = fmt::format("[{}, {}]", rows, cols);
  if (!format.affine()) return fmt::format("{} {}", DTypeName(format.dtype), shape);
  return fmt::format("{} {}-bit groups of {} {}", DTypeName(format.dtype), format.bits, format.group, shape);
}

/// Calls visit(tiles) for ranges of the entry's tiles of about a chunk each, until one fails.
template <typename Visit>
absl::Status InChunks(const PackedEntry& entry, Range tiles, Visit visit) {
  const int64_t chunk = std::max<int64_t>(1, kChunkBytes / entry.tile_bytes);
  for (int64_t begin = tiles.begin; begin < tiles.end; begin += chunk) {
    RETURN_IF_ERROR(visit(Range{begin, std::min(tiles.end, begin + chunk)}));
  }
  return absl::OkStatus();
}

/// `at`: the first byte of the entry.
uint64_t HashTiles(const PackedEntry& entry, const std::byte* at, Range tiles) {
  uint64_t sum = 0;
  for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
    sum += ChunkHash({at + tile * entry.tile_bytes, static_cast<size_t>(entry.tile_bytes)}, tile);
  }
  return sum;
}

/// Calls visit(entry's index, its tiles) for one thread's part of every batch: the tiles of a batch stand
/// in a row, which is cut as products cut it.
template <typename Visit>
absl::Status ForPartOfBatches(const std::vector<PackedEntry>& entries, int worker, int workers, Visit visit) {
  for (size_t begin = 0; begin < entries.size();) {
    size_t end = begin;
    int64_t tiles = 0;
    for (; end < entries.size() && entries[end].batch == entries[begin].batch; ++end) {
      tiles += entries[end].tiles;
    }
    const Range part = StaticPart(tiles, 1, worker, workers);
    int64_t first = 0;
    for (size_t i = begin; i < end; ++i) {
      const Range mine{std::max<int64_t>(part.begin - first, 0),
                       std::min(part.end - first, entries[i].tiles)};
      if (!mine.empty()) RETURN_IF_ERROR(visit(i, mine));
      first += entries[i].tiles;
    }
    begin = end;
  }
  return absl::OkStatus();
}

}  // namespace

PackedStore::~PackedStore() {
  stopping_ = true;
  finish_saving();
}

void PackedStore::open(std::shared_ptr<const PackedCache> cache, std::shared_ptr<const Checkpoint> checkpoint,
                       const std::string& shard, ThreadPool& pool) {
  SHOAL_CHECK(cache_ == nullptr && entries_.empty());
  cache_ = std::move(cache);
  checkpoint_ = std::move(checkpoint);
  about_ = fmt::format("{}: {}", checkpoint_->folder(), shard);
  identity_ = fmt::format("packing {}, numerics {}, content {}, {}", kPackingVersion, kNumericsVersion,
                          checkpoint_->content_identity(), shard);
  const absl::StatusOr<PackedFile> file = cache_->open(identity_);
  absl::Status status = file.status();
  if (status.ok()) status = read(*file, pool);
  if (status.ok()) return file->touch();
  file_memory_.reset();
  file_entries_.clear();
  file_index_.clear();
  if (status.code() == absl::StatusCode::kNotFound) return;
  LogWarning("packed cache: {}; packing the weights again", Message(status));
}

absl::Status PackedStore::read(const PackedFile& file, ThreadPool& pool) {
  file_entries_ = file.table().entries;
  const int64_t begin = file_entries_.front().offset;
  ASSIGN_OR_RETURN(file_memory_, SharedMemory(file.table().file_bytes() - begin));
  std::vector<std::atomic<uint64_t>> hashes(file_entries_.size());
  std::mutex mutex;
  absl::Status first_error;
  pool.run([&](int worker, int workers) {
    const absl::Status status = ForPartOfBatches(file_entries_, worker, workers, [&](size_t i, Range tiles) {
      const PackedEntry& entry = file_entries_[i];
      std::byte* const at = file_memory_.get() + (entry.offset - begin);
      return InChunks(entry, tiles, [&](Range chunk) -> absl::Status {
        const int64_t first = chunk.begin * entry.tile_bytes;
        const auto size = static_cast<size_t>(chunk.size() * entry.tile_bytes);
        RETURN_IF_ERROR(file.read(entry.offset + first, {at + first, size}));
        hashes[i] += HashTiles(entry, at, chunk);
        return absl::OkStatus();
      });
    });
    const std::lock_guard lock(mutex);
    if (first_error.ok()) first_error = status;
  });
  RETURN_IF_ERROR(first_error);
  for (size_t i = 0; i < file_entries_.size(); ++i) {
    if (hashes[i] != file_entries_[i].hash) {
      return DataLoss("{}: matrix '{}' is not as it was written (its hash is another)", file.path(),
                      file_entries_[i].name);
    }
    file_index_.emplace(file_entries_[i].name, i);
  }
  return absl::OkStatus();
}

absl::StatusOr<PackedStore::Place> PackedStore::place(const std::string& name, const PackedFormat& format,
                                                      int64_t rows, int64_t cols, uint32_t batch) {
  if (const auto known = index_.find(name); known != index_.end()) {
    return Place{.matrix = matrices_[known->second], .packed = true};
  }
  PackedEntry entry{.name = name, .format = FormatText(format, rows, cols), .batch = batch};
  const int64_t bytes = PackedBytes(format, rows, cols);
  entry.tiles = (rows + kTileRows - 1) / kTileRows;
  entry.tile_bytes = bytes / entry.tiles;
  Place place;
  const auto found = file_index_.find(name);
  if (found != file_index_.end() && file_entries_[found->second].format == entry.format &&
      file_entries_[found->second].bytes() == bytes) {
    const int64_t at = file_entries_[found->second].offset - file_entries_.front().offset;
    place.matrix = PackedMatrix::In({file_memory_, file_memory_.get() + at}, format, rows, cols);
    place.packed = true;
  } else {
    ASSIGN_OR_RETURN(std::shared_ptr<std::byte> memory, slabs_.allocate(bytes));
    place.matrix = PackedMatrix::In(std::move(memory), format, rows, cols);
    missed_ = true;
  }
  index_.emplace(name, entries_.size());
  entries_.push_back(std::move(entry));
  matrices_.push_back(place.matrix);
  return place;
}

void PackedStore::save() {
  if (cache_ == nullptr || from_cache() || entries_.empty()) return;
  SHOAL_CHECK(!saver_.joinable());
  if (!checkpoint_->content_settled()) {
    LogInfo("packed cache: {} changed within the last two seconds; its packed weights are not kept",
            checkpoint_->folder());
    return;
  }
  saver_ = std::thread([this] {
    const absl::Status status = write();
    if (status.ok() || status.code() == absl::StatusCode::kCancelled) return;
    LogWarning("packed cache: {}; going on without: the next start packs the weights again", Message(status));
  });
}

absl::Status PackedStore::write() const {
  PackedTable table{.identity = identity_, .about = about_, .entries = entries_};
  LayOutPackedFile(table);
  ASSIGN_OR_RETURN(PackedFileWriter writer, cache_->create(table));
  for (size_t i = 0; i < table.entries.size(); ++i) {
    PackedEntry& entry = table.entries[i];
    const auto* const at = reinterpret_cast<const std::byte*>(matrices_[i].view().data);
    RETURN_IF_ERROR(InChunks(entry, {0, entry.tiles}, [&](Range chunk) -> absl::Status {
      if (stopping_) return Cancelled("stopping");
      const int64_t first = chunk.begin * entry.tile_bytes;
      entry.hash += HashTiles(entry, at, chunk);
      return writer.write(entry.offset + first,
                          {at + first, static_cast<size_t>(chunk.size() * entry.tile_bytes)});
    }));
  }
  // Had a file changed while it was being read, what was packed would belong to neither of its states.
  if (!checkpoint_->content_settled()) return Cancelled("the checkpoint changed");
  RETURN_IF_ERROR(writer.finish(table));
  LogInfo("packed cache: saved {}, {}", writer.path(), FormatBytes(table.file_bytes()));
  return absl::OkStatus();
}

void PackedStore::finish_saving() {
  if (saver_.joinable()) saver_.join();
}

}  // namespace shoal
