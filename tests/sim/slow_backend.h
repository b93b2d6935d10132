// A FakeBackend whose layers take time, and more of it on a slow machine.
#pragma once

#include <memory>

#include "base/clock.h"
#include "compute/backend.h"

namespace shoal::sim {

/// How quickly a machine computes; shared by its processes.
struct MachinePace {
  Duration layer = std::chrono::microseconds(200);  ///< What a layer takes.
  Clock::time_point stopped_until{};                ///< It computes nothing before, as a stopped process.
};

std::unique_ptr<Backend> MakeSlowBackend(std::shared_ptr<const MachinePace> pace);

}  // namespace shoal::sim
