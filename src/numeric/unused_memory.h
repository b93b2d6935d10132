// Memory that nobody needs any more, in the middle of what is held.
#pragma once

#include <cstddef>
#include <span>

namespace shoal {

/// Zeroes bytes of private memory. Whole pages among them go back to the system until they are written again.
void ClearUnused(std::span<std::byte> bytes);

}  // namespace shoal
