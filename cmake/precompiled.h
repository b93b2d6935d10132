// Precompiled for every library but kernels/ (cmake/ShoalPrecompiled.cmake): what most files include anyway. Files still
// include what they use; builds with sanitizers, for fuzzing and for ARM go without this header and refuse those that do not.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
