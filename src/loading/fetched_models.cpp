#include "loading/fetched_models.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/check.h"
#include "base/file.h"
#include "base/file_lock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "base/system_calls.h"
#include "base/text.h"
#include "formats/strict_json.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr std::string_view kRecordFile = "shoal-fetched.json";
constexpr std::string_view kFormat = "shoal-fetched-1";
constexpr int64_t kRecordBytesMax = int64_t{64} << 20;
constexpr mode_t kMode = 0600;

std::string RecordPath(const std::string& folder) { return fmt::format("{}/{}", folder, kRecordFile); }

absl::StatusOr<FileStamp> StampOf(const FileHandle& file, const std::string& path) {
  struct stat info = {};
  if (fstat(file.fd(), &info) != 0) return SystemError("stat", path, errno);
  return FileStamp{.bytes = static_cast<int64_t>(info.st_size),
                   .inode = static_cast<int64_t>(info.st_ino),
                   .modified_ns = ModifiedNs(info),
                   .changed_ns = ChangedNs(info)};
}

absl::Status WriteAt(const FileHandle& file, const std::string& path, int64_t offset,
                     std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t wrote = pwrite(file.fd(), bytes.data(), bytes.size(), offset);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return SystemError("write", path, errno);
    offset += wrote;
    bytes = bytes.subspan(static_cast<size_t>(wrote));
  }
  return absl::OkStatus();
}

absl::Status ReadAt(const FileHandle& file, const std::string& path, int64_t offset,
                    std::span<std::byte> out) {
  while (!out.empty()) {
    const ssize_t got = pread(file.fd(), out.data(), out.size(), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemError("read", path, errno);
    if (got == 0) return DataLoss("{}: ends at byte {}, where more was promised", path, offset);
    offset += got;
    out = out.subspan(static_cast<size_t>(got));
  }
  return absl::OkStatus();
}

/// Bytes that a folder takes on the disk: holes take none.
int64_t DiskBytes(const fs::path& folder) {
  int64_t sum = 0;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    struct stat info = {};
    if (lstat(at->path().c_str(), &info) == 0) sum += int64_t{info.st_blocks} * 512;
  }
  return sum;
}

absl::Status Bad(std::string_view where, std::string_view expected, const Json& found) {
  return InvalidArgument("{}: expected {}, found {}", where, expected, JsonExcerpt(found));
}

absl::StatusOr<FetchedRecord::File> ReadFile(const Json& json, std::string_view where) {
  constexpr std::string_view kExpected =
      "{\"name\", \"stamp\": [bytes, inode, modified, changed], \"verified\": [[begin, end]]}";
  const auto is_numbers = [](const Json& list, size_t count) {
    return list.is_array() && list.size() == count &&
           std::ranges::all_of(list, [](const Json& item) { return item.is_number_integer(); });
  };
  if (!json.is_object() || !json.contains("name") || !json["name"].is_string() || !json.contains("stamp") ||
      !is_numbers(json["stamp"], 4) || !json.contains("verified") || !json["verified"].is_array()) {
    return Bad(where, kExpected, json);
  }
  const Json& stamp = json["stamp"];
  FetchedRecord::File file{.name = json["name"].get<std::string>(),
                           .stamp = {stamp[0].get<int64_t>(), stamp[1].get<int64_t>(),
                                     stamp[2].get<int64_t>(), stamp[3].get<int64_t>()},
                           .verified = {}};
  for (const Json& range : json["verified"]) {
    if (!is_numbers(range, 2)) return Bad(where, kExpected, range);
    const Range bytes{range[0].get<int64_t>(), range[1].get<int64_t>()};
    if (bytes.begin < 0 || bytes.empty() || bytes.end > file.stamp.bytes) return Bad(where, kExpected, range);
    file.verified.push_back(bytes);
  }
  return file;
}

}  // namespace

void RangeSet::add(Range range) {
  if (range.empty()) return;
  auto at = ranges_.upper_bound(range.begin);
  if (at != ranges_.begin() && std::prev(at)->second >= range.begin) --at;
  while (at != ranges_.end() && at->first <= range.end) {
    range.begin = std::min(range.begin, at->first);
    range.end = std::max(range.end, at->second);
    at = ranges_.erase(at);
  }
  ranges_.emplace(range.begin, range.end);
}

