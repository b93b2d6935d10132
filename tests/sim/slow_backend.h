// A FakeBackend whose layers take time, and more of it on a slow machine.
#pragma once

#include <cstdint>
#include <memory>

#include "base/clock.h"
#include "compute/backend.h"

namespace shoal::sim {

/// How quickly a machine computes; shared by its processes.
struct MachinePace {
  Duration layer = std::chrono::microseconds(200);  ///< What a layer takes.
  Clock::time_point stopped_until{};                ///< It computes nothing before, as a stopped process.
  Clock::time_point crawls_until{};  ///< A layer that begins before takes so long, and gets on.
  mutable uint64_t progress = 0;     ///< As Backend::progress().
};

std::unique_ptr<Backend> MakeSlowBackend(std::shared_ptr<const MachinePace> pace);

}  // namespace shoal::sim
