#include "kv/disk_store.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/file_lock.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

constexpr std::string_view kSuffix = ".kv";
constexpr std::string_view kPartialSuffix = ".kv.partial";
constexpr mode_t kOwnerOnly = 0600;  // What was said to a model is nobody else's business.
constexpr size_t kDigits = 32;
/// Of one record: what is larger was not written by this.
constexpr int64_t kRecordBytesMax = int64_t{1} << 30;
/// Records that were read and wait to be taken.
constexpr int64_t kStagedBytesMax = int64_t{64} << 20;
constexpr Duration kTakenWithin = std::chrono::seconds(10);

std::string Hex(const BlockKey& key) { return fmt::format("{:016x}{:016x}", key.high, key.low); }

std::optional<BlockKey> FromHex(std::string_view text) {
  if (text.size() != kDigits) return std::nullopt;
  BlockKey key;
  for (auto [part, at] : {std::pair(&key.high, size_t{0}), std::pair(&key.low, kDigits / 2)}) {
    const char* end = text.data() + at + kDigits / 2;
    const auto [stopped, error] = std::from_chars(text.data() + at, end, *part, 16);
    if (error != std::errc() || stopped != end) return std::nullopt;
  }
  return key;
}

/// What is in a folder; nothing where there is none.
std::vector<std::filesystem::directory_entry> EntriesOf(const std::string& folder) {
  std::vector<std::filesystem::directory_entry> entries;
  std::error_code error;
  for (std::filesystem::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    entries.push_back(*at);
  }
  return entries;
}

absl::Status MakeFolder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return SystemError("make", path, error.value());
  return absl::OkStatus();
}

}  // namespace

// Nobody is woken: a session looks here many times a second, and a report for each record would be many reports.
void DiskMailbox::tell(const RecordChange& change) {
  const std::lock_guard lock(mutex_);
  if (closed_) return;
  news_.changes.push_back(change);
  has_news_ = true;
}

void DiskMailbox::end(uint64_t order) {
  const std::lock_guard lock(mutex_);
  if (closed_) return;
  news_.ended.push_back(order);
  has_news_ = true;
  wake_();
}

bool DiskMailbox::give(Loaded loaded) {
  std::unique_lock lock(mutex_);
  const bool room =
      taken_.wait_for(lock, kTakenWithin, [&] { return closed_ || staged_bytes_ < kStagedBytesMax; });
  if (!room || closed_) return false;
  staged_bytes_ += std::ssize(loaded.record);
  news_.loaded.push_back(std::move(loaded));
  has_news_ = true;
  wake_();
  return true;
}

DiskMailbox::News DiskMailbox::take() {
  const std::lock_guard lock(mutex_);
  has_news_ = false;
  staged_bytes_ = 0;
  taken_.notify_all();
  return std::exchange(news_, {});
}

void DiskMailbox::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  has_news_ = false;
  news_ = {};
  taken_.notify_all();
}

DiskStore::DiskStore(Options options) : options_(std::move(options)) {}

absl::StatusOr<std::shared_ptr<DiskStore>> DiskStore::Open(Options options) {
  std::shared_ptr<DiskStore> store(new DiskStore(std::move(options)));
  RETURN_IF_ERROR(store->take_folder());
  store->scan();
  store->make_room(0);
  LogInfo("kv disk: {} holds {} records, {} of at most {}", store->folder(), store->index_.size(),
          FormatBytes(store->bytes_), FormatBytes(store->options_.bytes_max));
  store->thread_ = std::thread([raw = store.get()] { raw->run(); });
  return store;
}

DiskStore::~DiskStore() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    stop_by_ = Clock::now() + options_.drain_max;
    loads_.clear();
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

absl::Status DiskStore::take_folder() {
  RETURN_IF_ERROR(MakeFolder(options_.folder));
  const std::string path = options_.folder + "/lock";
  ASSIGN_OR_RETURN(FileLock lock, TryLockFile(path));
  lock_ = std::move(lock.file);
  if (!lock.held) {
    char holder[32] = {};
    (void)!pread(lock_.fd(), holder, sizeof(holder) - 1, 0);
    return FailedPrecondition(
        "{} is in use by another process ({}): give each process a folder of its own, with --kv-disk-dir",
        options_.folder, holder);
  }
  const std::string name = fmt::format("{}", getpid());
  if (ftruncate(lock_.fd(), 0) != 0 || pwrite(lock_.fd(), name.data(), name.size(), 0) < 0) {
    return SystemError("write", path, errno);
  }
  return absl::OkStatus();
}

