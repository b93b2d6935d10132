// Which cores a thread runs on: affinity_linux.cpp, affinity_macos.cpp. Private to cpu/.
#pragma once

namespace shoal {

/// Keeps the calling thread on this CPU. False if the system refuses.
bool StayOnCpu(int cpu);

/// Has the system run the calling thread on P cores where there are some, as far as it lets threads say so.
void PreferFastCores();

}  // namespace shoal
