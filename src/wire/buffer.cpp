#include "wire/buffer.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace shoal {

std::shared_ptr<std::byte[]> AllocateWireBytes(size_t size) {
  constexpr std::align_val_t kAlignment{kWireAlignment};
  auto* bytes = static_cast<std::byte*>(::operator new(std::max<size_t>(size, 1), kAlignment));
  return {bytes, [](std::byte* p) { ::operator delete (p, std::align_val_t{kWireAlignment}); }};
}

Buffer Buffer::copy_of(std::span<const std::byte> bytes) {
  auto owner = AllocateWireBytes(bytes.size());
  if (!bytes.empty()) std::memcpy(owner.get(), bytes.data(), bytes.size());
  const std::span<const std::byte> view(owner.get(), bytes.size());
  return {std::move(owner), view};
}

}  // namespace shoal
