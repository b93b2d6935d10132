// A folder for tensors that were fetched from other nodes: for each model a folder with its files, of which only the
// headers and the chunks that this node needed are there; the rest are holes. Reasons: docs/decisions/0021.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file_handle.h"
#include "base/range.h"
#include "formats/mapped_file.h"
#include "loading/model_skeleton.h"
#include "loading/tensor_chunks.h"

namespace shoal {

/// Disjoint ranges, none of which touches another.
class RangeSet {
 public:
  void add(Range range);
  bool has(Range range) const;
  void clear() { ranges_.clear(); }
  std::vector<Range> list() const;

 private:
  std::map<int64_t, int64_t> ranges_;  ///< Begin -> end.
};

/// What a folder's record says: which bytes were verified, and how the files looked then.
struct FetchedRecord {
  struct File {
    std::string name;
    FileStamp stamp;
    std::vector<Range> verified;
  };
  std::string content;   ///< Checkpoint::content_identity() of the model at its source.
  std::string skeleton;  ///< ModelSkeleton::hash().
  std::vector<File> files;
};
/// where: the file, for messages. InvalidArgument for anything else than such a text.
absl::StatusOr<FetchedRecord> ParseFetchedRecord(std::string_view text, std::string_view where);
std::string FetchedRecordText(const FetchedRecord& record);

/// One model's files, as far as they are here. Any thread, but begin() and keep() by one at a time.
class FetchedModel {
 public:
  /// What Checkpoint::Open gets. begin() must have succeeded, or begun_for().
  std::string path() const;
  /// Whether the headers are here of the model with this content, and what verified() says is about it.
  bool begun_for(const std::string& content) const;
  /// Makes the files, with the headers. Bytes that are there stay where the headers are the same; they count as
  /// verified only where `content` is the same. ResourceExhausted: the disk is full; else the system's error.
  absl::Status begin(const ModelSkeleton& skeleton, const std::string& content);

  /// Whether the model as it was opened from these files numbers them as this does, as all that follows assumes.
  bool has_files_of(const Checkpoint& checkpoint) const;

  /// Whether all of these bytes were compared with their hash, now or at an earlier start.
  bool verified(const FilePlace& place) const;
  void note_verified(const FilePlace& place);
  /// Whether anything was written there; if so it may be anything.
  bool written(const FilePlace& place) const;
  absl::Status read(const FilePlace& place, std::span<std::byte> out) const;
  /// ResourceExhausted where the disk is full.
  absl::Status write(const FilePlace& place, std::span<const std::byte> bytes);
  /// Makes all durable, and remembers what was verified for the next start. Marks it as used now.
  absl::Status keep();

 private:
  friend class FetchedModels;
  struct File {
    std::string name;
    FileHandle handle;
    RangeSet verified;
  };

  explicit FetchedModel(std::string folder) : folder_(std::move(folder)) {}
  /// Takes over what the record says of files that are as they were.
  absl::Status read_record();
  absl::Status open_file(const std::string& name, int flags, File& file) const;
  absl::Status make_files(const ModelSkeleton& skeleton);
  absl::Status write_piece(const ModelSkeleton::Piece& piece);
  absl::Status write_record();

  const std::string folder_;
  mutable std::mutex mutex_;  ///< Guards content_ and what is verified.
  std::string content_;       ///< "": nothing was begun.
  std::string skeleton_;
  std::vector<File> files_;  ///< As ModelSkeleton::files.
};

class FetchedModels {
 public:
  struct Options {
    std::string folder;
    int64_t limit_bytes = int64_t{256} << 30;  ///< Of all models.
  };
  /// Makes the folder and keeps other processes out of it. FailedPrecondition where one has it.
  static absl::StatusOr<std::shared_ptr<FetchedModels>> Open(Options options);

  const std::string& folder() const { return options_.folder; }
  /// The model with this hash; its folder is made if need be. InvalidArgument where that is no hash.
  absl::StatusOr<std::shared_ptr<FetchedModel>> model(const std::string& hash);
  /// Makes room on the disk for so many bytes more of a model: deletes the others that nobody uses, the least recently
  /// used first. ResourceExhausted says how much lacks.
  absl::Status make_room(const std::string& hash, int64_t bytes);

 private:
  explicit FetchedModels(Options options) : options_(std::move(options)) {}

  const Options options_;
  FileHandle lock_;
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<FetchedModel>> models_;  ///< By hash.
};

}  // namespace shoal
