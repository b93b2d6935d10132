// Ends a server on Ctrl-C or SIGTERM, in order rather than at once.
#pragma once

#include <functional>

#include "base/clock.h"

namespace shoal {

/// Blocks SIGINT and SIGTERM in this thread and those it starts from now on; call first thing in a server.
void BlockStopSignals();

/// As BlockStopSignals(), of SIGHUP, which otherwise ends the process.
void BlockReloadSignal();

/// Waits for one of them. Returns its number. Calls `reload` for each SIGHUP, where that is blocked.
int WaitForStopSignal(const std::function<void()>& reload = nullptr);

/// Whether another one came before the deadline.
bool StopSignalWithin(Deadline deadline);

/// From now on one ends the process at once.
void UnblockStopSignals();

/// Ends the process after `limit`, with code 0, if it has not ended by then: what is in flight (loading, a page
/// fault over gigabytes) cannot be interrupted and leaves nothing half done behind. Call it when all that must
/// end in order has ended.
void ExitWithin(Duration limit);

}  // namespace shoal
