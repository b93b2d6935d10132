#include "wire/payload.h"

#include <algorithm>

#include "base/check.h"
#include "base/status.h"

namespace shoal {
namespace {

constexpr size_t kFirstCapacityBytes = 256;

size_t RoundUp(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace

void PayloadWriter::reserve(size_t capacity_bytes) {
  if (capacity_bytes <= capacity_) return;
  auto larger = AllocateWireBytes(capacity_bytes);
  if (size_ > 0) std::memcpy(larger.get(), bytes_.get(), size_);
  bytes_ = std::move(larger);
  capacity_ = capacity_bytes;
}

std::span<std::byte> PayloadWriter::grow(size_t bytes) {
  const size_t needed = size_ + bytes;
  if (needed > capacity_) reserve(std::max({needed, 2 * capacity_, kFirstCapacityBytes}));
  const std::span<std::byte> added(bytes_.get() + size_, bytes);
  size_ = needed;
  return added;
}

void PayloadWriter::align(size_t alignment) {
  const size_t padding = RoundUp(size_, alignment) - size_;
  const auto added = grow(padding);
  std::fill(added.begin(), added.end(), std::byte{0});
}

void PayloadWriter::string(std::string_view text) {
  SHOAL_CHECK_LE(text.size(), size_t{UINT32_MAX});
  u32(static_cast<uint32_t>(text.size()));
  if (!text.empty()) std::memcpy(grow(text.size()).data(), text.data(), text.size());
}

Buffer PayloadWriter::finish() {
  const std::span<const std::byte> view(bytes_.get(), size_);
  Buffer result(std::move(bytes_), view);
  bytes_ = nullptr;
  size_ = capacity_ = 0;
  return result;
}

absl::StatusOr<std::span<const std::byte>> PayloadReader::take(std::string_view field, uint64_t bytes) {
  if (bytes > remaining()) {
    return InvalidArgument("{}: expected {} bytes at offset {}, the payload of {} bytes has {} left", field,
                           bytes, position_, bytes_.size(), remaining());
  }
  const auto taken = bytes_.subspan(position_, bytes);
  position_ += bytes;
  return taken;
}

absl::StatusOr<std::span<const std::byte>> PayloadReader::take_array(std::string_view field, uint64_t count,
                                                                     size_t bytes_each) {
  SHOAL_CHECK_EQ(reinterpret_cast<uintptr_t>(bytes_.data()) % kWireAlignment, size_t{0});
  const size_t start = RoundUp(position_, kWireAlignment);
  if (start > bytes_.size() || count > (bytes_.size() - start) / bytes_each) {
    return InvalidArgument("{}: expected {} values of {} bytes at offset {}, the payload has {} bytes", field,
                           count, bytes_each, start, bytes_.size());
  }
  position_ = start;
  return take(field, count * bytes_each);
}

absl::StatusOr<uint32_t> PayloadReader::count(std::string_view field, size_t bytes_each) {
  SHOAL_CHECK_GE(bytes_each, size_t{1});
  ASSIGN_OR_RETURN(const uint32_t n, u32(field));
  if (n > remaining() / bytes_each) {
    return InvalidArgument("{}: a count of {} needs at least {} bytes each, the payload has {} left", field,
                           n, bytes_each, remaining());
  }
  return n;
}

absl::StatusOr<std::string> PayloadReader::string(std::string_view field) {
  ASSIGN_OR_RETURN(const uint32_t size, u32(field));
  ASSIGN_OR_RETURN(const auto text, take(field, size));
  return std::string(reinterpret_cast<const char*>(text.data()), text.size());
}

absl::Status PayloadReader::finish(std::string_view what) const {
  if (remaining() == 0) return absl::OkStatus();
  return InvalidArgument("{}: {} bytes are left over after offset {}", what, remaining(), position_);
}

}  // namespace shoal
