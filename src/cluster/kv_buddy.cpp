#include "cluster/kv_buddy.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "base/log.h"
#include "base/log_throttle.h"
#include "base/status.h"
#include "cluster/weight_shelf.h"

namespace shoal {
namespace {

/// Of one node's copies: less than half of a link of 1 Gbit/s, whose other half is for steps.
constexpr int64_t kRate = 50'000'000;
constexpr Duration kFetchMax = std::chrono::seconds(30);
/// After a node did not give its copies: it may not have its session yet.
constexpr Duration kPause = std::chrono::milliseconds(200);

}  // namespace

void CopyShelf::begin(uint64_t giver) {
  const std::lock_guard lock(mutex_);
  if (std::exchange(giver_, giver) != giver) owners_.clear();
}

void CopyShelf::limit(const std::string& node, int64_t bytes_max) {
  const std::lock_guard lock(mutex_);
  owners_[node].bytes_max = bytes_max;
}

void CopyShelf::cap(int64_t bytes_max) {
  const std::lock_guard lock(mutex_);
  bytes_max_ = bytes_max;
  fit_all();
}

bool CopyShelf::takes(const std::string& node) const {
  const std::lock_guard lock(mutex_);
  const auto found = owners_.find(node);
  return bytes_max_ > 0 && found != owners_.end() && found->second.bytes_max > 0;
}

void CopyShelf::keep_only(std::span<const std::string> nodes) {
  const std::lock_guard lock(mutex_);
  std::erase_if(owners_, [&](const auto& owner) { return std::ranges::count(nodes, owner.first) == 0; });
  for (auto& [name, owner] : owners_) fit(owner);
}

void CopyShelf::erase(Owner& owner, const CachePlace& place) {
  const auto found = owner.places.find(place);
  if (found == owner.places.end()) return;
  owner.bytes -= found->second.bytes;
  owner.oldest.erase(found->second.put);
  owner.places.erase(found);
}

void CopyShelf::fit(Owner& owner) {
  while (owner.bytes > owner.bytes_max && !owner.oldest.empty()) {
    erase(owner, CachePlace(owner.oldest.begin()->second));
    ++evicted_;
  }
}

void CopyShelf::fit_all() {
  int64_t bytes = 0;
  for (const auto& [name, owner] : owners_) bytes += owner.bytes;
  while (bytes > bytes_max_) {
    Owner* first = nullptr;
    for (auto& [name, owner] : owners_) {
      if (owner.oldest.empty()) continue;
      if (first == nullptr || owner.oldest.begin()->first < first->oldest.begin()->first) first = &owner;
    }
    const int64_t before = first->bytes;
    erase(*first, CachePlace(first->oldest.begin()->second));
    bytes -= before - first->bytes;
    ++evicted_;
  }
}

absl::Status CopyShelf::put(const std::string& node, const CachedPlace& place,
                            std::span<const std::byte> images) {
  const std::lock_guard lock(mutex_);
  const auto found = owners_.find(node);
  if (found == owners_.end()) return absl::OkStatus();
  Owner& owner = found->second;
  // Of another entry nothing is of use any more; the same one comes in pieces, or again.
  const auto old = owner.places.find(place.place);
  if (old != owner.places.end() && old->second.place != place) erase(owner, place.place);
  const bool is_state = std::holds_alternative<SlotId>(place.place);
  while (!images.empty()) {
    const absl::StatusOr<ImageView> view = ParseImage(images);
    if (!view.ok() || view->is_state != is_state || view->id.key != place.key ||
        view->id.position != place.position) {
      erase(owner, place.place);
      RETURN_IF_ERROR(view.status());
      return InvalidArgument("kv buddy: an image of node '{}' is of another place than the copy", node);
    }
    const auto [at, fresh] = owner.places.try_emplace(place.place);
    Kept& kept = at->second;
    if (fresh) {
      kept.place = place;
      kept.put = ++puts_;
      owner.oldest.emplace(kept.put, place.place);
    }
    std::vector<std::byte>& image = kept.images[view->layer];
    const int64_t more = view->bytes - std::ssize(image);
    image.assign(images.begin(), images.begin() + view->bytes);
    kept.bytes += more;
    owner.bytes += more;
    images = images.subspan(static_cast<size_t>(view->bytes));
  }
  fit(owner);
  fit_all();
  return absl::OkStatus();
}

std::vector<std::vector<std::byte>> CopyShelf::images_of(const Owner& owner, const CachedPlace& place,
                                                         Range layers) {
  std::vector<std::vector<std::byte>> images;
  const auto found = owner.places.find(place.place);
  if (found == owner.places.end() || place.entry == 0 || found->second.place != place) return images;
  for (const auto& [layer, image] : found->second.images) {
    if (layers.contains(layer.value)) images.push_back(image);
  }
  return images;
}

absl::Status CopyShelf::give(const CacheRequest& request, Deadline deadline, TakeImages take) const {
  std::vector<std::byte> piece;
  for (const CachedPlace& place : request.places) {
    if (deadline.expired())
      return DeadlineExceeded("the copies of node '{}' did not go in time", request.copies_of);
    std::vector<std::vector<std::byte>> images;
    {
      const std::lock_guard lock(mutex_);
      const auto owner = owners_.find(request.copies_of);
      if (request.session != giver_ || owner == owners_.end()) {
        return FailedPrecondition("there are no copies of node '{}' for this coordinator", request.copies_of);
      }
      images = images_of(owner->second, place, request.layers);
    }
    for (const std::vector<std::byte>& image : images) {
      piece.insert(piece.end(), image.begin(), image.end());
      if (piece.size() < kImagesAtOnceBytes) continue;
      RETURN_IF_ERROR(take(piece));
      piece.clear();
    }
  }
  return piece.empty() ? absl::OkStatus() : take(piece);
}

CopyShelf::Stats CopyShelf::stats() const {
  const std::lock_guard lock(mutex_);
  Stats stats{.evicted = evicted_};
  for (const auto& [name, owner] : owners_) {
    stats.places += std::ssize(owner.places);
    stats.bytes += owner.bytes;
  }
  return stats;
}

CopyFollower::CopyFollower(FollowedNode node, std::shared_ptr<CopyShelf> shelf, std::vector<std::string> all)
    : node_(std::move(node)), shelf_(std::move(shelf)), all_(std::move(all)), thread_([this] { run(); }) {}

CopyFollower::~CopyFollower() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stopped_.notify_all();
  node_.source->cancel();
  thread_.join();
}

/// False: it is to end.
bool CopyFollower::nap(Duration time) {
  std::unique_lock lock(mutex_);
  return !stopped_.wait_for(lock, time, [this] { return stopping_; });
}

void CopyFollower::run() {
  ByteRate rate(kRate);
  LogThrottle complaints(std::chrono::seconds(30));
  uint64_t after = 0;
  Duration pause{};
  do {
    pause = kPause;
    if (!shelf_->takes(node_.name)) continue;  // Until weights leave room again.
    int64_t bytes = 0;
    const absl::Status fetched =
        node_.source->fetch(after, Deadline::after(kFetchMax), [&](const CopyPiece& piece) -> absl::Status {
          if (after == 0 && bytes == 0) shelf_->keep_only(all_);
          bytes += std::ssize(piece.images);
          if (piece.last) after = piece.number;
          const absl::Status kept = shelf_->put(node_.name, piece.place, piece.images);
          if (!kept.ok()) complaints.warn(Message(kept));
          return absl::OkStatus();
        });
    if (!fetched.ok()) LogDebug("kv buddy of node '{}': {}", node_.name, Message(fetched));
    if (fetched.ok()) pause = rate.reserve(bytes, Clock::now());
  } while (nap(pause));
}

}  // namespace shoal
