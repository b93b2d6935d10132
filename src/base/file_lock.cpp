#include "base/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>

namespace shoal {

absl::StatusOr<FileLock> TryLockFile(const std::string& path) {
  FileLock lock{.file = FileHandle(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600))};
  if (lock.file.fd() < 0) return SystemError("open", path, errno);
  int result = 0;
  do {
    result = flock(lock.file.fd(), LOCK_EX | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  if (result != 0 && errno != EWOULDBLOCK) return SystemError("lock", path, errno);
  lock.held = result == 0;
  return lock;
}

}  // namespace shoal