// The lock is held: what was half written has no writer any more.
void DiskStore::scan() {
  struct Found {
    RecordName name;
    int64_t bytes = 0;
    std::filesystem::file_time_type used;
  };
  std::vector<Found> found;
  for (const auto& folder : EntriesOf(options_.folder)) {
    const std::optional<BlockKey> share = FromHex(folder.path().filename().string());
    if (!share.has_value()) continue;
    for (const auto& file : EntriesOf(folder.path().string())) {
      const std::string name = file.path().filename().string();
      std::error_code error;
      if (name.ends_with(kPartialSuffix)) std::filesystem::remove(file.path(), error);
      const std::optional<BlockKey> key = FromHex(name.substr(0, std::min(name.size(), kDigits)));
      if (!key.has_value() || name.substr(kDigits) != kSuffix || !file.is_regular_file(error)) continue;
      const auto bytes = static_cast<int64_t>(file.file_size(error));
      const auto used = file.last_write_time(error);
      if (!error) found.push_back({{*share, *key}, bytes, used});
    }
  }
  std::ranges::sort(found, {}, &Found::used);
  for (const Found& one : found) {
    index_[one.name] = {one.bytes, uses_.insert(uses_.end(), one.name)};
    bytes_ += one.bytes;
  }
}

std::string DiskStore::path_of(const RecordName& name) const {
  return fmt::format("{}/{}/{}{}", options_.folder, Hex(name.share), Hex(name.key), kSuffix);
}

void DiskStore::subscribe(const std::shared_ptr<DiskMailbox>& mailbox) {
  const std::lock_guard lock(mutex_);
  std::erase_if(mailboxes_, [](const auto& other) { return other.expired(); });
  mailboxes_.push_back(mailbox);
}

std::vector<BlockKey> DiskStore::keys(DiskMailbox& mailbox) {
  const std::lock_guard lock(mutex_);
  std::vector<BlockKey> keys;
  for (const RecordName& name : uses_) {
    if (name.share == mailbox.share()) keys.push_back(name.key);
  }
  const std::lock_guard news(mailbox.mutex_);
  mailbox.news_.changes.clear();
  return keys;
}

bool DiskStore::contains(const RecordName& name) const {
  const std::lock_guard lock(mutex_);
  return index_.contains(name) || saving_.contains(name);
}

bool DiskStore::save(const RecordName& name, size_t tokens, std::vector<std::byte> record) {
  const auto bytes = std::ssize(record);
  {
    const std::lock_guard lock(mutex_);
    if (stopping_ || Clock::now() < writes_from_ || bytes > options_.bytes_max || bytes > kRecordBytesMax ||
        queued_bytes_ + bytes > options_.queue_bytes_max || !saving_.insert(name).second) {
      ++totals_.dropped;
      return false;
    }
    queued_bytes_ += bytes;
    saves_.push_back({name, tokens, std::move(record)});
  }
  wake_.notify_all();
  return true;
}

void DiskStore::load(const std::shared_ptr<DiskMailbox>& mailbox, LoadOrder order) {
  {
    const std::lock_guard lock(mutex_);
    loads_.push_back({mailbox, std::move(order)});
  }
  wake_.notify_all();
}

void DiskStore::discard(const RecordName& name, const absl::Status& why) {
  complaints_.warn(fmt::format("kv disk: deleted {}: {}", path_of(name), Message(why)));
  {
    const std::lock_guard lock(mutex_);
    ++totals_.errors;
    remove(name);
    discards_.push_back(name);
  }
  wake_.notify_all();
}

DiskStore::Stats DiskStore::stats() const {
  const std::lock_guard lock(mutex_);
  Stats stats = totals_;
  stats.records = std::ssize(index_);
  stats.bytes = bytes_;
  return stats;
}

void DiskStore::remove(const RecordName& name) {
  const auto found = index_.find(name);
  if (found == index_.end()) return;
  bytes_ -= found->second.bytes;
  uses_.erase(found->second.use);
  index_.erase(found);
  tell(name, false);
}

// With the mutex held.
void DiskStore::tell(const RecordName& name, bool there) {
  for (const std::weak_ptr<DiskMailbox>& one : mailboxes_) {
    const std::shared_ptr<DiskMailbox> mailbox = one.lock();
    if (mailbox != nullptr && mailbox->share() == name.share) mailbox->tell({name.key, there});
  }
}

void DiskStore::run() {
  SetThreadLogName("kv disk", -1);
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [&] { return stopping_ || !loads_.empty() || !saves_.empty() || !discards_.empty(); });
    const std::vector<RecordName> discards = std::exchange(discards_, {});
    std::optional<Load> load;
    std::optional<Save> save;
    if (!loads_.empty()) {  // Somebody waits for it.
      load = std::move(loads_.front());
      loads_.pop_front();
    } else if (!saves_.empty() && !(stopping_ && Clock::now() >= stop_by_)) {
      save = std::move(saves_.front());
      saves_.pop_front();
    } else if (stopping_) {
      return;
    }
    lock.unlock();
    for (const RecordName& name : discards) unlink(path_of(name).c_str());
    if (load.has_value()) {
      const std::shared_ptr<DiskMailbox> mailbox = load->mailbox.lock();
      if (mailbox != nullptr) run_load(mailbox, load->order);
    }
    if (save.has_value()) run_save(*std::move(save));
    lock.lock();
  }
}