bool RangeSet::has(Range range) const {
  const auto after = ranges_.upper_bound(range.begin);
  return range.empty() || (after != ranges_.begin() && std::prev(after)->second >= range.end);
}

std::vector<Range> RangeSet::list() const {
  std::vector<Range> list;
  for (const auto& [begin, end] : ranges_) list.push_back({begin, end});
  return list;
}

absl::StatusOr<FetchedRecord> ParseFetchedRecord(std::string_view text, std::string_view where) {
  Json json;
  RETURN_IF_ERROR(ParseStrictJson(text, where, &json));
  const auto text_at = [&](const char* key) -> std::string {
    return json.contains(key) && json[key].is_string() ? json[key].get<std::string>() : "";
  };
  if (!json.is_object() || text_at("format") != kFormat || text_at("content").empty() ||
      text_at("skeleton").empty() || !json.contains("files") || !json["files"].is_array()) {
    return Bad(where, fmt::format("an object of format '{}'", kFormat), json);
  }
  FetchedRecord record{.content = text_at("content"), .skeleton = text_at("skeleton"), .files = {}};
  ModelSkeleton names;
  for (const Json& entry : json["files"]) {
    ASSIGN_OR_RETURN(FetchedRecord::File file, ReadFile(entry, where));
    names.files.push_back({file.name, file.stamp.bytes});
    record.files.push_back(std::move(file));
  }
  RETURN_IF_ERROR(Annotate(CheckSkeleton(names), where));
  return record;
}

std::string FetchedRecordText(const FetchedRecord& record) {
  Json json = {{"format", kFormat}, {"content", record.content}, {"skeleton", record.skeleton}};
  json["files"] = Json::array();
  for (const FetchedRecord::File& file : record.files) {
    const FileStamp& stamp = file.stamp;
    Json verified = Json::array();
    for (const Range& range : file.verified) verified.push_back({range.begin, range.end});
    json["files"].push_back({{"name", file.name},
                             {"stamp", {stamp.bytes, stamp.inode, stamp.modified_ns, stamp.changed_ns}},
                             {"verified", std::move(verified)}});
  }
  return json.dump();
}

std::string FetchedModel::path() const {
  ModelSkeleton names;
  for (const File& file : files_) names.files.push_back({file.name, 0});
  const std::string entry = names.entry();
  return entry.empty() ? folder_ : fmt::format("{}/{}", folder_, entry);
}

bool FetchedModel::begun_for(const std::string& content) const {
  const std::lock_guard lock(mutex_);
  return !content.empty() && content_ == content;
}

absl::Status FetchedModel::open_file(const std::string& name, int flags, File& file) const {
  const std::string path = fmt::format("{}/{}", folder_, name);
  file.name = name;
  file.handle = FileHandle(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, kMode));
  return file.handle.fd() < 0 ? SystemError("open", path, errno) : absl::OkStatus();
}

absl::Status FetchedModel::read_record() {
  const std::string path = RecordPath(folder_);
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kRecordBytesMax));
  ASSIGN_OR_RETURN(const FetchedRecord record, ParseFetchedRecord(text, path));
  std::vector<File> files;
  bool as_it_was = true;
  for (const FetchedRecord::File& said : record.files) {
    File file;
    RETURN_IF_ERROR(open_file(said.name, 0, file));
    ASSIGN_OR_RETURN(const FileStamp stamp, StampOf(file.handle, said.name));
    if (stamp.bytes != said.stamp.bytes) {
      return InvalidArgument("{}: '{}' has {} bytes, expected {}", path, said.name, stamp.bytes,
                             said.stamp.bytes);
    }
    as_it_was = as_it_was && stamp == said.stamp;
    for (const Range& range : said.verified) file.verified.add(range);
    files.push_back(std::move(file));
  }
  // After a kill there may be more in the files, or less: then every chunk is compared with its hash again.
  if (!as_it_was) {
    for (File& file : files) file.verified.clear();
  }
  const std::lock_guard lock(mutex_);
  content_ = as_it_was ? record.content : "";
  skeleton_ = record.skeleton;
  files_ = std::move(files);
  return absl::OkStatus();
}

