// Files, sockets, programs and memory, where systems differ in how they are asked: system_calls_linux.cpp, system_calls_macos.cpp.
#pragma once

#include <spawn.h>
#include <sys/stat.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/file_handle.h"
#include "base/range.h"

namespace shoal {

/// When the content of a file was changed last, in nanoseconds since 1970.
int64_t ModifiedNs(const struct stat& info);
/// As ModifiedNs(), of its content or of what the system keeps about it.
int64_t ChangedNs(const struct stat& info);

/// Makes an empty file `bytes` long and takes room for them, so that a disk that is too full says so now. Returns 0, or
/// an errno. File systems that cannot tell leave the file as it is, and give 0.
int TakeRoom(const FileHandle& file, int64_t bytes);

/// Advice: these bytes will be read soon.
void WillRead(const FileHandle& file, Range bytes);

/// Advice: the disk may begin to write these bytes now.
void BeginToWrite(const FileHandle& file, Range bytes);

/// Returns when the content of the file is on its disk. 0, or an errno.
int WriteToDisk(const FileHandle& file);

/// Opens a file such that reading it asks the disk, where the file system can: by whole pages, into memory that begins
/// at one. fd() is -1 where it can't, with the reason in errno.
FileHandle OpenPastCache(const std::string& path);
/// Advice: what the system keeps of this file in memory will not be needed.
void DropFromCache(const FileHandle& file);

/// As socket(), but connect() and the rest do not wait, and programs that are started do not get it. fd() is -1 where
/// there is none, with the reason in errno.
FileHandle OpenSocket(int family, int type, int protocol);
/// Two ends of a stream within this machine; programs that are started get neither. 0, or an errno.
int OpenSocketPair(std::array<FileHandle, 2>& ends);

/// Has a program that is about to be started get no files but those that `actions` already give it, 0 to 2. Returns what
/// is to be among the flags of its attributes, too.
int GiveNoOtherFiles(posix_spawn_file_actions_t& actions);

/// Advice: whole pages of this memory, fresh from the system, may be huge ones.
void AdviseHugePages(std::span<std::byte> memory);
/// Gives whole pages back to the system: they are zero from now on, and are backed when they are written again. False
/// if the system does not do that: then they are as before.
bool GiveBackPages(std::span<std::byte> pages);

}  // namespace shoal
