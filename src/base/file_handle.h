// An open file, closed by whoever holds it.
#pragma once

#include <unistd.h>

#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"

namespace shoal {

/// An open file descriptor.
class FileHandle {
 public:
  FileHandle() = default;
  explicit FileHandle(int fd) : fd_(fd) {}
  FileHandle(FileHandle&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileHandle& operator=(FileHandle&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileHandle() {
    if (fd_ >= 0) close(fd_);
  }

  int fd() const { return fd_; }

 private:
  int fd_ = -1;
};

/// "cannot WHAT PATH: ..." of an errno. NotFound: no such path. PermissionDenied: not allowed, or read-only.
/// ResourceExhausted: the disk is full. Else Unavailable.
absl::Status SystemError(std::string_view what, const std::string& path, int error);

}  // namespace shoal
