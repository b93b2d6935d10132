#include "cpu/arena.h"

#include <algorithm>
#include <utility>

#include "base/status.h"

namespace shoal {
namespace {
constexpr int64_t kAlignment = 64;
constexpr int64_t kChunkBytesMin = int64_t{1} << 20;
}  // namespace

std::byte* Arena::allocate_bytes(int64_t bytes) {
  SHOAL_CHECK_GE(bytes, 0);
  const int64_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  while (chunk_ < chunks_.size() && offset_ + rounded > chunks_[chunk_].bytes()) {
    ++chunk_;
    offset_ = 0;
  }
  if (chunk_ == chunks_.size()) add_chunk(rounded);
  std::byte* at = chunks_[chunk_].data() + offset_;
  offset_ += rounded;
  return at;
}

void Arena::add_chunk(int64_t bytes) {
  // Doubling the held memory bounds the number of growths by the logarithm of the need.
  absl::StatusOr<AlignedMemory> memory =
      AlignedMemory::Allocate(std::max({bytes, bytes_held(), kChunkBytesMin}));
  // A step's scratch memory is small beside weights and cache, whose allocation was the time to refuse.
  SHOAL_CHECK(memory.ok());
  chunks_.push_back(*std::move(memory));
  ++growths_;
  offset_ = 0;
}

void Arena::reset() {
  if (chunks_.size() > 1) {
    const int64_t bytes = bytes_held();
    chunks_.clear();
    add_chunk(bytes);
  }
  chunk_ = 0;
  offset_ = 0;
}

int64_t Arena::bytes_held() const {
  int64_t bytes = 0;
  for (const AlignedMemory& chunk : chunks_) bytes += chunk.bytes();
  return bytes;
}

}  // namespace shoal
