#include "loading/expert_files.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "loading/packed_entry.h"
#include "loading/packed_store.h"
#include "loading/weight_loader.h"

namespace shoal {
namespace {

/// 0 stands for a hash that is not known.
uint64_t NotZero(uint64_t hash) { return hash == 0 ? 1 : hash; }

}  // namespace

absl::StatusOr<std::unique_ptr<ExpertFiles>> ExpertFiles::Create(const ResolvedWeights& weights,
                                                                 std::vector<std::vector<ExpertId>> held,
                                                                 std::shared_ptr<const PackedCache> cache) {
  std::unique_ptr<ExpertFiles> files(new ExpertFiles(weights, std::move(cache)));
  if (files->cache_ != nullptr) files->content_ = PackedContent(weights.checkpoint());
  SHOAL_CHECK_LE(std::ssize(held), weights.spec().layer_count());
  for (size_t layer = 0; layer < held.size(); ++layer) {
    files->first_.push_back(files->count());
    const MoeSpec* moe = MoeOf(weights.spec().layers[layer]);
    for (const ExpertId id : held[layer]) {
      if (moe == nullptr || id.value < 0 || id.value >= std::ssize(moe->experts)) {
        return InvalidArgument("experts: expert {} of layer {}, which has {}", id, layer,
                               moe == nullptr ? 0 : moe->experts.size());
      }
      files->add(LayerId{static_cast<int32_t>(layer)}, id);
    }
  }
  files->held_ = std::move(held);
  files->stamps_ = weights.checkpoint().stamps_now();
  return files;
}

void ExpertFiles::add(LayerId layer, ExpertId id) {
  const DenseSpec& spec =
      MoeOf(weights_.spec().layers[static_cast<size_t>(layer.value)])->experts[static_cast<size_t>(id.value)];
  auto expert = std::make_unique<Expert>();
  expert->layer = layer;
  expert->id = id;
  int64_t end = 0;
  const LinearSpec* const linears[] = {&spec.gate, &spec.up, &spec.down};
  expert->first = spec.activation ? 1 : 0;
  for (size_t m = expert->first; m < kMatrices; ++m) {
    const StoredWeight* weight = weights_.find(linears[m]->weight);
    SHOAL_CHECK(weight != nullptr);
    expert->matrices[m] = {weight, end};
    expert->entries[m] =
        PackedEntryOf(WeightLoader::PackedName(*weight), weight->format, weight->rows, weight->cols);
    const int64_t bytes = expert->entries[m].bytes();
    end += (bytes + kPackedAlignment - 1) / kPackedAlignment * kPackedAlignment;
    bytes_ += bytes;
  }
  bytes_max_ = std::max(bytes_max_, end);
  const PackedUnit& key = expert->parts()[0].weight->unit;
  if (units_.empty() || units_.back()->key != key) {
    units_.push_back(std::make_unique<Unit>());
    units_.back()->key = key;
  }
  units_.back()->experts.push_back(count());
  expert->unit = units_.size() - 1;
  experts_.push_back(std::move(expert));
}

// Files whose content somebody vouches for may be written to: tensors that are fetched.
bool ExpertFiles::is_unchanged() const {
  return weights_.checkpoint().content_vouched() || weights_.checkpoint().stamps_now() == stamps_;
}

int64_t ExpertFiles::number(LayerId layer, ExpertId expert) const {
  if (layer.value < 0 || layer.value >= std::ssize(held_)) return -1;
  const std::vector<ExpertId>& ids = held_[static_cast<size_t>(layer.value)];
  const auto found = std::ranges::lower_bound(ids, expert);
  if (found == ids.end() || *found != expert) return -1;
  return first_[static_cast<size_t>(layer.value)] + (found - ids.begin());
}

std::string ExpertFiles::name(int64_t number) const {
  return fmt::format("expert {} of layer {}", at(number).id, at(number).layer);
}

std::string ExpertFiles::source() const {
  const bool filed = std::ranges::all_of(units_, [](const auto& unit) { return unit->filed.load(); });
  return filed ? cache_->folder() : fmt::format("{}, and packed", weights_.checkpoint().folder());
}

bool ExpertFiles::is_known(const Expert& expert, size_t matrix, uint64_t hash) {
  hash = NotZero(hash);
  uint64_t known = 0;
  return expert.hashes[matrix].compare_exchange_strong(known, hash) || known == hash;
}

bool ExpertFiles::look_up(const Unit& unit) const {
  const absl::StatusOr<PackedFile> file = cache_->open({content_, unit.key.text()});
  if (!file.ok()) return false;  // Whoever packs the unit says what is wrong with its file.
  for (const int64_t number : unit.experts) {
    const Expert& expert = at(number);
    for (size_t m = expert.first; m < kMatrices; ++m) {
      if (FindPacked(file->table(), expert.entries[m]) == nullptr) return false;
    }
  }
  file->touch();
  return true;
}

/// saved: what came of writing.
absl::Status ExpertFiles::pack_unit(const Unit& unit, ThreadPool& pool, absl::Status& saved) const {
  PackedStore store;
  store.open(cache_, weights_.shared_checkpoint());
  std::vector<StoredWeight> parts;
  for (const int64_t number : unit.experts) {
    for (const Matrix& matrix : at(number).parts()) parts.push_back(*matrix.weight);
  }
  RETURN_IF_ERROR(WeightLoader(weights_, &store).pack(parts, pool).status());
  saved = store.save_now();
  return absl::OkStatus();
}

/// Finds the units that have their files, and reserves the cache for those that have not: all at once, as it looks at each
/// file of the cache to do so.
absl::Status ExpertFiles::make_room(int64_t kept) {
  int64_t lacking = 0;
  for (const auto& unit : units_) {
    unit->filed = look_up(*unit);
    if (unit->filed) continue;
    for (const int64_t number : unit->experts) {
      for (const PackedEntry& entry : at(number).wanted()) lacking += entry.bytes();
    }
  }
  if (lacking == 0) return absl::OkStatus();
  if (bytes_ + kept > cache_->limit_bytes()) {
    return ResourceExhausted("{} are more than the limit of {} (--packed-cache-limit)",
                             FormatBytes(bytes_ + kept), FormatBytes(cache_->limit_bytes()));
  }
  return cache_->reserve(lacking, bytes_ + kept - lacking);
}

absl::Status ExpertFiles::make_files(ThreadPool& pool, const std::function<void(int64_t)>& progress,
                                     const std::function<bool()>& cancelled, int64_t kept) {
  if (cache_ == nullptr) {
    LogWarning(
        "experts: there is no packed cache: each that is not in memory is packed from {} whenever it is "
        "wanted, "
        "which takes the time of a CPU. --packed-cache says where to keep them",
        weights_.checkpoint().folder());
    return absl::OkStatus();
  }
  absl::Status saved = make_room(kept);
  int64_t done = 0;
  for (const auto& unit : units_) {
    if (cancelled && cancelled()) return Cancelled("loading weights: it was ended");
    for (const int64_t number : unit->experts) {
      for (const Matrix& matrix : at(number).parts()) done += matrix.weight->stored_bytes();
    }
    if (!unit->filed && saved.ok()) {
      RETURN_IF_ERROR(pack_unit(*unit, pool, saved));
      unit->filed = saved.ok() && look_up(*unit);
    }
    if (progress) progress(done);
  }
  if (saved.ok()) return absl::OkStatus();
  LogWarning(
      "packed cache: {}; experts that have no file are packed from {} whenever they are wanted, which takes "
      "the "
      "time of a CPU",
      Message(saved), weights_.checkpoint().folder());
  return absl::OkStatus();
}

absl::StatusOr<ExpertFiles::Read> ExpertFiles::read(int64_t number, std::byte* memory) const {
  const Expert& expert = at(number);
  Unit& unit = *units_[expert.unit];
  Read done;
  for (const PackedEntry& entry : expert.wanted()) done.bytes += entry.bytes();
  if (unit.filed.load(std::memory_order_relaxed)) {
    const absl::Status status = read_file(expert, memory);
    if (status.ok()) return done;
    // The next start makes it anew: until then it is not tried again.
    unit.filed = false;
    complaints_.warn(fmt::format("packed cache: {}; {} is packed from the checkpoint from now on",
                                 Message(status), unit.key.text()));
  }
  done.packed_again = true;
  RETURN_IF_ERROR(Annotate(pack(expert, memory), name(number)));
  return done;
}

absl::Status ExpertFiles::read_file(const Expert& expert, std::byte* memory) const {
  ASSIGN_OR_RETURN(const PackedFile file, cache_->open({content_, units_[expert.unit]->key.text()}));
  file.touch();
  std::array<const PackedEntry*, kMatrices> entries = {};
  for (size_t m = expert.first; m < kMatrices; ++m) {
    entries[m] = FindPacked(file.table(), expert.entries[m]);
    if (entries[m] == nullptr) {
      return NotFound("{}: matrix '{}' is not there any more", file.path(), expert.entries[m].name);
    }
    file.will_need(entries[m]->offset, entries[m]->bytes());
  }
  for (size_t m = expert.first; m < kMatrices; ++m) {
    const PackedEntry& entry = *entries[m];
    ASSIGN_OR_RETURN(const uint64_t hash,
                     ReadPackedTiles(file, entry, {0, entry.tiles}, memory + expert.matrices[m].offset));
    if (hash != entry.hash || !is_known(expert, m, hash)) {
      cache_->discard(file);
      return DataLoss("{}: matrix '{}' is not as it was written (its hash is another)", file.path(),
                      entry.name);
    }
  }
  return absl::OkStatus();
}

absl::Status ExpertFiles::pack(const Expert& expert, std::byte* memory) const {
  const WeightLoader loader(weights_);
  std::array<uint64_t, kMatrices> hashes = {};
  for (size_t m = expert.first; m < kMatrices; ++m) {
    const StoredWeight& weight = *expert.matrices[m].weight;
    const PackedEntry& entry = expert.entries[m];
    std::byte* const begin = memory + expert.matrices[m].offset;
    std::memset(begin, 0, static_cast<size_t>(entry.bytes()));
    // Not owned: the caller's memory outlives the matrix.
    PackedMatrix matrix = PackedMatrix::In(std::shared_ptr<std::byte>(std::shared_ptr<void>(), begin),
                                           weight.format, weight.rows, weight.cols);
    RETURN_IF_ERROR(loader.pack_into(weight, matrix));
    hashes[m] = HashPackedTiles(entry, begin, {0, entry.tiles});
  }
  // What is unchanged now was so while it was read: one look at each file is enough. No hash is noted before it.
  bool same = is_unchanged();
  for (size_t m = expert.first; m < kMatrices && same; ++m) same = is_known(expert, m, hashes[m]);
  if (same) return absl::OkStatus();
  return DataLoss(
      "tensor '{}': {} has changed since the model was loaded from it: start again to load what is there",
      expert.parts()[0].weight->source->name(), weights_.checkpoint().folder());
}

}  // namespace shoal
