// Scratch of a step: a bump allocator that is reset between steps. After the first steps it has grown to what
// a step needs, and a step allocates nothing.
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

/// Not for several threads. Pointers live until reset(), or until the ArenaScope in which they were made
/// ends.
class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// Bytes aligned to 64, not initialised.
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

  /// Forgets everything; chunks are joined into one that would have sufficed.
  void reset();

  /// Bytes held, and how often the arena had to ask the system for more.
  int64_t bytes_held() const;
  int64_t growths() const { return growths_; }

 private:
  friend class ArenaScope;
  void add_chunk(int64_t bytes);

  std::vector<AlignedMemory> chunks_;
  size_t chunk_ = 0;    // Being filled; chunks behind it are empty.
  int64_t offset_ = 0;  // In that chunk.
  int64_t growths_ = 0;
};

/// What is allocated while this lives is given back when it dies: scratch of one layer inside a step.
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