void DiskStore::make_room(int64_t bytes) {
  std::vector<RecordName> victims;
  {
    const std::lock_guard lock(mutex_);
    while (bytes_ + bytes > options_.bytes_max && !uses_.empty()) {
      victims.push_back(uses_.front());
      remove(victims.back());
    }
  }
  for (const RecordName& name : victims) unlink(path_of(name).c_str());
}

void DiskStore::run_save(Save save) {
  SealRecord(save.name, save.tokens, save.record);
  const auto bytes = std::ssize(save.record);
  make_room(bytes);
  const absl::Status written = write(save);
  const std::lock_guard lock(mutex_);
  saving_.erase(save.name);
  queued_bytes_ -= bytes;
  if (!written.ok()) return note_failed_write(written);
  remove(save.name);
  index_[save.name] = {bytes, uses_.insert(uses_.end(), save.name)};
  bytes_ += bytes;
  ++totals_.saved;
  tell(save.name, true);
}

// With the mutex held. What waits would fail in the same way.
void DiskStore::note_failed_write(const absl::Status& why) {
  ++totals_.errors;
  totals_.dropped += 1 + std::ssize(saves_);
  saves_.clear();
  saving_.clear();
  queued_bytes_ = 0;
  writes_from_ = Clock::now() + options_.full_disk_pause;
  complaints_.warn(
      fmt::format("kv disk: {}; nothing is written for {} s. Make room there, or lower --kv-disk",
                  Message(why), options_.full_disk_pause / std::chrono::seconds(1)));
}

absl::Status DiskStore::write(const Save& save) const {
  const std::string path = path_of(save.name);
  const std::string partial = path + ".partial";
  RETURN_IF_ERROR(MakeFolder(std::filesystem::path(path).parent_path().string()));
  const FileHandle file(
      open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, kOwnerOnly));
  if (file.fd() < 0) return SystemError("make", partial, errno);
  std::span<const std::byte> left = save.record;
  while (!left.empty()) {
    const ssize_t put = ::write(file.fd(), left.data(), left.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) {
      const int error = errno;
      unlink(partial.c_str());
      return SystemError("write", partial, error);
    }
    left = left.subspan(static_cast<size_t>(put));
  }
  // Not made durable: a record that a loss of power leaves half written fails its checksum.
  if (rename(partial.c_str(), path.c_str()) != 0) return SystemError("rename", partial, errno);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::byte>> DiskStore::read(const RecordName& name, int64_t bytes) const {
  const std::string path = path_of(name);
  const FileHandle file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (file.fd() < 0) return SystemError("open", path, errno);
  std::vector<std::byte> record(static_cast<size_t>(std::min(bytes, kRecordBytesMax)));
  std::span<std::byte> left = record;
  while (!left.empty()) {
    const ssize_t got = ::read(file.fd(), left.data(), left.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemError("read", path, errno);
    if (got == 0) return DataLoss("{} is cut short", path);
    left = left.subspan(static_cast<size_t>(got));
  }
  // Only for the order of deletion after the next start.
  const timespec times[2] = {{0, UTIME_NOW}, {0, UTIME_NOW}};
  (void)futimens(file.fd(), times);
  return record;
}

absl::StatusOr<DiskMailbox::Loaded> DiskStore::load_one(const BlockKey& share, const LoadOrder& order,
                                                        size_t index) {
  const LoadOrder::One& one = order.records[index];
  const RecordName name{share, one.key};
  int64_t bytes = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto found = index_.find(name);
    if (found == index_.end()) return OutOfRange("not on disk");
    bytes = found->second.bytes;
    uses_.splice(uses_.end(), uses_, found->second.use);
  }
  DiskMailbox::Loaded loaded{.order = order.id, .index = index};
  ASSIGN_OR_RETURN(loaded.record, read(name, bytes));
  ASSIGN_OR_RETURN(const RecordView view, ParseRecord(loaded.record));
  RETURN_IF_ERROR(CheckRecord(view, name, std::span(order.tokens).first(one.tokens)));
  loaded.images_begin = static_cast<size_t>(view.images.data() - loaded.record.data());
  return loaded;
}

void DiskStore::run_load(const std::shared_ptr<DiskMailbox>& mailbox, const LoadOrder& order) {
  for (size_t i = 0; i < order.records.size(); ++i) {
    SHOAL_CHECK_LE(order.records[i].tokens, order.tokens.size());  // Of its maker, from checked numbers.
    absl::StatusOr<DiskMailbox::Loaded> loaded = load_one(mailbox->share(), order, i);
    if (!loaded.ok()) {
      if (loaded.status().code() != absl::StatusCode::kOutOfRange) {
        discard({mailbox->share(), order.records[i].key}, loaded.status());
      }
      break;
    }
    if (!mailbox->give(*std::move(loaded))) break;
    const std::lock_guard lock(mutex_);
    ++totals_.loaded;
  }
  mailbox->end(order.id);
}

}  // namespace shoal
