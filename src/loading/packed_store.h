// Where the packed matrices of one node's shard lie: memory on huge pages, and files of the cache, one for
// each PackedUnit, that they may come from and go to.
//
// What comes from a file is read into memory of our own, not mapped: a file's pages are small ones, which
// cost time with every token (docs/decisions/0007 has the figures).
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/range.h"
#include "formats/checkpoint.h"
#include "kernels/packed.h"
#include "loading/packed_cache.h"
#include "loading/packed_unit.h"
#include "numeric/memory.h"

namespace shoal {

class PackedStore {
  struct Matrix;

 public:
  /// Memory alone.
  PackedStore();
  /// Ends saving: what is half written is deleted.
  ~PackedStore();
  PackedStore(const PackedStore&) = delete;
  PackedStore& operator=(const PackedStore&) = delete;

  /// From now on takes from the cache what it has of `checkpoint`. A file that cannot be used, as the hash of
  /// a matrix is another or for any other reason, is named in the log and made anew by save().
  void open(std::shared_ptr<const PackedCache> cache, std::shared_ptr<const Checkpoint> checkpoint);

  /// From now on takes what `other`, which has loaded weights of the same content, holds: the memory is shared, and stays
  /// as long as one of them. Before any place().
  void share(const PackedStore& other);

  /// From now on place() asks it first, and ends with Cancelled where it says so. From any thread; may be empty.
  void set_cancelled(std::function<bool()> cancelled) { cancelled_ = std::move(cancelled); }
  /// OK, or Cancelled.
  absl::Status check_cancelled() const;

  /// One matrix of the shard.
  struct Place {
    enum class State : uint8_t {
      kReady,   ///< Its bytes are there.
      kCached,  ///< They are in a file: read() all of its tiles, then settle().
      kEmpty,   ///< Zeros, to be packed into.
    };
    PackedMatrix matrix;
    State state = State::kEmpty;
    Matrix* kept = nullptr;
  };
  /// To be called before the place() calls of each batch, with the layer of its weights: closes files of
  /// others.
  void begin_batch(int64_t layer);
  /// The place of the matrix `name`; asked for again, the same. ResourceExhausted where memory is refused.
  absl::StatusOr<Place> place(const PackedUnit& unit, const std::string& name, const PackedFormat& format,
                              int64_t rows, int64_t cols);
  /// Reads and hashes tiles of a matrix that is kCached. Threads may call for different tiles; what fails
  /// shows in settle().
  void read(const Place& place, Range tiles) const;
  /// Whether what was read is what was written: kReady. Else kEmpty, and a line in the log.
  void settle(Place& place);

  /// Whether every matrix so far came from the cache, and there are some.
  bool from_cache() const { return bytes_from_cache_ > 0 && bytes_packed_ == 0; }
  /// Bytes of those that did.
  int64_t bytes_from_cache() const { return bytes_from_cache_; }

  /// To be called when everything is packed: writes the units of which something did not come from the cache.
  /// Returns at once; errors go to the log, as they cost the next start and not this one.
  void save();
  /// Waits until that has been done.
  void finish_saving();
  /// Writes the same at once, where PackedCache::reserve() was called for all that is to be written. Cancelled: the
  /// checkpoint changed, or is as young as a file system's clock is coarse; else as PackedCache::create(), or the system's
  /// error.
  absl::Status save_now();

 private:
  /// A matrix that was placed, and what is read of it.
  struct Matrix {
    PackedEntry entry;  ///< As it is in `file` where it is kCached; else without offset and hash.
    PackedMatrix matrix;
    const PackedFile* file = nullptr;
    std::atomic<uint64_t> read_hash = 0;
    std::atomic<bool> read_failed = false;
  };
  struct Unit {
    std::optional<PackedFile> file;  ///< Open while batches of its layer are being loaded.
    std::unordered_map<std::string, size_t> entries;
    bool looked_for = false;
    bool damaged = false;  ///< Its file must be written again, whatever is in it.
    bool missed = false;   ///< A matrix did not come from its file.
    std::vector<const Matrix*> placed;
  };

  /// The matrix as another store holds it; nothing where none does.
  std::optional<Place> place_shared(const PackedUnit& unit, const PackedEntry& wanted);
  Unit& open_unit(const PackedUnit& key);
  /// Whether there is something to save.
  bool missed() const;
  /// Cancelled: the checkpoint is not settled, so nothing may be saved.
  absl::Status begin_saving();
  struct Written {
    int64_t files = 0;
    int64_t bytes = 0;
  };
  absl::Status reserve_missed() const;
  absl::Status write_missed(Written& written) const;
  void write_all() const;
  /// Writes a unit's file: the matrices that were placed and, so that nodes with other experts of a block do
  /// not take turns in packing, those that another wrote. Adds what it took to `bytes`: nothing where another
  /// process was quicker.
  absl::Status write(const PackedUnit& key, const Unit& unit, int64_t* bytes) const;
  absl::Status write_placed(const Unit& unit, PackedTable& table, PackedFileWriter& writer) const;
  /// The entries of `table` from the `placed`-th on, from `old`. DataLoss where one is not what was written.
  absl::Status copy_others(const PackedFile* old, int64_t placed, const PackedTable& table,
                           PackedFileWriter& writer) const;
  static bool HasAll(const PackedTable& file, const std::vector<const Matrix*>& wanted);

  std::shared_ptr<const PackedCache> cache_;
  std::shared_ptr<const Checkpoint> checkpoint_;
  std::string content_;  ///< What of the checkpoint, and how it is packed.

  std::function<bool()> cancelled_;
  SlabMemory slabs_;
  std::deque<Matrix> matrices_;
  std::unordered_map<std::string, Matrix*> by_name_;
  std::map<PackedUnit, Unit> units_;
  struct Shared {
    PackedEntry entry;
    PackedMatrix matrix;
  };
  std::unordered_map<std::string, Shared> shared_;  ///< By name: what other stores hold.
  int64_t bytes_from_cache_ = 0;
  int64_t bytes_packed_ = 0;

  std::thread saver_;
  std::atomic<bool> stopping_ = false;
};

}  // namespace shoal
