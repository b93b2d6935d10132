#include "launch/log_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/text.h"

namespace shoal {
namespace {

constexpr int64_t kTailBytes = 4 << 20;
constexpr size_t kLineMax = 1 << 20;  ///< A longer one is cut.

FileHandle Open(const std::string& path) { return FileHandle(open(path.c_str(), O_RDONLY | O_CLOEXEC)); }

struct FileState {
  int64_t bytes = 0;
  uint64_t inode = 0;
};

FileState StateOf(const FileHandle& file) {
  struct stat status = {};
  if (file.fd() < 0 || fstat(file.fd(), &status) != 0) return {};
  return {status.st_size, status.st_ino};
}

}  // namespace

int64_t SizeOf(const std::string& path) { return StateOf(Open(path)).bytes; }

LogTail TailOf(const std::string& path, int64_t lines, int64_t from) {
  const FileHandle file = Open(path);
  const int64_t bytes = StateOf(file).bytes;
  const int64_t begin =
      std::clamp<int64_t>(bytes - kTailBytes, std::min(std::max<int64_t>(from, 0), bytes), bytes);
  std::string text(static_cast<size_t>(bytes - begin), '\0');
  size_t have = 0;
  while (have < text.size()) {
    const ssize_t got =
        pread(file.fd(), text.data() + have, text.size() - have, begin + static_cast<int64_t>(have));
    if (got <= 0) break;
    have += static_cast<size_t>(got);
  }
  text.resize(have);
  const size_t complete = text.rfind('\n') + 1;  // 0 where there is none.
  LogTail tail{.lines = {}, .end = begin + static_cast<int64_t>(complete)};
  if (!text.empty() && text.back() == '\n') text.pop_back();
  tail.lines = Split(text, '\n');
  const auto extra = std::max<int64_t>(std::ssize(tail.lines) - lines, 0);
  tail.lines.erase(tail.lines.begin(), tail.lines.begin() + extra);
  return tail;
}

LogFollower::LogFollower(std::string path, std::optional<int64_t> from)
    : path_(std::move(path)), file_(Open(path_)) {
  const FileState state = StateOf(file_);
  at_ = from.value_or(state.bytes);
  inode_ = state.inode;
}

void LogFollower::poll(const std::function<void(std::string_view line)>& take) {
  if (const FileHandle now = Open(path_); now.fd() >= 0) {
    const FileState state = StateOf(now);
    if (file_.fd() < 0 || state.inode != inode_ || state.bytes < at_) {
      file_ = Open(path_);
      inode_ = StateOf(file_).inode;
      at_ = 0;
      rest_.clear();
    }
  }
  std::array<char, 65536> bytes;
  while (file_.fd() >= 0) {
    const ssize_t got = pread(file_.fd(), bytes.data(), bytes.size(), at_);
    if (got <= 0) return;
    at_ += got;
    rest_.append(bytes.data(), static_cast<size_t>(got));
    size_t begin = 0;
    for (size_t end = 0; (end = rest_.find('\n', begin)) != std::string::npos; begin = end + 1) {
      take(std::string_view(rest_).substr(begin, end - begin));
    }
    rest_.erase(0, begin);
    if (rest_.size() > kLineMax) take(std::exchange(rest_, ""));
  }
}

}  // namespace shoal