absl::Status FetchedModel::make_files(const ModelSkeleton& skeleton) {
  files_.clear();
  std::error_code error;
  for (fs::directory_iterator at(folder_, error), end; !error && at != end; at.increment(error)) {
    std::error_code ignored;
    fs::remove(at->path(), ignored);
  }
  for (const ModelSkeleton::File& wanted : skeleton.files) {
    File file;
    RETURN_IF_ERROR(open_file(wanted.name, O_CREAT | O_EXCL, file));
    if (ftruncate(file.handle.fd(), wanted.bytes) != 0) {
      return SystemError("make", fmt::format("{}/{}", folder_, wanted.name), errno);
    }
    files_.push_back(std::move(file));
  }
  return absl::OkStatus();
}

absl::Status FetchedModel::write_piece(const ModelSkeleton::Piece& piece) {
  const std::span<const std::byte> bytes = std::as_bytes(std::span(piece.bytes));
  const FilePlace place{piece.file, {piece.begin, piece.begin + std::ssize(bytes)}};
  std::vector<std::byte> there(bytes.size());
  RETURN_IF_ERROR(read(place, there));
  return std::ranges::equal(there, bytes) ? absl::OkStatus() : write(place, bytes);
}

absl::Status FetchedModel::begin(const ModelSkeleton& skeleton, const std::string& content) {
  RETURN_IF_ERROR(CheckSkeleton(skeleton));
  const std::string hash = skeleton.hash();
  {
    const std::lock_guard lock(mutex_);
    if (content_ != content) {
      for (File& file : files_) file.verified.clear();
    }
    content_.clear();
    if (skeleton_ != hash) {
      skeleton_.clear();
      RETURN_IF_ERROR(make_files(skeleton));
    }
  }
  for (const ModelSkeleton::Piece& piece : skeleton.pieces) RETURN_IF_ERROR(write_piece(piece));
  const std::lock_guard lock(mutex_);
  skeleton_ = hash;
  content_ = content;
  return write_record();
}

bool FetchedModel::has_files_of(const Checkpoint& checkpoint) const {
  const std::vector<Checkpoint::File> files = checkpoint.files();
  return files.size() <= files_.size() && std::ranges::equal(files, std::span(files_).first(files.size()), {},
                                                             &Checkpoint::File::name, &File::name);
}

bool FetchedModel::verified(const FilePlace& place) const {
  const std::lock_guard lock(mutex_);
  // Who asks may have opened the model as it was before begin().
  return place.file < std::ssize(files_) && files_[static_cast<size_t>(place.file)].verified.has(place.bytes);
}

void FetchedModel::note_verified(const FilePlace& place) {
  const std::lock_guard lock(mutex_);
  files_[static_cast<size_t>(place.file)].verified.add(place.bytes);
}

bool FetchedModel::written(const FilePlace& place) const {
  const off_t data = lseek(files_[static_cast<size_t>(place.file)].handle.fd(), place.bytes.begin, SEEK_DATA);
  return data >= 0 ? data < place.bytes.end : errno != ENXIO;  // No other error says that there is nothing.
}

absl::Status FetchedModel::read(const FilePlace& place, std::span<std::byte> out) const {
  SHOAL_CHECK(std::ssize(out) == place.bytes.size());
  const File& file = files_[static_cast<size_t>(place.file)];
  return ReadAt(file.handle, fmt::format("{}/{}", folder_, file.name), place.bytes.begin, out);
}

absl::Status FetchedModel::write(const FilePlace& place, std::span<const std::byte> bytes) {
  SHOAL_CHECK(std::ssize(bytes) == place.bytes.size());
  const File& file = files_[static_cast<size_t>(place.file)];
  RETURN_IF_ERROR(WriteAt(file.handle, fmt::format("{}/{}", folder_, file.name), place.bytes.begin, bytes));
  // The disk begins now, so that keep() need not wait for all of it. Where it can't, keep() does.
  BeginToWrite(file.handle, place.bytes);
  return absl::OkStatus();
}

