#include "base/file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/file_handle.h"
#include "base/status.h"
#include "base/text.h"

namespace shoal {

absl::StatusOr<std::string> ReadTextFile(const std::string& path, int64_t bytes_max) {
  constexpr int64_t kChunk = 1 << 20;
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return NotFound("{}: no such file", path);
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::string text;
  while (file && static_cast<int64_t>(text.size()) <= bytes_max) {
    const size_t before = text.size();
    text.resize(before + static_cast<size_t>(std::min(kChunk, bytes_max + 1 - static_cast<int64_t>(before))));
    file.read(text.data() + before, static_cast<std::streamsize>(text.size() - before));
    text.resize(before + static_cast<size_t>(file.gcount()));
  }
  if (!file.is_open() || file.bad()) {
    return InvalidArgument("{}: cannot be read: {}", path, std::strerror(errno));
  }
  if (static_cast<int64_t>(text.size()) > bytes_max) {
    return InvalidArgument("{}: expected at most {}, found more", path, FormatBytes(bytes_max));
  }
  return text;
}

absl::Status WriteTextFile(const std::string& path, std::string_view text) {
  const std::string partial = path + ".partial";
  errno = 0;
  std::ofstream file(partial, std::ios::binary);
  file << text << '\n';
  file.close();
  if (!file) return ResourceExhausted("cannot write {}: {}", path, std::strerror(errno));
  std::error_code error;
  std::filesystem::rename(partial, path, error);
  if (error) return ResourceExhausted("cannot write {}: {}", path, error.message());
  return absl::OkStatus();
}

absl::Status SystemError(std::string_view what, const std::string& path, int error) {
  const std::string text = fmt::format("cannot {} {}: {}", what, path, std::strerror(error));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return NotFound("{}", text);
    case EACCES:
    case EPERM:
    case EROFS:
      return PermissionDenied("{}", text);
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return ResourceExhausted("{}", text);
    default:
      return Unavailable("{}", text);
  }
}

}  // namespace shoal
