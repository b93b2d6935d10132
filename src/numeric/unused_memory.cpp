#include "numeric/unused_memory.h"

#include <unistd.h>

#include <algorithm>
#include <cstdint>

#include "base/system_calls.h"

namespace shoal {

void ClearUnused(std::span<std::byte> bytes) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(bytes.data());
  const uintptr_t first = (begin + page - 1) / page * page;
  const uintptr_t last = (begin + bytes.size()) / page * page;
  if (first >= last || !GiveBackPages(bytes.subspan(first - begin, last - first))) {
    std::ranges::fill(bytes, std::byte{0});
    return;
  }
  std::ranges::fill(bytes.first(first - begin), std::byte{0});
  std::ranges::fill(bytes.subspan(last - begin), std::byte{0});
}

}  // namespace shoal
