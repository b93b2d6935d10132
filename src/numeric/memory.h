// Owned memory for weights, caches and scratch: aligned to a cache line (and an AVX-512 register), zeroed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"

namespace shoal {

/// Bytes from which an allocation is its own mapping, aligned to and advised to huge pages: a GEMV streams
/// weights, and with 4 KiB pages the page walks cost about as much as the reads.
inline constexpr int64_t kHugePageBytes = int64_t{2} << 20;

/// 64-byte aligned, zeroed, owned bytes. Movable, not copyable.
class AlignedMemory {
 public:
  AlignedMemory() = default;
  /// Zero bytes give an empty memory. Returns ResourceExhausted where the system has not enough.
  static absl::StatusOr<AlignedMemory> Allocate(int64_t bytes);

  AlignedMemory(AlignedMemory&& other) noexcept { swap(other); }
  AlignedMemory& operator=(AlignedMemory&& other) noexcept {
    swap(other);
    return *this;
  }
  ~AlignedMemory();

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  void swap(AlignedMemory& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(mapped_bytes_, other.mapped_bytes_);
  }

  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
  int64_t mapped_bytes_ = 0;  ///< > 0: to be unmapped rather than freed.
};

/// The same, owned by all that hold the pointer. nullptr for zero bytes.
absl::StatusOr<std::shared_ptr<std::byte>> SharedMemory(int64_t bytes);

/// Cuts memory for many things that live as long as each other out of few large pieces, so that small ones
/// get huge pages as well. Not for several threads.
class SlabMemory {
 public:
  /// As SharedMemory. A slab lives as long as any of its parts.
  absl::StatusOr<std::shared_ptr<std::byte>> allocate(int64_t bytes);

 private:
  std::shared_ptr<std::byte> slab_;
  int64_t used_ = 0;
};

}  // namespace shoal
