// A folder of packed weights, so that a second start need not pack again. It may be deleted at any time, and
// shared by processes: files are written under a temporary name and renamed when they are whole; a file that
// is broken, cut short or of another identity is not used. The reasons are in docs/decisions/0007.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file_handle.h"
#include "loading/packed_file.h"

namespace shoal {

inline constexpr int64_t kPackedCacheLimit = int64_t{64} << 30;

/// A file whose table is sound. Its matrices are not checked: the reader compares the hashes.
class PackedFile {
 public:
  /// NotFound; PermissionDenied; InvalidArgument as ParsePackedTable; Unavailable: the system's error.
  static absl::StatusOr<PackedFile> Open(const std::string& path);

  const std::string& path() const { return path_; }
  const PackedTable& table() const { return table_; }
  /// Any thread. DataLoss where the file ends before; Unavailable: the system's error.
  absl::Status read(int64_t offset, std::span<std::byte> out) const;
  /// Asks the system to read these bytes ahead.
  void will_need(int64_t offset, int64_t bytes) const;
  /// Whether `path` is this very file.
  bool is_at(const std::string& path) const;
  /// Marks it as used now: eviction deletes the least recently used files first.
  void touch() const;

 private:
  std::string path_;
  FileHandle file_;
  PackedTable table_;
};

/// A file that is being written. The destructor deletes it unless publish() succeeded.
class PackedFileWriter {
 public:
  PackedFileWriter(PackedFileWriter&& other) noexcept = default;
  PackedFileWriter& operator=(PackedFileWriter&&) = delete;
  ~PackedFileWriter();

  /// The path that the file will have.
  const std::string& path() const { return path_; }
  /// ResourceExhausted where the disk is full.
  absl::Status write(int64_t offset, std::span<const std::byte> bytes);
  /// Writes the head and makes everything durable. `table` has the names, tiles and offsets of the one that
  /// the file was made for, and now the hashes.
  absl::Status complete(const PackedTable& table);
  /// Gives a complete file its name.
  absl::Status publish();

 private:
  friend class PackedCache;
  PackedFileWriter(std::string temporary, std::string path, FileHandle file)
      : temporary_(std::move(temporary)), path_(std::move(path)), file_(std::move(file)) {}

  std::string temporary_;
  std::string path_;
  FileHandle file_;
};

class PackedCache {
 public:
  struct Options {
    std::string folder;
    int64_t limit_bytes = kPackedCacheLimit;  ///< Of all its files.
  };
  explicit PackedCache(Options options) : options_(std::move(options)) {}

  const std::string& folder() const { return options_.folder; }
  int64_t limit_bytes() const { return options_.limit_bytes; }

  /// The file made for `identity`. NotFound where there is none; else as PackedFile::Open, and
  /// InvalidArgument for a file of another identity under this one's name.
  absl::StatusOr<PackedFile> open(const PackedIdentity& identity) const;
  /// Keeps others from publishing files while it lives: so long is_still() stays true. Waits for a second at
  /// most; where another holds on, or the file system has no locks, nothing is kept.
  FileHandle lock() const;
  /// Whether the file of `identity` is still `file` (nullptr: there is none).
  bool is_still(const PackedIdentity& identity, const PackedFile* file) const;

  /// Deletes a file of this cache that turned out to be damaged, so that it is made anew.
  void discard(const PackedFile& file) const;
  /// Makes room for new files: deletes those of older layouts, which nobody reads any more, and then the
  /// least recently used until `bytes` fit. `kept`: bytes of files that go with them. ResourceExhausted where
  /// both exceed the limit.
  absl::Status reserve(int64_t bytes, int64_t kept) const;
  /// Begins a file with this table. ResourceExhausted: it exceeds the limit or the disk.
  absl::StatusOr<PackedFileWriter> create(const PackedTable& table) const;

  /// The files in the folder, most recently used first; none where there is no folder.
  struct Item {
    std::string path;
    int64_t bytes = 0;
    int64_t used_unix_s = 0;
    PackedIdentity identity;  ///< Empty where the file is broken, as
    std::string about;        ///< is where the model was.
    std::string problem;      ///< Why it is broken; empty where it is not.
  };
  std::vector<Item> list() const;
  /// Deletes its files, and nothing else that may be in the folder. Returns how many bytes they had.
  absl::StatusOr<int64_t> clear() const;

 private:
  struct Found {
    std::string path;
    int64_t bytes = 0;
    int64_t used_ns = 0;
  };
  std::string path_of(const PackedIdentity& identity) const;
  /// Files of this cache, most recently used first.
  std::vector<Found> files() const;
  /// Deletes temporary files whose writers are gone.
  void delete_abandoned() const;

  Options options_;
};

}  // namespace shoal
