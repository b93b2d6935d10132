#include "numeric/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "base/status.h"
#include "base/system_calls.h"
#include "base/text.h"

namespace shoal {
namespace {

constexpr int64_t kAlignment = 64;

int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

absl::Status OutOfMemory(int64_t bytes) {
  return ResourceExhausted("memory: could not allocate {}; close other programs, or hold fewer layers here",
                           FormatBytes(bytes));
}

/// Fresh anonymous pages that begin at a huge-page boundary, so that the first megabytes get huge pages too.
/// nullptr if the system refuses.
std::byte* MapHugePages(int64_t bytes) {
  const int64_t wanted = bytes + kHugePageBytes;
  void* mapped = mmap(nullptr, static_cast<size_t>(wanted), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  auto* const begin = static_cast<std::byte*>(mapped);
  const auto address = static_cast<int64_t>(reinterpret_cast<uintptr_t>(mapped));
  const int64_t before = RoundUp(address, kHugePageBytes) - address;
  // Unmap what is left over at both ends. The end need not be a page boundary: munmap rounds up.
  const int64_t used = before + RoundUp(bytes, sysconf(_SC_PAGESIZE));
  if (before > 0) munmap(begin, static_cast<size_t>(before));
  if (used < wanted) munmap(begin + used, static_cast<size_t>(wanted - used));
  AdviseHugePages({begin + before, static_cast<size_t>(bytes)});
  return begin + before;
}

/// The size of a slab. Untouched pages are not backed by memory, so an unused end costs only address space.
constexpr int64_t kSlabBytes = int64_t{64} << 20;

}  // namespace

absl::StatusOr<AlignedMemory> AlignedMemory::Allocate(int64_t bytes) {
  SHOAL_CHECK_GE(bytes, 0);
  AlignedMemory memory;
  if (bytes == 0) return memory;
  if (bytes >= kHugePageBytes) {
    // Fresh anonymous pages are zero. They are backed when first written, which also decides their NUMA node.
    std::byte* mapped = MapHugePages(bytes);
    if (mapped == nullptr) return OutOfMemory(bytes);
    memory.data_ = mapped;
    memory.mapped_bytes_ = bytes;
  } else {
    const auto size = static_cast<size_t>(RoundUp(bytes, kAlignment));
    memory.data_ = static_cast<std::byte*>(std::aligned_alloc(kAlignment, size));
    if (memory.data_ == nullptr) return OutOfMemory(bytes);
    std::memset(memory.data_, 0, size);
  }
  memory.bytes_ = bytes;
  return memory;
}

absl::StatusOr<std::shared_ptr<std::byte>> SharedMemory(int64_t bytes) {
  absl::StatusOr<AlignedMemory> memory = AlignedMemory::Allocate(bytes);
  if (!memory.ok()) return memory.status();
  const auto owner = std::make_shared<AlignedMemory>(*std::move(memory));
  return std::shared_ptr<std::byte>(owner, owner->data());
}

absl::StatusOr<std::shared_ptr<std::byte>> SlabMemory::allocate(int64_t bytes) {
  SHOAL_CHECK_GE(bytes, 0);
  const int64_t rounded = RoundUp(bytes, kAlignment);
  if (rounded > kSlabBytes / 4) return SharedMemory(RoundUp(bytes, kHugePageBytes));
  if (slab_ == nullptr || used_ + rounded > kSlabBytes) {
    absl::StatusOr<std::shared_ptr<std::byte>> slab = SharedMemory(kSlabBytes);
    if (!slab.ok()) return slab.status();
    slab_ = *std::move(slab);
    used_ = 0;
  }
  std::shared_ptr<std::byte> memory(slab_, slab_.get() + used_);
  used_ += rounded;
  return memory;
}

AlignedMemory::~AlignedMemory() {
  if (mapped_bytes_ > 0) {
    munmap(data_, static_cast<size_t>(mapped_bytes_));
  } else {
    std::free(data_);
  }
}

}  // namespace shoal
