// Scratch memory of a step: a bump allocator that is reset between steps. After the first steps it is as
// large as a step needs, and steps no longer allocate from the system.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "base/check.h"
#include "numeric/memory.h"
#include "numeric/view.h"

namespace shoal {

/// Not thread-safe. An allocation is valid until reset(), or until the end of the ArenaScope it was made in.
class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// `bytes` bytes, aligned to 64, not initialised.
  std::byte* allocate_bytes(int64_t bytes);

  /// n elements, aligned to 64, not initialised.
  template <typename T>
  std::span<T> allocate(int64_t n) {
    static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T> && alignof(T) <= 64);
    SHOAL_CHECK(n >= 0 && n <= INT64_MAX / static_cast<int64_t>(sizeof(T)));
    return {reinterpret_cast<T*>(allocate_bytes(n * static_cast<int64_t>(sizeof(T)))),
            static_cast<size_t>(n)};
  }

  /// [rows, cols], contiguous, not initialised.
  template <typename T>
  MatView<T> allocate_rows(int64_t rows, int64_t cols) {
    SHOAL_CHECK(rows >= 0 && cols >= 0 && (cols == 0 || rows <= INT64_MAX / cols));
    return MatView<T>(allocate<T>(rows * cols).data(), rows, cols);
  }

  /// Ends all allocations. Several chunks are replaced by a single one of their total size.
  void reset();

  /// Bytes taken from the system.
  int64_t bytes_held() const;
  /// How often the arena took memory from the system.
  int64_t growths() const { return growths_; }

 private:
  friend class ArenaScope;
  void add_chunk(int64_t bytes);

  std::vector<AlignedMemory> chunks_;
  size_t chunk_ = 0;    // The chunk being filled; later ones are empty.
  int64_t offset_ = 0;  // Bytes used of that chunk.
  int64_t growths_ = 0;
};

/// Releases, at its end, what was allocated during its life: scratch memory of one layer of a step.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), chunk_(arena.chunk_), offset_(arena.offset_) {}
  ~ArenaScope() {
    arena_.chunk_ = chunk_;
    arena_.offset_ = offset_;
  }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  size_t chunk_;
  int64_t offset_;
};

}  // namespace shoal
