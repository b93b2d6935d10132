// How positions rotate queries and keys.
#pragma once

#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

#include "numeric/operation_kinds.h"

namespace shoal {

/// Frequencies used as they are.
struct RopeUnscaled {};

/// Llama 3's scaling: slow frequencies are divided by `factor`, fast ones stay, with a ramp between them.
/// Source: transformers `_compute_llama3_parameters`.
struct RopeLlama3 {
  double factor = 0;
  double low_freq_factor = 0;
  double high_freq_factor = 0;
  double original_positions = 0;
};

/// All frequencies divided by `factor`.
struct RopeLinear {
  double factor = 0;
};

/// Frequencies that rotate less than beta_slow times over the original context are divided by `factor`, those
/// that rotate more than beta_fast times stay, between them a ramp over the dimensions; `truncate` moves its
/// ends to whole dimensions. Source: Peng et al. 2023, arXiv:2309.00071; transformers
/// `_compute_yarn_parameters`.
struct RopeYarn {
  double factor = 0;
  double original_positions = 0;
  double beta_fast = 0;
  double beta_slow = 0;
  bool truncate = true;
};

/// Of all dims / 2 pairs only the first `rotary_dim` / 2 rotate, by frequencies divided by `factor`. Source:
/// transformers `_compute_proportional_rope_parameters`.
struct RopeProportional {
  int rotary_dim = 0;
  double factor = 1;
};

/// Two sets of frequencies, theta^(-2i / dims) / factor[i]: the short factors in sequences of up to
/// `original_positions`, the long ones in longer sequences, there from the first position on. Source: Ding et
/// al. 2024, arXiv:2402.13753; transformers `_compute_longrope_parameters`, `dynamic_rope_update`.
struct RopeLong {
  int64_t original_positions = 0;
  std::vector<double> short_factors, long_factors;  ///< [dims / 2]
  std::optional<double> long_magnitude;  ///< RopeSpec::magnitude of longer sequences, where it is another.
};

/// Rotary position embedding. Source: Su et al. 2021, arXiv:2104.09864.
struct RopeSpec {
  double theta = 0;
  int dims =
      0;  ///< Dimensions of a head that are rotated, the leading ones where not all are; 0: none ("NoPE").
  RopePairing pairing = RopePairing::kHalfSplit;
  std::variant<RopeUnscaled, RopeLlama3, RopeLinear, RopeYarn, RopeProportional, RopeLong> scaling;
  double magnitude = 1;    ///< What cosines and sines are multiplied by ("attention factor").
  bool backwards = false;  ///< Rotates by the negative angle.
};

}  // namespace shoal
