// The name of a process in its log: which node of a cluster it is.
#pragma once

#include <string>
#include <string_view>

namespace shoal {

/// From now on every line of the process's log begins with its node and rank. Call it before there are other threads.
/// rank < 0: unknown.
void SetProcessLogName(std::string_view node_name, int rank);

/// Whether SetProcessLogName() was called: then everything that the process says belongs into its log.
bool HasProcessLogName();

/// What stands in brackets on a line of the calling thread.
std::string CurrentLogName();

/// What stands in brackets: the process's "node/rank", and behind it the thread's name where that is another one. A
/// thread's name may be "node/rank", too: its rank counts where the process has none. process: empty: it has no name.
std::string LogNameOf(std::string_view process, int rank, std::string_view thread);

}  // namespace shoal
