// base/system_calls.h where the kernel is Linux.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "base/system_calls.h"

namespace shoal {
namespace {

int64_t NsOf(const timespec& at) { return int64_t{at.tv_sec} * 1'000'000'000 + int64_t{at.tv_nsec}; }

}  // namespace

int64_t ModifiedNs(const struct stat& info) { return NsOf(info.st_mtim); }
int64_t ChangedNs(const struct stat& info) { return NsOf(info.st_ctim); }

int TakeRoom(const FileHandle& file, int64_t bytes) {
  if (fallocate(file.fd(), 0, 0, bytes) == 0 || errno == EOPNOTSUPP || errno == ENOSYS) return 0;
  return errno;
}

void WillRead(const FileHandle& file, Range bytes) {
  (void)posix_fadvise(file.fd(), bytes.begin, bytes.size(), POSIX_FADV_WILLNEED);
}

void BeginToWrite(const FileHandle& file, Range bytes) {
  (void)sync_file_range(file.fd(), bytes.begin, bytes.size(), SYNC_FILE_RANGE_WRITE);
}

int WriteToDisk(const FileHandle& file) { return fdatasync(file.fd()) == 0 ? 0 : errno; }

FileHandle OpenPastCache(const std::string& path) {
  return FileHandle(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT));
}

void DropFromCache(const FileHandle& file) { (void)posix_fadvise(file.fd(), 0, 0, POSIX_FADV_DONTNEED); }

FileHandle OpenSocket(int family, int type, int protocol) {
  return FileHandle(socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol));
}

int OpenSocketPair(std::array<FileHandle, 2>& ends) {
  int pair[2] = {-1, -1};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return errno;
  ends = {FileHandle(pair[0]), FileHandle(pair[1])};
  return 0;
}

int GiveNoOtherFiles(posix_spawn_file_actions_t& actions) {
  (void)posix_spawn_file_actions_addclosefrom_np(&actions, 3);
  return 0;
}

void AdviseHugePages(std::span<std::byte> memory) {
  (void)madvise(memory.data(), memory.size(), MADV_HUGEPAGE);
}

bool GiveBackPages(std::span<std::byte> pages) {
  return madvise(pages.data(), pages.size(), MADV_DONTNEED) == 0;
}

}  // namespace shoal
