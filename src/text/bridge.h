// What the classes of this folder share: handles of the Rust bridge, and its errors as Status. Included by
// .cpp files only, so that nobody else sees the C ABI.
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"
#include "shoal_bridge.h"

namespace shoal::bridge {

/// The caller's text as the bridge takes it.
inline ShoalSlice Slice(std::string_view text) { return {text.data(), text.size()}; }

/// Copies the bytes and frees them.
std::string Take(ShoalBytes bytes);

/// The Status of a call that returned `code`; frees `error`. A template's own refusal is FailedPrecondition,
/// a missing part NotFound, other bad input InvalidArgument.
absl::Status Result(int32_t code, ShoalBytes error);

}  // namespace shoal::bridge
