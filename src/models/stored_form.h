// How files store some vectors that a model has otherwise.
#pragma once

#include <string_view>

namespace shoal {

/// A WeightSource with this suffix is stored as -e^w, as a GGUF has the logarithms of decays
/// (formats/gguf_state_architectures.cpp, WeightLoader::read_exp).
inline constexpr std::string_view kMinusExpSuffix = "minus_exp_A_log";

}  // namespace shoal
