#include "loading/packed_cache.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/random.h"
#include "base/status.h"
#include "base/system_calls.h"
#include "base/text.h"
#include "formats/content_hash.h"

namespace shoal {
namespace {

constexpr std::string_view kSuffix = ".packed";
constexpr std::string_view kTemporarySuffix = ".partial";
constexpr mode_t kOwnerOnly = 0600;  // Weights may be under a licence: what was private stays so.
constexpr int64_t kNsPerS = 1'000'000'000;

bool IsRegular(const struct stat& info) { return S_ISREG(info.st_mode); }

bool IsHex(std::string_view text) {
  return text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

/// "<32 hex digits>.packed".
bool IsPackedName(std::string_view name) {
  constexpr size_t kDigits = 32;
  return name.size() == kDigits + kSuffix.size() && name.ends_with(kSuffix) && IsHex(name.substr(0, kDigits));
}

/// "<32 hex digits>.packed.<16 hex digits>.partial".
bool IsTemporaryName(std::string_view name) {
  constexpr size_t kTail = 1 + 16 + kTemporarySuffix.size();
  return name.size() > kTail && name.ends_with(kTemporarySuffix) &&
         IsPackedName(name.substr(0, name.size() - kTail));
}

/// Paths in a folder whose names `is_ours` takes; none where there is no folder.
std::vector<std::string> PathsIn(const std::string& folder, bool (*is_ours)(std::string_view name)) {
  std::vector<std::string> paths;
  std::error_code error;
  for (std::filesystem::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    if (is_ours(at->path().filename().string())) paths.push_back(at->path().string());
  }
  return paths;
}

/// Whether nobody is writing a file any more: writers hold a lock that goes with their process. One that is
/// younger than a minute may not have come to its lock.
bool IsAbandoned(const std::string& path) {
  constexpr int64_t kYoungS = 60;
  const FileHandle file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat info = {};
  if (file.fd() < 0 || fstat(file.fd(), &info) != 0) return false;
  return UnixSeconds() - ModifiedNs(info) / kNsPerS > kYoungS && flock(file.fd(), LOCK_EX | LOCK_NB) == 0;
}

/// Whether a file was written by an older version of this.
bool IsOfOlderLayout(const std::string& path) {
  const FileHandle file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  std::byte prefix[kPackedPrefixBytes];
  return file.fd() >= 0 && read(file.fd(), prefix, sizeof prefix) == ssize_t{sizeof prefix} &&
         PackedVersion(prefix) < kPackedFileVersion;
}

}  // namespace

absl::StatusOr<PackedFile> PackedFile::Open(const std::string& path) {
  PackedFile result;
  result.path_ = path;
  result.file_ = FileHandle(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (result.file_.fd() < 0) return SystemError("open", path, errno);
  struct stat info = {};
  if (fstat(result.file_.fd(), &info) != 0) return SystemError("stat", path, errno);
  if (!IsRegular(info)) return InvalidArgument("{}: expected a regular file", path);
  const auto file_bytes = static_cast<int64_t>(info.st_size);
  std::vector<std::byte> prefix(static_cast<size_t>(std::min(kPackedPrefixBytes, file_bytes)));
  RETURN_IF_ERROR(result.read(0, prefix));
  ASSIGN_OR_RETURN(const int64_t table_bytes, ParsePackedPrefix(prefix, file_bytes, path));
  std::vector<std::byte> table(static_cast<size_t>(table_bytes));
  RETURN_IF_ERROR(result.read(kPackedPrefixBytes, table));
  ASSIGN_OR_RETURN(result.table_, ParsePackedTable(prefix, table, file_bytes, path));
  return result;
}

absl::Status PackedFile::read(int64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t got = pread(file_.fd(), out.data(), out.size(), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemError("read", path_, errno);
    if (got == 0) return DataLoss("{}: ends at byte {}, where more was promised", path_, offset);
    offset += got;
    out = out.subspan(static_cast<size_t>(got));
  }
  return absl::OkStatus();
}

void PackedFile::will_need(int64_t offset, int64_t bytes) const {
  // Only advice: a system that refuses it costs time.
  WillRead(file_, {offset, offset + bytes});
}

bool PackedFile::is_at(const std::string& path) const {
  struct stat there = {};
  struct stat here = {};
  return stat(path.c_str(), &there) == 0 && fstat(file_.fd(), &here) == 0 && there.st_dev == here.st_dev &&
         there.st_ino == here.st_ino;
}

void PackedFile::touch() const {
  // Only for eviction: a file that may be read but not touched is used all the same.
  const timespec times[2] = {{0, UTIME_NOW}, {0, UTIME_NOW}};
  (void)futimens(file_.fd(), times);
}

PackedFileWriter::~PackedFileWriter() {
  if (file_.fd() >= 0 && !temporary_.empty()) unlink(temporary_.c_str());
}

absl::Status PackedFileWriter::write(int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = pwrite(file_.fd(), bytes.data(), bytes.size(), offset);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return SystemError("write", temporary_, errno);
    offset += put;
    bytes = bytes.subspan(static_cast<size_t>(put));
  }
  return absl::OkStatus();
}

absl::Status PackedFileWriter::complete(const PackedTable& table) {
  const std::string head = EncodePackedHead(table);
  SHOAL_CHECK_LE(static_cast<int64_t>(head.size()), table.entries.front().offset);
  RETURN_IF_ERROR(write(0, std::as_bytes(std::span(head))));
  // The name comes after the bytes, also on a disk that loses power. (Were it not so, the hashes would tell.)
  if (fsync(file_.fd()) != 0) return SystemError("write", temporary_, errno);
  return absl::OkStatus();
}

absl::Status PackedFileWriter::publish() {
  if (rename(temporary_.c_str(), path_.c_str()) != 0) return SystemError("rename", temporary_, errno);
  temporary_.clear();
  const FileHandle folder(open(std::filesystem::path(path_).parent_path().c_str(), O_RDONLY | O_CLOEXEC));
  if (folder.fd() >= 0) fsync(folder.fd());
  return absl::OkStatus();
}

std::string PackedCache::path_of(const PackedIdentity& identity) const {
  return fmt::format("{}/{}{}", options_.folder, ContentHashHex(identity.text()), kSuffix);
}

absl::StatusOr<PackedFile> PackedCache::open(const PackedIdentity& identity) const {
  ASSIGN_OR_RETURN(PackedFile file, PackedFile::Open(path_of(identity)));
  if (file.table().identity != identity) {
    return InvalidArgument("{}: expected the weights of '{}', found those of '{}'", file.path(),
                           identity.text(), file.table().identity.text());
  }
  return file;
}

FileHandle PackedCache::lock() const {
  constexpr int kTriesMax = 1000;
  constexpr auto kPause = std::chrono::milliseconds(1);
  FileHandle folder(::open(options_.folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (int i = 0; i < kTriesMax && flock(folder.fd(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK; ++i) {
    std::this_thread::sleep_for(kPause);
  }
  return folder;
}

bool PackedCache::is_still(const PackedIdentity& identity, const PackedFile* file) const {
  const std::string path = path_of(identity);
  return file == nullptr ? access(path.c_str(), F_OK) != 0 : file->is_at(path);
}

absl::StatusOr<PackedFileWriter> PackedCache::create(const PackedTable& table) const {
  const int64_t bytes = table.file_bytes();
  if (table.entries.empty() || table.entries.front().offset > kPackedTableMax) {
    return FailedPrecondition("a table of {} matrices cannot be cached", table.entries.size());
  }
  if (bytes > options_.limit_bytes) {
    return ResourceExhausted("{} are more than the limit of {}", FormatBytes(bytes),
                             FormatBytes(options_.limit_bytes));
  }
  std::error_code error;
  std::filesystem::create_directories(options_.folder, error);
  if (error) return SystemError("make", options_.folder, error.value());
  const std::string path = path_of(table.identity);
  const std::string temporary = fmt::format("{}.{:016x}{}", path, EntropySeed(), kTemporarySuffix);
  FileHandle file(::open(temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, kOwnerOnly));
  if (file.fd() < 0) return SystemError("make", temporary, errno);
  (void)flock(file.fd(),
              LOCK_EX | LOCK_NB);  // Nobody else knows the name yet; a refusal costs a clean-up later.
  // A disk that is too full says so now, and not after minutes of writing. Not all file systems can tell.
  const int room = TakeRoom(file, bytes);
  PackedFileWriter writer(temporary, path, std::move(file));
  if (room != 0) return SystemError("make room for", temporary, room);
  return writer;
}

void PackedCache::discard(const PackedFile& file) const {
  if (file.is_at(file.path())) unlink(file.path().c_str());
}

std::vector<PackedCache::Found> PackedCache::files() const {
  std::vector<Found> found;
  for (const std::string& path : PathsIn(options_.folder, IsPackedName)) {
    struct stat info = {};
    if (lstat(path.c_str(), &info) != 0 || !IsRegular(info)) continue;
    found.push_back({path, static_cast<int64_t>(info.st_size), ModifiedNs(info)});
  }
  std::ranges::sort(found, {}, [](const Found& file) { return std::tuple(-file.used_ns, file.path); });
  return found;
}

void PackedCache::delete_abandoned() const {
  for (const std::string& path : PathsIn(options_.folder, IsTemporaryName)) {
    if (IsAbandoned(path)) unlink(path.c_str());
  }
}

absl::Status PackedCache::reserve(int64_t bytes, int64_t kept) const {
  if (bytes + kept > options_.limit_bytes) {
    return ResourceExhausted("{} are more than the limit of {}", FormatBytes(bytes + kept),
                             FormatBytes(options_.limit_bytes));
  }
  delete_abandoned();
  std::vector<Found> rest = files();
  const auto delete_file = [](const Found& file, std::string_view why) {
    // Another process may have been quicker. Who reads it still has it open.
    if (unlink(file.path.c_str()) == 0) {
      LogInfo("packed cache: deleted {}, {}, {}", file.path, FormatBytes(file.bytes), why);
    }
  };
  std::erase_if(rest, [&](const Found& file) {
    const bool old = IsOfOlderLayout(file.path);
    if (old) delete_file(file, "of an older layout");
    return old;
  });
  int64_t total = bytes;
  for (const Found& file : rest) total += file.bytes;
  for (; total > options_.limit_bytes && !rest.empty(); rest.pop_back()) {
    total -= rest.back().bytes;
    delete_file(rest.back(), "which rested longest");
  }
  return absl::OkStatus();
}

std::vector<PackedCache::Item> PackedCache::list() const {
  std::vector<Item> items;
  for (const Found& found : files()) {
    Item item{.path = found.path, .bytes = found.bytes, .used_unix_s = found.used_ns / kNsPerS};
    const absl::StatusOr<PackedFile> file = PackedFile::Open(found.path);
    if (file.ok()) {
      item.identity = file->table().identity;
      item.about = file->table().about;
    } else {
      item.problem = Message(file.status());
    }
    items.push_back(std::move(item));
  }
  return items;
}

absl::StatusOr<int64_t> PackedCache::clear() const {
  int64_t bytes = 0;
  for (const Found& file : files()) {
    if (unlink(file.path.c_str()) != 0 && errno != ENOENT) return SystemError("delete", file.path, errno);
    bytes += file.bytes;
  }
  delete_abandoned();
  return bytes;
}

}  // namespace shoal
