// base/system_calls.h on macOS.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "base/system_calls.h"

namespace shoal {
namespace {

int64_t NsOf(const timespec& at) { return int64_t{at.tv_sec} * 1'000'000'000 + int64_t{at.tv_nsec}; }

// Not at once with the descriptor, as on Linux: a program that another thread starts in between gets it, too.
void CloseOnExec(int fd) { (void)fcntl(fd, F_SETFD, FD_CLOEXEC); }

}  // namespace

int64_t ModifiedNs(const struct stat& info) { return NsOf(info.st_mtimespec); }
int64_t ChangedNs(const struct stat& info) { return NsOf(info.st_ctimespec); }

int TakeRoom(const FileHandle& file, int64_t bytes) {
  fstore_t wanted = {};
  wanted.fst_flags = F_ALLOCATEALL;
  wanted.fst_posmode = F_PEOFPOSMODE;
  wanted.fst_length = bytes;
  if (fcntl(file.fd(), F_PREALLOCATE, &wanted) != 0) return errno == ENOTSUP || errno == EINVAL ? 0 : errno;
  return ftruncate(file.fd(), bytes) == 0 ? 0 : errno;
}

void WillRead(const FileHandle& file, Range bytes) {
  radvisory advice = {};
  advice.ra_offset = bytes.begin;
  advice.ra_count = static_cast<int>(std::min<int64_t>(bytes.size(), INT_MAX));
  (void)fcntl(file.fd(), F_RDADVISE, &advice);
}

// There is no such call here.
void BeginToWrite(const FileHandle&, Range) {}

int WriteToDisk(const FileHandle& file) {
  // fsync() leaves bytes in the drive's own cache; not all file systems have the better call.
  if (fcntl(file.fd(), F_FULLFSYNC) == 0 || fsync(file.fd()) == 0) return 0;
  return errno;
}

FileHandle OpenPastCache(const std::string& path) {
  FileHandle file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.fd() >= 0 && fcntl(file.fd(), F_NOCACHE, 1) != 0) return FileHandle();
  return file;
}

// There is no such call here.
void DropFromCache(const FileHandle&) {}

FileHandle OpenSocket(int family, int type, int protocol) {
  FileHandle file(socket(family, type, protocol));
  if (file.fd() < 0) return file;
  CloseOnExec(file.fd());
  if (fcntl(file.fd(), F_SETFL, O_NONBLOCK) != 0) return FileHandle();
  return file;
}

int OpenSocketPair(std::array<FileHandle, 2>& ends) {
  int pair[2] = {-1, -1};
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return errno;
  for (const int fd : pair) CloseOnExec(fd);
  ends = {FileHandle(pair[0]), FileHandle(pair[1])};
  return 0;
}

int GiveNoOtherFiles(posix_spawn_file_actions_t&) { return POSIX_SPAWN_CLOEXEC_DEFAULT; }

// Pages are of 16 KiB here, and no larger ones are to be had.
void AdviseHugePages(std::span<std::byte>) {}

// The same advice as on Linux lets pages keep what is in them.
bool GiveBackPages(std::span<std::byte>) { return false; }

}  // namespace shoal
