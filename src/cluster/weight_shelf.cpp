#include "cluster/weight_shelf.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "base/status.h"

namespace shoal {
namespace {

constexpr Duration kNap = std::chrono::milliseconds(50);
constexpr Duration kBurst = std::chrono::milliseconds(100);

}  // namespace

Duration ByteRate::reserve(int64_t bytes, Clock::time_point now) {
  if (bytes_per_second_ <= 0) return {};
  const std::lock_guard lock(mutex_);
  free_at_ = std::max(free_at_, now - kBurst) +
             FromSeconds(static_cast<double>(bytes) / static_cast<double>(bytes_per_second_));
  return std::max<Duration>(free_at_ - now, Duration());
}

ShelvedModel::ShelvedModel(std::shared_ptr<const Checkpoint> checkpoint,
                           std::shared_ptr<const FetchedModel> fetched)
    : checkpoint_(std::move(checkpoint)),
      fetched_(std::move(fetched)),
      table_(TensorTableHash(*checkpoint_)) {}

absl::StatusOr<std::optional<std::span<const std::byte>>> ShelvedModel::bytes(
    const TensorChunk& chunk) const {
  ASSIGN_OR_RETURN(const std::optional<FilePlace> place, Locate(*checkpoint_, chunk));
  if (!place.has_value() || (fetched_ != nullptr && !fetched_->verified(*place))) return std::nullopt;
  const std::span<const std::byte> file = checkpoint_->files()[static_cast<size_t>(place->file)].bytes;
  return file.subspan(static_cast<size_t>(place->bytes.begin), static_cast<size_t>(place->bytes.size()));
}

absl::StatusOr<std::optional<ContentHash128>> ShelvedModel::hash(const TensorChunk& chunk) const {
  ASSIGN_OR_RETURN(const auto bytes, this->bytes(chunk));
  if (!bytes.has_value()) return std::nullopt;
  {
    const std::lock_guard lock(mutex_);
    if (const auto known = hashes_.find(chunk); known != hashes_.end()) return known->second;
  }
  const ContentHash128 hash = LongContentHash(*bytes);
  const std::lock_guard lock(mutex_);
  if (hashes_.size() >= kHashesKept) hashes_.clear();
  hashes_.emplace(chunk, hash);
  return hash;
}

size_t ShelvedModel::hashes_kept() const {
  const std::lock_guard lock(mutex_);
  return hashes_.size();
}

void WeightShelf::put(std::shared_ptr<const Checkpoint> checkpoint,
                      std::shared_ptr<const FetchedModel> fetched) {
  const std::string hash = checkpoint->hash();
  auto model = std::make_shared<const ShelvedModel>(std::move(checkpoint), std::move(fetched));
  const std::lock_guard lock(mutex_);
  models_.insert_or_assign(hash, std::move(model));
}

void WeightShelf::drop(const std::string& model_hash) {
  const std::lock_guard lock(mutex_);
  models_.erase(model_hash);
}

absl::StatusOr<std::shared_ptr<const ShelvedModel>> WeightShelf::find(const std::string& model_hash) const {
  const std::lock_guard lock(mutex_);
  const auto found = models_.find(model_hash);
  if (found == models_.end())
    return NotFound("no tensors of the model with hash {} are given here", model_hash);
  return found->second;
}

bool WeightShelf::wait_to_send(int64_t bytes, absl::FunctionRef<bool()> cancelled) {
  const Deadline turn = Deadline::after(rate_ == nullptr ? Duration() : rate_->reserve(bytes, Clock::now()));
  while (!turn.expired()) {
    if (cancelled()) return false;
    std::this_thread::sleep_for(std::min<Duration>(turn.remaining(), kNap));
  }
  bytes_sent_ += bytes;
  return true;
}

}  // namespace shoal
