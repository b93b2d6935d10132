#include "api/retry/answer_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <system_error>
#include <type_traits>
#include <utility>

#include "base/file.h"
#include "base/file_lock.h"
#include "base/log.h"
#include "base/process.h"
#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

constexpr std::string_view kHeader = "shoal answers 1\n";
constexpr std::chrono::milliseconds kWritePause{50};
/// A file is written anew when it has this many bytes, or twice what it had when it was new: it is in memory meanwhile.
constexpr int64_t kRewriteBytesMin = 16 << 20;
/// Of what waits to be written: with more the disk stands still.
constexpr size_t kPendingBytesMax = 64 << 20;
/// A file that is longer is not one of ours.
constexpr int64_t kFileBytesMax = int64_t{1} << 30;
/// Of one write of a file that is written anew.
constexpr size_t kWriteBytes = 1 << 20;

enum class Kind : uint8_t { kBegin = 1, kTokens = 2, kForget = 3 };

template <typename T>
requires std::is_trivially_copyable_v<T>
void Put(std::string& out, const T& value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

/// Takes a value off the front; false where there are too few bytes.
template <typename T>
bool Take(std::string_view& bytes, T& value) {
  if (bytes.size() < sizeof(value)) return false;
  std::memcpy(&value, bytes.data(), sizeof(value));
  bytes.remove_prefix(sizeof(value));
  return true;
}

/// Length, hash, payload.
std::string Framed(const std::string& payload) {
  std::string out;
  Put(out, static_cast<uint32_t>(payload.size()));
  Put(out, static_cast<uint64_t>(XXH3_64bits(payload.data(), payload.size())));
  return out + payload;
}

/// The next payload; false where none is whole.
bool TakePayload(std::string_view& bytes, std::string_view& payload) {
  uint32_t size = 0;
  uint64_t hash = 0;
  if (!Take(bytes, size) || !Take(bytes, hash) || bytes.size() < size) return false;
  payload = bytes.substr(0, size);
  bytes.remove_prefix(size);
  return XXH3_64bits(payload.data(), payload.size()) == hash;
}

/// The entries of a file while it is read.
class Replay {
 public:
  explicit Replay(const AnswerLogLimits& limits) : left_(limits) {}

  /// False where the payload is not one of ours, or beyond the limits.
  bool apply(std::string_view payload) {
    Kind kind{};
    Digest key{};
    if (!Take(payload, kind) || !Take(payload, key)) return false;
    switch (kind) {
      case Kind::kBegin:
        return begin(key, payload);
      case Kind::kTokens:
        return tokens(key, payload);
      case Kind::kForget:
        if (const auto found = entries_.find(key); found != entries_.end()) {
          drop_choices(found->second.entry);
          entries_.erase(found);
          ++left_.entries;
        }
        return payload.empty();
    }
    return false;
  }

  std::vector<AnswerLogEntry> entries() && {
    std::vector<std::pair<uint64_t, AnswerLogEntry>> ordered;
    for (auto& [key, one] : entries_) ordered.emplace_back(one.order, std::move(one.entry));
    std::ranges::sort(ordered, {}, &std::pair<uint64_t, AnswerLogEntry>::first);
    std::vector<AnswerLogEntry> out;
    for (auto& [order, entry] : ordered) out.push_back(std::move(entry));
    return out;
  }

 private:
  struct One {
    AnswerLogEntry entry;
    uint64_t order = 0;
  };

  bool begin(const Digest& key, std::string_view rest) {
    Digest content{};
    int64_t asked_s = 0;
    if (!Take(rest, content) || !Take(rest, asked_s) || !rest.empty()) return false;
    const bool fresh = !entries_.contains(key);
    if (fresh && left_.entries == 0) return false;
    if (fresh) --left_.entries;
    One& one = entries_[key];
    if (one.entry.key.content != content) drop_choices(one.entry);
    one.entry.key = {key, content};
    one.entry.asked_s = asked_s;
    one.order = ++order_;
    return true;
  }

  bool tokens(const Digest& key, std::string_view rest) {
    uint32_t choice = 0;
    uint64_t at = 0;
    if (!Take(rest, choice) || !Take(rest, at) || rest.size() % sizeof(int32_t) != 0) return false;
    const auto found = entries_.find(key);
    if (found == entries_.end() || choice >= kLoggedChoicesMax) return false;
    auto& choices = found->second.entry.choices;
    if (choice >= choices.size()) {
      const size_t more = choice + 1 - choices.size();
      if (more > left_.choices) return false;
      left_.choices -= more;
      choices.resize(choice + 1);
    }
    std::vector<int32_t>& known = choices[choice];
    const size_t count = rest.size() / sizeof(int32_t);
    if (at > known.size() || at + count > known.size() + left_.tokens) return false;
    left_.tokens = known.size() + left_.tokens - (at + count);
    known.resize(at + count);
    if (count > 0) std::memcpy(known.data() + at, rest.data(), rest.size());
    return true;
  }

  void drop_choices(AnswerLogEntry& entry) {
    left_.choices += entry.choices.size();
    for (const std::vector<int32_t>& choice : entry.choices) left_.tokens += choice.size();
    entry.choices.clear();
  }

  std::map<Digest, One> entries_;
  AnswerLogLimits left_;
  uint64_t order_ = 0;
};

absl::StatusOr<FileHandle> LockFolder(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return SystemError("make the folder", folder, error.value());
  ASSIGN_OR_RETURN(FileLock lock, TryLockFile(folder + "/lock"));
  if (!lock.held)
    return FailedPrecondition("{}: another server has its answers there; name another folder", folder);
  return std::move(lock.file);
}

absl::Status WriteAll(int fd, const std::string& path, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return SystemError("write", path, errno);
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

int64_t Size(std::string_view bytes) { return static_cast<int64_t>(bytes.size()); }

}  // namespace

std::string EncodeBegin(const RepeatKey& key, int64_t asked_s) {
  std::string payload;
  Put(payload, Kind::kBegin);
  Put(payload, key.key);
  Put(payload, key.content);
  Put(payload, asked_s);
  return Framed(payload);
}

std::string EncodeTokens(const Digest& key, int choice, int64_t at, std::span<const int32_t> tokens) {
  std::string payload;
  Put(payload, Kind::kTokens);
  Put(payload, key);
  Put(payload, static_cast<uint32_t>(choice));
  Put(payload, static_cast<uint64_t>(at));
  for (const int32_t token : tokens) Put(payload, token);
  return Framed(payload);
}

std::string EncodeForget(const Digest& key) {
  std::string payload;
  Put(payload, Kind::kForget);
  Put(payload, key);
  return Framed(payload);
}

std::string EncodeEntry(const AnswerLogEntry& entry) {
  std::string out = EncodeBegin(entry.key, entry.asked_s);
  for (size_t i = 0; i < entry.choices.size(); ++i) {
    out += EncodeTokens(entry.key.key, static_cast<int>(i), 0, entry.choices[i]);
  }
  return out;
}

std::string EncodeEntries(std::span<const AnswerLogEntry> entries) {
  std::string out(kHeader);
  for (const AnswerLogEntry& entry : entries) out += EncodeEntry(entry);
  return out;
}

ReadAnswerLog DecodeAnswerLog(std::string_view bytes, const AnswerLogLimits& limits) {
  if (bytes.empty()) return {};
  if (!bytes.starts_with(kHeader)) return {.entries = {}, .damage = "it is no file of answers"};
  const size_t size = bytes.size();
  bytes.remove_prefix(kHeader.size());
  Replay replay(limits);
  ReadAnswerLog read;
  while (!bytes.empty()) {
    const size_t at = size - bytes.size();
    std::string_view payload;
    if (!TakePayload(bytes, payload) || !replay.apply(payload)) {
      read.damage =
          fmt::format("from byte {} of {} on it is damaged, or has more than a server keeps", at, size);
      break;
    }
  }
  read.entries = std::move(replay).entries();
  return read;
}

absl::StatusOr<std::unique_ptr<AnswerLog>> AnswerLog::Open(const std::string& folder, ReadAnswerLog& read) {
  ASSIGN_OR_RETURN(FileHandle lock, LockFolder(folder));
  std::unique_ptr<AnswerLog> log(new AnswerLog(folder + "/answers.log", std::move(lock)));
  ASSIGN_OR_RETURN(read, log->read());
  RETURN_IF_ERROR(log->rewrite(read.entries));
  log->thread_ = std::thread(&AnswerLog::run, log.get());
  return log;
}

absl::StatusOr<ReadAnswerLog> AnswerLog::read() const {
  const auto bytes = ReadTextFile(path_, kFileBytesMax);
  if (absl::IsNotFound(bytes.status())) return ReadAnswerLog();
  RETURN_IF_ERROR(bytes.status());
  ReadAnswerLog read = DecodeAnswerLog(*bytes);
  if (!read.damage.empty()) LogWarning("{}: {}; what comes before is kept", path_, read.damage);
  return read;
}

AnswerLog::~AnswerLog() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void AnswerLog::append(std::string bytes) {
  const std::lock_guard lock(mutex_);
  if (failed_) return;
  if (pending_.size() + bytes.size() > kPendingBytesMax) {
    return give_up(ResourceExhausted("{}: {} wait to be written: the disk stands still", path_,
                                     FormatBytes(Size(pending_))));
  }
  pending_ += bytes;
  changed_.notify_one();
}

absl::Status AnswerLog::rewrite(std::span<const AnswerLogEntry> entries) {
  const std::string partial = path_ + ".partial";
  FileHandle file(open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600));
  if (file.fd() < 0) return SystemError("open", partial, errno);
  int64_t bytes = 0;
  std::string some(kHeader);
  const auto write_some = [&] {
    bytes += Size(some);
    return WriteAll(file.fd(), partial, std::exchange(some, {}));
  };
  for (const AnswerLogEntry& entry : entries) {
    some += EncodeEntry(entry);
    if (some.size() >= kWriteBytes) RETURN_IF_ERROR(write_some());
  }
  RETURN_IF_ERROR(write_some());
  if (rename(partial.c_str(), path_.c_str()) != 0) return SystemError("rename", partial, errno);
  file_ = std::move(file);
  written_ = bytes;
  rewrite_at_ = std::max(kRewriteBytesMin, 2 * written_);
  return absl::OkStatus();
}

void AnswerLog::run() {
  NameThread("shoal-answers");
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || !pending_.empty(); });
    // What comes within the pause goes out with it: a write for many tokens.
    if (!stopping_) changed_.wait_for(lock, kWritePause, [this] { return stopping_; });
    const std::string bytes = std::exchange(pending_, {});
    const bool last = stopping_;
    lock.unlock();
    const absl::Status written = write_out(bytes);
    lock.lock();
    if (!written.ok()) give_up(written);
    if (last && pending_.empty()) return;
  }
}

// The caller's memory is left alone, and no lock is held: streams go on while a file of any length is written anew.
absl::Status AnswerLog::write_out(std::string_view bytes) {
  if (bytes.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(WriteAll(file_.fd(), path_, bytes));
  written_ += Size(bytes);
  if (written_ <= rewrite_at_) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ReadAnswerLog now, read());
  return rewrite(now.entries);
}

void AnswerLog::give_up(const absl::Status& why) {
  LogWarning("{}; answers are kept in memory only from now on", Message(why));
  failed_ = true;
  pending_.clear();
}

}  // namespace shoal
