// Where the packed matrices of one node's shard lie: memory on huge pages, and a file of the cache that they
// may come from and go to.
//
// What comes from a file is read into memory of our own, not mapped: a file's pages are small ones, which
// cost time with every token (docs/decisions/0007 has the figures).
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cpu/pool.h"
#include "formats/checkpoint.h"
#include "kernels/packed.h"
#include "loading/packed_cache.h"
#include "numeric/memory.h"

namespace shoal {

/// The version of how weights lie when they are packed (kernels/packed.h): another one, another file.
inline constexpr int kPackingVersion = 1;

class PackedStore {
 public:
  /// Memory alone.
  PackedStore() = default;
  /// Ends saving: what is half written is deleted.
  ~PackedStore();
  PackedStore(const PackedStore&) = delete;
  PackedStore& operator=(const PackedStore&) = delete;

  /// Reads the matrices of a shard of `checkpoint` from the cache, if they are there: each part of a batch by
  /// the thread of `pool` that products will give it to. A file that cannot be used, as the hash of a matrix
  /// is another or for any other reason, is named in the log and made anew by save(). `shard` says in words
  /// which matrices the shard has: one with other matrices has another text.
  void open(std::shared_ptr<const PackedCache> cache, std::shared_ptr<const Checkpoint> checkpoint,
            const std::string& shard, ThreadPool& pool);

  /// Whether every matrix so far came from the cache.
  bool from_cache() const { return file_memory_ != nullptr && !missed_; }

  /// One matrix of the shard.
  struct Place {
    PackedMatrix matrix;
    bool packed = false;  ///< Its bytes are there. Else it is zeros, to be packed into.
  };
  /// The place of the matrix `name`; asked for again, the same. batch: the same number for matrices that are
  /// multiplied as one piece of work, one after the other. ResourceExhausted where memory is refused.
  absl::StatusOr<Place> place(const std::string& name, const PackedFormat& format, int64_t rows, int64_t cols,
                              uint32_t batch);
  /// A number that no batch has had.
  uint32_t next_batch() { return batches_++; }

  /// To be called when everything is packed: writes what was placed to the cache, unless it came from there.
  /// Returns at once; errors go to the log, as they cost the next start and not this one.
  void save();
  /// Waits until that has been done.
  void finish_saving();

 private:
  absl::Status read(const PackedFile& file, ThreadPool& pool);
  absl::Status write() const;

  std::shared_ptr<const PackedCache> cache_;
  std::shared_ptr<const Checkpoint> checkpoint_;
  std::string identity_;
  std::string about_;
  uint32_t batches_ = 0;

  std::shared_ptr<std::byte> file_memory_;                 // From the file's first matrix on.
  std::vector<PackedEntry> file_entries_;                  // Its table.
  std::map<std::string, size_t, std::less<>> file_index_;  // Name -> entry.
  bool missed_ = false;                                    // A matrix was not in the file.

  SlabMemory slabs_;
  std::vector<PackedEntry> entries_;  // What was placed, in order; without offsets and hashes.
  std::vector<PackedMatrix> matrices_;
  std::map<std::string, size_t, std::less<>> index_;

  std::thread saver_;
  std::atomic<bool> stopping_ = false;
};

}  // namespace shoal
