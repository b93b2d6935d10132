// Which tests run for how many families.
#pragma once

namespace shoal {

/// Whether tests of what layers do also run for families that are like another (Family::like): where the environment
/// has SHOAL_ALL_FAMILIES, as in `./dev check families`.
bool SweepsAllFamilies();

}  // namespace shoal
