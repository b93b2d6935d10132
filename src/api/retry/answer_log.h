// The file behind AnswerRecords: changes are appended, and the file is written anew, from itself, where most of it is
// outdated. A thread of its own does both, twenty times a second: what a killed process had not written is computed
// again.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/http/repeat_key.h"
#include "base/file_handle.h"

namespace shoal {

/// All that is on record of one request.
struct AnswerLogEntry {
  RepeatKey key;
  int64_t asked_s = 0;                        ///< When it was asked for last; Unix seconds.
  std::vector<std::vector<int32_t>> choices;  ///< Tokens generated.
  bool operator==(const AnswerLogEntry&) const = default;
};

inline constexpr int kLoggedChoicesMax = 1024;

/// What a file may hold at once: well above what AnswerRecords keeps by default, and well below what memory holds. A
/// file may name the last choice of every entry.
struct AnswerLogLimits {
  size_t entries = 1 << 16;
  size_t choices = 1 << 20;  ///< Of all entries.
  size_t tokens = 64 << 20;
};

/// The bytes that add or change an entry.
std::string EncodeBegin(const RepeatKey& key, int64_t asked_s);
/// The choice's tokens from number `at` on are these, and no others follow.
std::string EncodeTokens(const Digest& key, int choice, int64_t at, std::span<const int32_t> tokens);
std::string EncodeForget(const Digest& key);
std::string EncodeEntries(std::span<const AnswerLogEntry> entries);  ///< A whole file.

struct ReadAnswerLog {
  std::vector<AnswerLogEntry> entries;  ///< In the order of their last begin.
  std::string damage;                   ///< What was wrong from where on; empty: nothing.
};
/// Reads a file as far as it is whole and within the limits. Nothing in it is trusted.
ReadAnswerLog DecodeAnswerLog(std::string_view bytes, const AnswerLogLimits& limits = {});

class AnswerLog {
 public:
  /// Reads `folder`/answers.log into `read`, and writes it anew with what is good of it. Errors as
  /// AnswerRecords::Open.
  static absl::StatusOr<std::unique_ptr<AnswerLog>> Open(const std::string& folder, ReadAnswerLog& read);
  /// Writes what is left.
  ~AnswerLog();

  /// Calls are in the order of the changes. Does no I/O: whoever calls holds a lock.
  void append(std::string bytes);

 private:
  AnswerLog(std::string path, FileHandle lock) : path_(std::move(path)), lock_(std::move(lock)) {}
  /// Reads the file; writes it anew.
  absl::StatusOr<ReadAnswerLog> read() const;
  absl::Status rewrite(std::span<const AnswerLogEntry> entries);
  void run();
  absl::Status write_out(std::string_view bytes);
  /// With mutex_ held.
  void give_up(const absl::Status& why);

  const std::string path_;
  const FileHandle lock_;
  // Of the thread, once it runs.
  FileHandle file_;
  int64_t written_ = 0;     ///< Bytes of the file.
  int64_t rewrite_at_ = 0;  ///< Of written_.
  std::mutex mutex_;        ///< Guards what follows.
  std::condition_variable changed_;
  std::string pending_;
  bool stopping_ = false;
  bool failed_ = false;
  std::thread thread_;
};

}  // namespace shoal
