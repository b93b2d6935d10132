// Bytes of a frame's payload: shared, read-only, 64-byte aligned where we allocated them.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <utility>

namespace shoal {

inline constexpr size_t kWireAlignment = 64;  ///< Of every payload that a decoder hands out, in bytes.

/// `size` uninitialised bytes at a multiple of kWireAlignment.
std::shared_ptr<std::byte[]> AllocateWireBytes(size_t size);

/// A reference-counted view of bytes that nobody changes any more. Copies are cheap and share the bytes.
class Buffer {
 public:
  Buffer() = default;
  /// `bytes` stay valid and unchanged as long as `owner` lives.
  Buffer(std::shared_ptr<const void> owner, std::span<const std::byte> bytes)
      : owner_(std::move(owner)), bytes_(bytes) {}
  static Buffer copy_of(std::span<const std::byte> bytes);
  /// A part of this buffer, which it keeps alive.
  Buffer slice(size_t offset) const { return {owner_, bytes_.subspan(offset)}; }

  std::span<const std::byte> bytes() const { return bytes_; }
  const std::byte* data() const { return bytes_.data(); }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }

 private:
  std::shared_ptr<const void> owner_;
  std::span<const std::byte> bytes_;
};

}  // namespace shoal
