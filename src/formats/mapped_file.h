// A file mapped read-only, with control over which of its pages stay in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "base/range.h"

namespace shoal {

/// What fstat says of a file. Writing to, replacing or renaming a file changes its stamp. The device number
/// is not in it, as it may change with every boot.
struct FileStamp {
  int64_t bytes = 0;
  int64_t inode = 0;
  int64_t modified_ns = 0;  ///< Since the Unix epoch.
  int64_t changed_ns = 0;   ///< Of content or attributes; nobody can set it back.

  bool operator==(const FileStamp&) const = default;
};

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
  /// The stamp at the time of mapping.
  const FileStamp& stamp() const { return stamp_; }
  /// That of the file at path() now; zeros where there is none.
  FileStamp stamp_now() const;
  /// Whether the file at path() still has that stamp.
  bool unchanged() const { return stamp_now() == stamp_; }

  /// Asks the kernel to read the byte range ahead.
  void will_need(Range bytes) const;
  /// Gives the pages of the byte range back, also those it shares with neighbours: reading them again costs a
  /// page fault, never a value.
  void drop(Range bytes) const;

 private:
  MappedFile(std::string path, const FileStamp& stamp, const std::byte* data, size_t size)
      : path_(std::move(path)), stamp_(stamp), data_(data), size_(size) {}
  void advise(Range bytes, int advice) const;
  void unmap();

  std::string path_;
  FileStamp stamp_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace shoal