absl::Status FetchedModel::write_record() {
  FetchedRecord record{.content = content_, .skeleton = skeleton_, .files = {}};
  for (const File& file : files_) {
    ASSIGN_OR_RETURN(const FileStamp stamp, StampOf(file.handle, file.name));
    record.files.push_back({file.name, stamp, file.verified.list()});
  }
  return WriteTextFile(RecordPath(folder_), FetchedRecordText(record));
}

absl::Status FetchedModel::keep() {
  for (const File& file : files_) {
    if (const int error = WriteToDisk(file.handle); error != 0) {
      return SystemError("sync", fmt::format("{}/{}", folder_, file.name), error);
    }
  }
  const std::lock_guard lock(mutex_);
  return write_record();
}

absl::StatusOr<std::shared_ptr<FetchedModels>> FetchedModels::Open(Options options) {
  std::shared_ptr<FetchedModels> models(new FetchedModels(std::move(options)));
  const std::string& folder = models->folder();
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return SystemError("make", folder, error.value());
  const std::string path = folder + "/lock";
  ASSIGN_OR_RETURN(FileLock lock, TryLockFile(path));
  if (!lock.held) {
    return FailedPrecondition(
        "{} is in use by another process: give each a folder of its own, with --weights-cache", folder);
  }
  models->lock_ = std::move(lock.file);
  return models;
}

absl::StatusOr<std::shared_ptr<FetchedModel>> FetchedModels::model(const std::string& hash) {
  constexpr size_t kDigits = 32;
  if (hash.size() != kDigits || hash.find_first_not_of("0123456789abcdef") != std::string::npos) {
    return InvalidArgument("the hash of a model: expected {} hex digits, got '{}'", kDigits,
                           Printable(hash, 64));
  }
  const std::lock_guard lock(mutex_);
  std::shared_ptr<FetchedModel>& model = models_[hash];
  if (model != nullptr) return model;
  const std::string folder = fmt::format("{}/{}", options_.folder, hash);
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return SystemError("make", folder, error.value());
  std::shared_ptr<FetchedModel> made(new FetchedModel(folder));
  const absl::Status read = made->read_record();
  if (!read.ok() && !absl::IsNotFound(read)) LogInfo("fetched again: {}", Message(read));
  model = std::move(made);
  return model;
}

absl::Status FetchedModels::make_room(const std::string& hash, int64_t bytes) {
  struct Other {
    std::string name;
    int64_t bytes;
    fs::file_time_type used;
  };
  const std::lock_guard lock(mutex_);
  std::vector<Other> others;
  int64_t all = 0;
  std::error_code error;
  for (fs::directory_iterator at(options_.folder, error), end; !error && at != end; at.increment(error)) {
    std::error_code ignored;
    if (!at->is_directory(ignored)) continue;
    const std::string name = at->path().filename().string();
    const int64_t there = DiskBytes(at->path());
    all += there;
    const auto open = models_.find(name);
    const bool in_use = open != models_.end() && open->second.use_count() > 1;
    if (name == hash || in_use) continue;
    others.push_back({name, there, fs::last_write_time(RecordPath(at->path().string()), ignored)});
  }
  std::ranges::sort(others, {}, &Other::used);
  const auto lacking = [&]() -> int64_t {
    struct statvfs disk = {};
    const int64_t free = statvfs(options_.folder.c_str(), &disk) == 0
                             ? static_cast<int64_t>(disk.f_bavail) * static_cast<int64_t>(disk.f_frsize)
                             : INT64_MAX;
    return std::max(all + bytes - options_.limit_bytes, bytes - free);
  };
  for (const Other& other : others) {
    if (lacking() <= 0) break;
    LogInfo("{}: deleted fetched model {}, to make room", options_.folder, other.name);
    models_.erase(other.name);
    std::error_code ignored;
    fs::remove_all(fs::path(options_.folder) / other.name, ignored);
    all -= other.bytes;
  }
  const int64_t lacks = lacking();
  if (lacks <= 0) return absl::OkStatus();
  return ResourceExhausted(
      "{}: no room for {} of weights to fetch: {} more are needed, on the disk or within "
      "--weights-cache-limit ({})",
      options_.folder, FormatBytes(bytes), FormatBytes(lacks), FormatBytes(options_.limit_bytes));
}

}  // namespace shoal
