// What was generated for requests that their clients may send again (Idempotency-Key). A request that comes again is
// computed again, with the same random numbers, so its answer is the same whether anything was recorded or not; what was
// recorded only makes it quick, as drafts that are verified (GenerationRequest::expected).
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/http/repeat_key.h"
#include "api/retry/answer_log.h"
#include "exec/step.h"

namespace shoal {

/// The seed of a request that says none: the same each time that it is sent.
uint64_t SeedOf(const RepeatKey& key);

/// Safe from any thread.
class AnswerRecords {
 public:
  struct Options {
    std::string folder;  ///< Where they outlive the process; empty: nowhere.
    int64_t records_max = 4096;
    int64_t tokens_max = 16 << 20;  ///< Of all records; the record that was asked for longest ago goes first.
    int64_t age_max_s = 24 * 3600;  ///< A record that nobody asked for so long is forgotten.
  };
  /// Reads what the folder has, and makes it where there is none. What is damaged is left out, with a line in the log.
  /// FailedPrecondition: another process has it. Else as SystemError: it can't be written.
  static absl::StatusOr<std::unique_ptr<AnswerRecords>> Open(Options options);

  /// A request with this key begins. False where a request with the same key and another body is on record.
  bool begin(const RepeatKey& key);
  /// The tokens of a choice that are on record; none where the key is not.
  std::vector<int32_t> tokens(const RepeatKey& key, int choice) const;
  /// Tokens of a choice were generated, the first of them the choice's token number `at`. What is on record already
  /// stays; where they differ from it, they take its place.
  void note(const RepeatKey& key, int choice, int64_t at, std::span<const SampledToken> tokens);

  int64_t records() const;

 private:
  using Age = std::list<Digest>;  // The latest first.
  struct Record {
    AnswerLogEntry entry;
    Age::iterator age;
  };

  explicit AnswerRecords(Options options) : options_(std::move(options)) {}
  void add(AnswerLogEntry entry);
  void forget(const Digest& key);
  void forget_old(int64_t now_s);

  const Options options_;
  mutable std::mutex mutex_;  ///< Guards what follows.
  std::map<Digest, Record> records_;
  Age ages_;
  int64_t tokens_ = 0;
  std::unique_ptr<AnswerLog> log_;  ///< nullptr: nothing is written.
};

}  // namespace shoal
