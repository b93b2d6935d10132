#include "api/retry/answer_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
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
#include "base/log.h"
#include "base/process.h"
#include "base/status.h"

namespace shoal {
namespace {

constexpr std::string_view kHeader = "shoal answers 1\n";
constexpr std::chrono::milliseconds kWritePause{50};
/// A file is written anew when it has this many bytes, or four times what it had when it was new.
constexpr int64_t kRewriteBytesMin = 16 << 20;
/// Of what waits to be written: beyond, a whole file takes its place, which is no longer than what is on record.
constexpr size_t kPendingBytesMax = 64 << 20;
/// A file that is longer is not one of ours.
constexpr int64_t kFileBytesMax = int64_t{1} << 30;

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
  /// False where the payload is not one of ours.
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
        entries_.erase(key);
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
    One& one = entries_[key];
    if (one.entry.key.content != content) one.entry.choices.clear();
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
    if (choice >= choices.size()) choices.resize(choice + 1);
    std::vector<int32_t>& known = choices[choice];
    if (at > known.size()) return false;
    const size_t count = rest.size() / sizeof(int32_t);
    known.resize(at + count);
    if (count > 0) std::memcpy(known.data() + at, rest.data(), rest.size());
    return true;
  }

  std::map<Digest, One> entries_;
  uint64_t order_ = 0;
};

absl::StatusOr<FileHandle> LockFolder(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return SystemError("make the folder", folder, error.value());
  const std::string path = folder + "/lock";
  FileHandle lock(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (lock.fd() < 0) return SystemError("open", path, errno);
  if (flock(lock.fd(), LOCK_EX | LOCK_NB) != 0) {
    return FailedPrecondition("{}: another server has its answers there; name another folder", folder);
  }
  return lock;
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

std::string EncodeEntries(std::span<const AnswerLogEntry> entries) {
  std::string out(kHeader);
  for (const AnswerLogEntry& entry : entries) {
    out += EncodeBegin(entry.key, entry.asked_s);
    for (size_t i = 0; i < entry.choices.size(); ++i) {
      out += EncodeTokens(entry.key.key, static_cast<int>(i), 0, entry.choices[i]);
    }
  }
  return out;
}

ReadAnswerLog DecodeAnswerLog(std::string_view bytes) {
  if (bytes.empty()) return {};
  if (!bytes.starts_with(kHeader)) return {.entries = {}, .damage = "it is no file of answers"};
  const size_t size = bytes.size();
  bytes.remove_prefix(kHeader.size());
  Replay replay;
  ReadAnswerLog read;
  while (!bytes.empty()) {
    const size_t at = size - bytes.size();
    std::string_view payload;
    if (!TakePayload(bytes, payload) || !replay.apply(payload)) {
      read.damage = fmt::format("from byte {} of {} on it is damaged", at, size);
      break;
    }
  }
  read.entries = std::move(replay).entries();
  return read;
}

absl::StatusOr<std::unique_ptr<AnswerLog>> AnswerLog::Open(const std::string& folder, ReadAnswerLog& read) {
  ASSIGN_OR_RETURN(FileHandle lock, LockFolder(folder));
  std::unique_ptr<AnswerLog> log(new AnswerLog(folder + "/answers.log", std::move(lock)));
  const auto bytes = ReadTextFile(log->path_, kFileBytesMax);
  if (bytes.ok()) {
    read = DecodeAnswerLog(*bytes);
    if (!read.damage.empty()) LogWarning("{}: {}; what comes before is kept", log->path_, read.damage);
  } else if (bytes.status().code() != absl::StatusCode::kNotFound) {
    return bytes.status();
  }
  const std::string whole = EncodeEntries(read.entries);
  RETURN_IF_ERROR(log->rewrite(whole));
  log->written_ = Size(whole);
  log->rewrite_at_ = std::max(kRewriteBytesMin, 4 * log->written_);
  log->thread_ = std::thread(&AnswerLog::run, log.get());
  return log;
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

void AnswerLog::append(std::string bytes, const Snapshot& snapshot) {
  const std::lock_guard lock(mutex_);
  if (failed_) return;
  written_ += Size(bytes);
  pending_ += bytes;
  if (written_ > rewrite_at_ || pending_.size() > kPendingBytesMax) {
    pending_ = EncodeEntries(snapshot());
    anew_ = true;
    written_ = Size(pending_);
    rewrite_at_ = std::max(kRewriteBytesMin, 4 * written_);
  }
  changed_.notify_one();
}

absl::Status AnswerLog::rewrite(std::string_view bytes) {
  const std::string partial = path_ + ".partial";
  FileHandle file(open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600));
  if (file.fd() < 0) return SystemError("open", partial, errno);
  RETURN_IF_ERROR(WriteAll(file.fd(), partial, bytes));
  if (rename(partial.c_str(), path_.c_str()) != 0) return SystemError("rename", partial, errno);
  file_ = std::move(file);
  return absl::OkStatus();
}

void AnswerLog::run() {
  NameThread("shoal-answers");
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || !pending_.empty(); });
    // What comes within the pause goes out with it: a write for many tokens.
    if (!stopping_) changed_.wait_for(lock, kWritePause, [this] { return stopping_; });
    std::string bytes = std::exchange(pending_, {});
    const bool anew = std::exchange(anew_, false);
    const bool last = stopping_;
    lock.unlock();
    if (!bytes.empty()) write_out(std::move(bytes), anew);
    lock.lock();
    if (last && pending_.empty()) return;
  }
}

void AnswerLog::write_out(std::string bytes, bool anew) {
  const absl::Status status = anew ? rewrite(bytes) : WriteAll(file_.fd(), path_, bytes);
  if (!status.ok()) give_up(status);
}

void AnswerLog::give_up(const absl::Status& why) {
  LogWarning("{}; answers are kept in memory only from now on", Message(why));
  const std::lock_guard lock(mutex_);
  failed_ = true;
  pending_.clear();
}

}  // namespace shoal
