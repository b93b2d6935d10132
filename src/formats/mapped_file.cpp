#include "formats/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "base/system_calls.h"

namespace shoal {
namespace {

absl::Status SystemError(const std::string& path, const char* what, int error) {
  const char* words = std::strerror(error);
  if (error == ENOENT || error == ENOTDIR) return NotFound("checkpoint: cannot {} {}: {}", what, path, words);
  if (error == EACCES || error == EPERM)
    return PermissionDenied("checkpoint: cannot {} {}: {}", what, path, words);
  return Unavailable("checkpoint: cannot {} {}: {}", what, path, words);
}

FileStamp StampOf(const struct stat& info) {
  return {.bytes = static_cast<int64_t>(info.st_size),
          .inode = static_cast<int64_t>(info.st_ino),
          .modified_ns = ModifiedNs(info),
          .changed_ns = ChangedNs(info)};
}

}  // namespace

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  // O_NONBLOCK: opening a FIFO by mistake must not wait for its writer.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return SystemError(path, "open", errno);
  struct stat info = {};
  if (fstat(fd, &info) != 0) {
    const int error = errno;
    close(fd);
    return SystemError(path, "stat", error);
  }
  if (!S_ISREG(info.st_mode)) {
    close(fd);
    return InvalidArgument("checkpoint: {}: expected a regular file", path);
  }
  const auto size = static_cast<size_t>(info.st_size);
  if (size == 0) {  // mmap refuses an empty map.
    close(fd);
    return MappedFile(path, StampOf(info), nullptr, 0);
  }
  void* data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  const int error = errno;
  close(fd);
  if (data == MAP_FAILED) return SystemError(path, "map", error);
  return MappedFile(path, StampOf(info), static_cast<const std::byte*>(data), size);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      stamp_(other.stamp_),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    unmap();
    path_ = std::move(other.path_);
    stamp_ = other.stamp_;
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

MappedFile::~MappedFile() { unmap(); }

void MappedFile::unmap() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

FileStamp MappedFile::stamp_now() const {
  struct stat info = {};
  return stat(path_.c_str(), &info) == 0 ? StampOf(info) : FileStamp{};
}

void MappedFile::will_need(Range bytes) const { advise(bytes, MADV_WILLNEED); }
void MappedFile::drop(Range bytes) const { advise(bytes, MADV_DONTNEED); }

void MappedFile::advise(Range bytes, int advice) const {
  SHOAL_CHECK(bytes.begin >= 0 && bytes.end <= static_cast<int64_t>(size_));
  if (bytes.empty()) return;
  static const int64_t page = sysconf(_SC_PAGESIZE);
  const int64_t begin = bytes.begin / page * page;
  // Only advice: a kernel that refuses it costs memory or time, not correctness.
  (void)madvise(const_cast<std::byte*>(data_) + begin, static_cast<size_t>(bytes.end - begin), advice);
}

}  // namespace shoal
