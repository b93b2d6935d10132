// Handles of the Rust bridge, and its errors as Status, for the classes of this folder. Included by .cpp
// files only, so that no other folder sees the C ABI.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "shoal_bridge.h"

namespace shoal::bridge {

/// A view of `text` for the bridge.
inline ShoalView Slice(std::string_view text) { return {text.data(), text.size()}; }

/// Copies the bytes to a string and frees them.
std::string Take(ShoalBytes bytes);
/// Copies the ids and frees them.
std::vector<int32_t> Take(ShoalIds ids);

/// The Status of a call that returned `code`; frees `error`. FailedPrecondition if a template raised an
/// exception, NotFound if the model has no chat template, InvalidArgument for other bad input.
absl::Status Result(int32_t code, ShoalBytes error);

}  // namespace shoal::bridge
