// Owned memory for weights, caches and scratch: zeroed, and aligned to 64 bytes (a cache line, an AVX-512
// register).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"

namespace shoal {

/// Allocations of at least this size get a mapping of their own, aligned to huge pages and advised to use
/// them. A GEMV streams weights, and with 4 KiB pages the page walks cost about as much as the reads.
inline constexpr int64_t kHugePageBytes = int64_t{2} << 20;

/// 64-byte aligned, zeroed, owned bytes. Movable, not copyable.
class AlignedMemory {
 public:
  AlignedMemory() = default;
  /// Zero bytes give an empty memory. Returns ResourceExhausted if the system has too little memory.
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
  int64_t mapped_bytes_ = 0;  ///< > 0: a mapping, to be unmapped rather than freed.
};

/// The same bytes with shared ownership. nullptr for zero bytes. Returns ResourceExhausted.
absl::StatusOr<std::shared_ptr<std::byte>> SharedMemory(int64_t bytes);

/// Allocates out of few large slabs, so that small allocations lie on huge pages as well. Meant for
/// allocations that live equally long: a slab lives as long as any allocation in it. Not thread-safe.
class SlabMemory {
 public:
  /// As SharedMemory.
  absl::StatusOr<std::shared_ptr<std::byte>> allocate(int64_t bytes);

 private:
  std::shared_ptr<std::byte> slab_;
  int64_t used_ = 0;
};

}  // namespace shoal
