// A file mapped read-only, and what the kernel may keep of it in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "base/range.h"

namespace shoal {

/// Read-only map of a whole regular file; symlinks are followed (Hugging Face caches link to blobs). The
/// bytes stay at the same address when the object moves. A file that another process truncates while it is
/// mapped kills the reader (SIGBUS): checkpoints are replaced by renaming, not by rewriting.
class MappedFile {
 public:
  /// NotFound, PermissionDenied or InvalidArgument (not a regular file), with the path and the system's
  /// words.
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

  /// Asks the kernel to read the byte range ahead.
  void will_need(Range bytes) const;
  /// Gives the pages of the byte range back, also those it shares with neighbours: reading them again costs a
  /// page fault, never a value.
  void drop(Range bytes) const;

 private:
  MappedFile(std::string path, const std::byte* data, size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}
  void advise(Range bytes, int advice) const;
  void unmap();

  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace shoal
