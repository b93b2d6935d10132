#include "tls/private_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/file.h"
#include "base/status.h"

namespace shoal {

absl::Status WritePrivateFile(const std::string& path, std::string_view text) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR);
  if (fd < 0 && errno == EEXIST)
    return MakeError(absl::StatusCode::kAlreadyExists, "'{}' is there already", path);
  if (fd < 0) return InvalidArgument("'{}' cannot be made: {}", path, std::strerror(errno));
  bool written = true;
  while (written && !text.empty()) {
    const ssize_t bytes = ::write(fd, text.data(), text.size());
    written = bytes > 0;
    if (written) text.remove_prefix(static_cast<size_t>(bytes));
  }
  written = fsync(fd) == 0 && written;
  const int error = errno;
  if (::close(fd) == 0 && written) return absl::OkStatus();
  ::unlink(path.c_str());
  return ResourceExhausted("'{}' cannot be written: {}", path, std::strerror(error));
}

absl::StatusOr<std::string> ReadPrivateFile(const std::string& path, int64_t bytes_max) {
  auto text = ReadTextFile(path, bytes_max);
  RETURN_IF_ERROR(text.status());
  std::error_code unknown;  // Then all permissions are set.
  const auto status = std::filesystem::status(path, unknown);
  using std::filesystem::perms;
  if ((status.permissions() & (perms::group_read | perms::others_read)) != perms::none)
    return InvalidArgument("'{}' can be read by other users: chmod 600 '{}'", path, path);
  return text;
}

}  // namespace shoal
