#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "base/clock.h"
#include "base/file_handle.h"
#include "base/system_calls.h"
#include "measure/kernel_rates.h"
#include "numeric/memory.h"

namespace shoal {
namespace {

constexpr int64_t kFileBytes = int64_t{16} << 20;
constexpr int64_t kChunkBytes = int64_t{1} << 20;
constexpr Duration kReadMax = std::chrono::milliseconds(250);

/// Bytes per second; 0 where nothing was read.
double ReadRate(int fd, std::byte* buffer) {
  const Deadline end = Deadline::after(kReadMax);
  const int64_t begin_ns = NowNs();
  int64_t done = 0;
  while (done < kFileBytes && !end.expired()) {
    const ssize_t got = pread(fd, buffer, static_cast<size_t>(kChunkBytes), done);
    if (got <= 0) break;
    done += got;
  }
  const int64_t took_ns = std::max<int64_t>(1, NowNs() - begin_ns);
  return static_cast<double>(done) * 1e9 / static_cast<double>(took_ns);
}

}  // namespace

double MeasureDiskRead(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  const auto memory = AlignedMemory::Allocate(std::max(kChunkBytes, kHugePageBytes));
  if (!memory.ok()) return 0;
  std::byte* const buffer = memory->data();
  std::memset(buffer, 0x5a, static_cast<size_t>(kChunkBytes));
  const std::string path = fmt::format("{}/.disk-rate-{}", folder, getpid());
  {
    const FileHandle file(open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600));
    bool whole = file.fd() >= 0;
    for (int64_t done = 0; whole && done < kFileBytes; done += kChunkBytes) {
      whole = write(file.fd(), buffer, static_cast<size_t>(kChunkBytes)) == kChunkBytes;
    }
    // What was not written yet could not be dropped from the cache, and would be read from there.
    whole = whole && WriteToDisk(file) == 0;
    if (!whole) {
      unlink(path.c_str());
      return 0;
    }
  }
  FileHandle file = OpenPastCache(path);
  double bytes_per_s = file.fd() >= 0 ? ReadRate(file.fd(), buffer) : 0;
  if (bytes_per_s == 0) {  // No direct reads here, as on a memory file system.
    file = FileHandle(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (file.fd() >= 0) {
      DropFromCache(file);
      bytes_per_s = ReadRate(file.fd(), buffer);
    }
  }
  unlink(path.c_str());
  return 1e-6 * bytes_per_s;
}

}  // namespace shoal
