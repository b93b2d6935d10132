// The models whose tensors this process sends to other nodes, and how fast.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "formats/content_hash.h"
#include "loading/fetched_models.h"
#include "loading/model_skeleton.h"
#include "loading/tensor_chunks.h"

namespace shoal {

/// Holds a stream of bytes to a rate, over all threads that ask. What was not used is saved for a tenth of a second.
class ByteRate {
 public:
  /// 0: no limit.
  explicit ByteRate(int64_t bytes_per_second) : bytes_per_second_(bytes_per_second) {}
  /// How long whoever sends so many bytes now is to wait before. They count as sent.
  Duration reserve(int64_t bytes, Clock::time_point now);

 private:
  const int64_t bytes_per_second_;
  std::mutex mutex_;
  Clock::time_point free_at_{};
};

/// A model of the shelf. Any thread.
class ShelvedModel {
 public:
  /// fetched: its files, where it was fetched: only what was verified is given. Else nullptr.
  ShelvedModel(std::shared_ptr<const Checkpoint> checkpoint, std::shared_ptr<const FetchedModel> fetched);

  const Checkpoint& checkpoint() const { return *checkpoint_; }
  /// As TensorTableHash.
  const std::string& table() const { return table_; }
  /// Of chunks that are known now.
  size_t hashes_kept() const;
  /// The bytes of a chunk; nothing where they are not here. Errors as Locate.
  absl::StatusOr<std::optional<std::span<const std::byte>>> bytes(const TensorChunk& chunk) const;
  /// Hash of a chunk; nothing where it is not here. Errors as Locate. Of so many that were asked for it is kept: askers
  /// choose the chunks, and there are more of those than memory.
  static constexpr size_t kHashesKept = 1 << 18;
  absl::StatusOr<std::optional<ContentHash128>> hash(const TensorChunk& chunk) const;

 private:
  const std::shared_ptr<const Checkpoint> checkpoint_;
  const std::shared_ptr<const FetchedModel> fetched_;
  const std::string table_;
  mutable std::mutex mutex_;                              ///< Guards what follows.
  mutable std::map<TensorChunk, ContentHash128> hashes_;  ///< At most kHashesKept.
};

/// Any thread.
class WeightShelf {
 public:
  /// rate: may be several shelves'; nullptr: none.
  explicit WeightShelf(std::shared_ptr<ByteRate> rate = nullptr) : rate_(std::move(rate)) {}

  /// Gives the model to whoever asks, in place of one with the same hash.
  void put(std::shared_ptr<const Checkpoint> checkpoint,
           std::shared_ptr<const FetchedModel> fetched = nullptr);
  void drop(const std::string& model_hash);
  /// NotFound where it is not on the shelf.
  absl::StatusOr<std::shared_ptr<const ShelvedModel>> find(const std::string& model_hash) const;

  /// Waits until so many bytes may be sent, in short naps between which `cancelled` is asked. Whether they may.
  bool wait_to_send(int64_t bytes, absl::FunctionRef<bool()> cancelled);
  int64_t bytes_sent() const { return bytes_sent_; }

 private:
  const std::shared_ptr<ByteRate> rate_;
  std::atomic<int64_t> bytes_sent_{0};
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const ShelvedModel>> models_;  ///< By hash.
};

}  // namespace shoal
