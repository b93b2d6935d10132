#include "loading/packed_store.h"

#include <algorithm>
#include <cstring>
#include <unordered_set>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/process.h"
#include "base/status.h"
#include "base/text.h"
#include "loading/packed_entry.h"

namespace shoal {
namespace {

/// How often a file is written again because another process put one in its place meanwhile.
constexpr int kAttempts = 16;

std::byte* BytesOf(const PackedMatrix& matrix) {
  return reinterpret_cast<std::byte*>(const_cast<uint8_t*>(matrix.view().data));
}

/// Behind the entries of `table`, those of a file that are none of them.
void AddOthers(const PackedTable& file, PackedTable& table) {
  std::unordered_set<std::string> names;
  for (const PackedEntry& entry : table.entries) names.insert(entry.name);
  for (const PackedEntry& entry : file.entries) {
    if (!names.contains(entry.name)) table.entries.push_back(entry);
  }
}

void Complain(const absl::Status& status) {
  LogWarning("packed cache: {}; packing these weights again", Message(status));
}

}  // namespace

bool PackedStore::HasAll(const PackedTable& file, const std::vector<const Matrix*>& wanted) {
  return std::ranges::all_of(
      wanted, [&](const Matrix* matrix) { return FindPacked(file, matrix->entry) != nullptr; });
}

PackedStore::PackedStore() = default;

PackedStore::~PackedStore() {
  stopping_ = true;
  finish_saving();
}

void PackedStore::open(std::shared_ptr<const PackedCache> cache,
                       std::shared_ptr<const Checkpoint> checkpoint) {
  SHOAL_CHECK(cache_ == nullptr && matrices_.empty());
  cache_ = std::move(cache);
  checkpoint_ = std::move(checkpoint);
  content_ = PackedContent(*checkpoint_);
}

void PackedStore::share(const PackedStore& other) {
  SHOAL_CHECK(matrices_.empty());
  for (const Matrix& matrix : other.matrices_) {
    shared_.insert_or_assign(matrix.entry.name, Shared{matrix.entry, matrix.matrix});
  }
}

std::optional<PackedStore::Place> PackedStore::place_shared(const PackedUnit& key,
                                                            const PackedEntry& wanted) {
  const auto found = shared_.find(wanted.name);
  if (found == shared_.end() || !IsSamePacked(found->second.entry, wanted)) return std::nullopt;
  Matrix& matrix = matrices_.emplace_back();
  matrix.entry = wanted;
  matrix.matrix = found->second.matrix;
  by_name_.emplace(wanted.name, &matrix);
  // Where the unit's file is written anew, it is to have this one, too.
  if (cache_ != nullptr && key.kind != PackedUnit::Kind::kNone) units_[key].placed.push_back(&matrix);
  return Place{.matrix = matrix.matrix, .state = Place::State::kReady, .kept = &matrix};
}

void PackedStore::begin_batch(int64_t layer) {
  for (auto& [key, unit] : units_) {
    if (key.layer == layer || !unit.file) continue;
    unit.file.reset();
    unit.entries.clear();
    unit.looked_for = false;
  }
}

PackedStore::Unit& PackedStore::open_unit(const PackedUnit& key) {
  Unit& unit = units_[key];
  if (std::exchange(unit.looked_for, true)) return unit;
  absl::StatusOr<PackedFile> file = cache_->open({content_, key.text()});
  if (!file.ok()) {
    if (file.status().code() == absl::StatusCode::kNotFound) return unit;
    unit.damaged = true;
    Complain(file.status());
    return unit;
  }
  unit.file = *std::move(file);
  unit.file->touch();
  const std::vector<PackedEntry>& entries = unit.file->table().entries;
  for (size_t i = 0; i < entries.size(); ++i) unit.entries.emplace(entries[i].name, i);
  return unit;
}

absl::Status PackedStore::check_cancelled() const {
  return cancelled_ && cancelled_() ? Cancelled("loading weights: it was ended") : absl::OkStatus();
}

absl::StatusOr<PackedStore::Place> PackedStore::place(const PackedUnit& key, const std::string& name,
                                                      const PackedFormat& format, int64_t rows,
                                                      int64_t cols) {
  RETURN_IF_ERROR(check_cancelled());
  if (const auto known = by_name_.find(name); known != by_name_.end()) {
    return Place{.matrix = known->second->matrix, .state = Place::State::kReady, .kept = known->second};
  }
  PackedEntry entry = PackedEntryOf(name, format, rows, cols);
  const int64_t bytes = entry.bytes();
  if (const std::optional<Place> shared = place_shared(key, entry)) return *shared;
  ASSIGN_OR_RETURN(std::shared_ptr<std::byte> memory, slabs_.allocate(bytes));
  Matrix& matrix = matrices_.emplace_back();
  matrix.matrix = PackedMatrix::In(std::move(memory), format, rows, cols);
  matrix.entry = std::move(entry);
  by_name_.emplace(name, &matrix);
  Place place{.matrix = matrix.matrix, .state = Place::State::kEmpty, .kept = &matrix};
  if (cache_ == nullptr || key.kind == PackedUnit::Kind::kNone) return place;
  Unit& unit = open_unit(key);
  unit.placed.push_back(&matrix);
  const auto found = unit.entries.find(name);
  if (found != unit.entries.end() && IsSamePacked(unit.file->table().entries[found->second], matrix.entry)) {
    matrix.entry = unit.file->table().entries[found->second];
    matrix.file = &*unit.file;
    place.state = Place::State::kCached;
    return place;
  }
  unit.missed = true;
  bytes_packed_ += bytes;
  return place;
}

void PackedStore::read(const Place& place, Range tiles) const {
  Matrix& matrix = *place.kept;
  const absl::StatusOr<uint64_t> hash = ReadPackedTiles(
      *matrix.file, matrix.entry, tiles, BytesOf(matrix.matrix) + tiles.begin * matrix.entry.tile_bytes);
  if (hash.ok()) {
    matrix.read_hash += *hash;
  } else {
    matrix.read_failed = true;
  }
}

void PackedStore::settle(Place& place) {
  if (place.state != Place::State::kCached) return;
  Matrix& matrix = *place.kept;
  const int64_t bytes = matrix.entry.bytes();
  if (!matrix.read_failed && matrix.read_hash == matrix.entry.hash) {
    place.state = Place::State::kReady;
    bytes_from_cache_ += bytes;
    return;
  }
  for (auto& [key, unit] : units_) {
    if (!unit.file || &*unit.file != matrix.file) continue;
    if (!unit.damaged) {
      Complain(DataLoss("{}: matrix '{}' is not as it was written (its hash is another)", matrix.file->path(),
                        matrix.entry.name));
    }
    unit.damaged = unit.missed = true;
  }
  std::memset(BytesOf(matrix.matrix), 0, static_cast<size_t>(bytes));
  place.state = Place::State::kEmpty;
  bytes_packed_ += bytes;
}

bool PackedStore::missed() const {
  return cache_ != nullptr &&
         std::ranges::any_of(units_, [](const auto& unit) { return unit.second.missed; });
}

absl::Status PackedStore::begin_saving() {
  SHOAL_CHECK(!saver_.joinable());
  begin_batch(INT64_MIN);  // Closes all files.
  if (checkpoint_->content_settled()) return absl::OkStatus();
  return Cancelled("{} changed within the last two seconds", checkpoint_->folder());
}

absl::Status PackedStore::save_now() {
  if (!missed()) return absl::OkStatus();
  RETURN_IF_ERROR(begin_saving());
  Written written;
  return write_missed(written);
}

void PackedStore::save() {
  if (!missed()) return;
  if (const absl::Status settled = begin_saving(); !settled.ok()) {
    LogInfo("packed cache: {}; its packed weights are not kept", Message(settled));
    return;
  }
  saver_ = std::thread([this] { write_all(); });
}

absl::Status PackedStore::reserve_missed() const {
  int64_t to_write = 0;
  for (const auto& [key, unit] : units_) {
    if (!unit.missed) continue;
    for (const Matrix* matrix : unit.placed) to_write += matrix->entry.bytes();
  }
  return cache_->reserve(to_write, bytes_from_cache_ + bytes_packed_ - to_write);
}

absl::Status PackedStore::write_missed(Written& written) const {
  for (const auto& [key, unit] : units_) {
    if (!unit.missed) continue;
    const int64_t before = written.bytes;
    RETURN_IF_ERROR(write(key, unit, &written.bytes));
    written.files += written.bytes > before ? 1 : 0;
  }
  return absl::OkStatus();
}

void PackedStore::write_all() const {
  NameThread("packed-cache");
  Written written;
  absl::Status status = reserve_missed();
  if (status.ok()) status = write_missed(written);
  if (written.files > 0)
    LogInfo("packed cache: saved {} files, {}, in {}", written.files, FormatBytes(written.bytes),
            cache_->folder());
  if (status.ok() || status.code() == absl::StatusCode::kCancelled) return;
  LogWarning("packed cache: {}; going on without: the next start packs the weights again", Message(status));
}

absl::Status PackedStore::write(const PackedUnit& key, const Unit& unit, int64_t* bytes) const {
  const PackedIdentity identity{content_, key.text()};
  bool keep_others = true;
  for (int attempt = 1;; ++attempt) {
    const absl::StatusOr<PackedFile> found = cache_->open(identity);
    const PackedFile* old = found.ok() ? &*found : nullptr;
    if (old != nullptr && !unit.damaged && HasAll(old->table(), unit.placed)) return absl::OkStatus();
    PackedTable table{.identity = identity, .about = checkpoint_->folder(), .entries = {}};
    for (const Matrix* matrix : unit.placed) table.entries.push_back(matrix->entry);
    if (old != nullptr && keep_others) AddOthers(old->table(), table);
    LayOutPackedFile(table);
    ASSIGN_OR_RETURN(PackedFileWriter writer, cache_->create(table));
    RETURN_IF_ERROR(write_placed(unit, table, writer));
    const absl::Status copied = copy_others(old, std::ssize(unit.placed), table, writer);
    if (copied.code() == absl::StatusCode::kDataLoss) {
      keep_others = false;
      continue;
    }
    RETURN_IF_ERROR(copied);
    // Had a file of the checkpoint changed while it was read, what was packed would belong to neither of its
    // states.
    if (!checkpoint_->content_settled()) return Cancelled("the checkpoint changed");
    RETURN_IF_ERROR(writer.complete(table));
    const FileHandle lock = cache_->lock();
    if (attempt < kAttempts && !cache_->is_still(identity, old)) continue;
    RETURN_IF_ERROR(writer.publish());
    *bytes += table.file_bytes();
    return absl::OkStatus();
  }
}

absl::Status PackedStore::write_placed(const Unit& unit, PackedTable& table, PackedFileWriter& writer) const {
  for (size_t i = 0; i < unit.placed.size(); ++i) {
    PackedEntry& entry = table.entries[i];
    const std::byte* const begin = BytesOf(unit.placed[i]->matrix);
    entry.hash = 0;
    const absl::Status written = InPackedChunks(entry, {0, entry.tiles}, [&](Range chunk) -> absl::Status {
      if (stopping_) return Cancelled("stopping");
      const int64_t first = chunk.begin * entry.tile_bytes;
      entry.hash += HashPackedTiles(entry, begin + first, chunk);
      return writer.write(entry.offset + first,
                          {begin + first, static_cast<size_t>(chunk.size() * entry.tile_bytes)});
    });
    RETURN_IF_ERROR(written);
  }
  return absl::OkStatus();
}

absl::Status PackedStore::copy_others(const PackedFile* old, int64_t placed, const PackedTable& table,
                                      PackedFileWriter& writer) const {
  std::vector<std::byte> bytes;
  for (auto entry = table.entries.begin() + placed; entry != table.entries.end(); ++entry) {
    const PackedEntry& from = *std::ranges::find(old->table().entries, entry->name, &PackedEntry::name);
    uint64_t hash = 0;
    const absl::Status copied = InPackedChunks(*entry, {0, entry->tiles}, [&](Range chunk) -> absl::Status {
      if (stopping_) return Cancelled("stopping");
      const int64_t first = chunk.begin * entry->tile_bytes;
      bytes.resize(static_cast<size_t>(chunk.size() * entry->tile_bytes));
      RETURN_IF_ERROR(old->read(from.offset + first, bytes));
      hash += HashPackedTiles(*entry, bytes.data(), chunk);
      return writer.write(entry->offset + first, bytes);
    });
    RETURN_IF_ERROR(copied);
    if (hash != entry->hash) return DataLoss("matrix '{}' is not as it was written", entry->name);
  }
  return absl::OkStatus();
}

void PackedStore::finish_saving() {
  if (saver_.joinable()) saver_.join();
}

}  // namespace shoal
