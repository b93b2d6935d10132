// The packed matrices of routed experts, one expert at a time, for a node that does not hold all of its experts in memory:
// from the files of the packed cache, which are made first where they are missing, or else packed from the checkpoint
// again. Every byte is hashed as it comes (docs/decisions/0031).
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/log_throttle.h"
#include "cpu/pool.h"
#include "formats/mapped_file.h"
#include "kernels/packed.h"
#include "loading/packed_cache.h"
#include "loading/packed_unit.h"
#include "loading/resolved_weights.h"
#include "loading/stored_weight.h"

namespace shoal {

class ExpertFiles {
 public:
  /// held: [L], the experts of each layer, ascending. cache: nullptr for none: experts are then packed whenever they are
  /// wanted. The weights must outlive it.
  static absl::StatusOr<std::unique_ptr<ExpertFiles>> Create(const ResolvedWeights& weights,
                                                             std::vector<std::vector<ExpertId>> held,
                                                             std::shared_ptr<const PackedCache> cache);

  /// Gate (which not every family has), up and down of an expert.
  static constexpr size_t kMatrices = 3;
  struct Matrix {
    const StoredWeight* weight = nullptr;  ///< nullptr: a gate that there is not.
    int64_t offset = 0;                    ///< In the memory that the expert is read into; a multiple of 64.
  };

  /// Experts, over all layers. They are numbered in order of layer, then id.
  int64_t count() const { return std::ssize(experts_); }
  /// The number of an expert; -1: it is not one of them.
  int64_t number(LayerId layer, ExpertId expert) const;
  const std::array<Matrix, kMatrices>& matrices(int64_t number) const { return at(number).matrices; }
  LayerId layer(int64_t number) const { return at(number).layer; }
  ExpertId id(int64_t number) const { return at(number).id; }
  /// "expert 5 of layer 3"
  std::string name(int64_t number) const;
  /// Of the largest expert: what read() needs.
  int64_t bytes_max() const { return bytes_max_; }
  /// Of all experts.
  int64_t bytes() const { return bytes_; }
  /// Where experts are read from, for people.
  std::string source() const;

  /// Has the files made that the cache lacks, a unit in memory at a time. progress: told the bytes in the checkpoint of the
  /// experts that are done; may be empty. kept: bytes of other weights that are to be in
  /// the cache. What can't be written is a line in the log, as it costs time and nothing else. Cancelled: `cancelled`,
  /// which may be empty, said so; else the errors of reading the checkpoint.
  absl::Status make_files(ThreadPool& pool, const std::function<void(int64_t)>& progress,
                          const std::function<bool()>& cancelled, int64_t kept);

  struct Read {
    int64_t bytes = 0;
    bool packed_again = false;  ///< From the checkpoint.
  };
  /// Reads an expert into `memory` of bytes_max() bytes, aligned to 64. From any thread. DataLoss: its bytes are no longer
  /// those that the model was loaded with, or a block holds what no weight is.
  absl::StatusOr<Read> read(int64_t number, std::byte* memory) const;

 private:
  struct Unit {
    PackedUnit key;
    std::vector<int64_t> experts;
    std::atomic<bool> filed = false;  ///< Its file has them all.
  };
  struct Expert {
    LayerId layer;
    ExpertId id;
    std::array<Matrix, kMatrices> matrices;
    std::array<PackedEntry, kMatrices> entries;  ///< As the weights ask for them, without offset and hash.
    size_t first = 0;                            ///< Of the matrices that there are; 1: no gate.
    size_t unit = 0;
    /// The hash of each matrix, once it was read or packed; 0: it is not known yet.
    mutable std::array<std::atomic<uint64_t>, kMatrices> hashes = {};

    std::span<const Matrix> parts() const { return std::span(matrices).subspan(first); }
    std::span<const PackedEntry> wanted() const { return std::span(entries).subspan(first); }
  };

  ExpertFiles(const ResolvedWeights& weights, std::shared_ptr<const PackedCache> cache)
      : weights_(weights), cache_(std::move(cache)) {}
  const Expert& at(int64_t number) const { return *experts_[static_cast<size_t>(number)]; }
  void add(LayerId layer, ExpertId id);
  /// Whether the unit's file has all of its experts.
  bool look_up(const Unit& unit) const;
  absl::Status make_room(int64_t kept);
  absl::Status pack_unit(const Unit& unit, ThreadPool& pool, absl::Status& saved) const;
  absl::Status read_file(const Expert& expert, std::byte* memory) const;
  absl::Status pack(const Expert& expert, std::byte* memory) const;
  /// Whether the files of the checkpoint are as they were at Create().
  bool is_unchanged() const;
  /// Whether this is the hash that the matrix had before, if it is known; notes it if it is not.
  static bool is_known(const Expert& expert, size_t matrix, uint64_t hash);

  const ResolvedWeights& weights_;
  const std::shared_ptr<const PackedCache> cache_;
  std::string content_;
  std::vector<FileStamp> stamps_;  ///< Of the checkpoint's files, at Create().
  std::vector<std::vector<ExpertId>> held_;
  std::vector<int64_t> first_;  ///< By layer: the number of its first expert.
  std::vector<std::unique_ptr<Expert>> experts_;
  std::vector<std::unique_ptr<Unit>> units_;
  int64_t bytes_max_ = 0;
  int64_t bytes_ = 0;
  mutable LogThrottle complaints_{std::chrono::seconds(10)};
};

}  // namespace shoal
