// A family turns a config into a ModelSpec. It is one file in families/ and one test; the build lists the
// folder and generates the table, so that nothing else names a family.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "formats/config.h"
#include "models/spec.h"

namespace shoal {

struct Family {
  std::string_view model_type;  ///< As in config.json; also the name of its file and of its symbol.

  /// The model that a config describes. A missing structural key is an error, never a default; a value that
  /// the family does not build is an error that names key, value and what is known.
  absl::StatusOr<ModelSpec> (*spec)(const ModelConfig& config);

  /// config.json of a small model for tests: 7 layers (8 where they come in pairs), at least 5 groups of 64 along every K, N and
  /// vocabulary not multiples of 16, 13 experts where it has experts.
  std::string (*tiny)();

  /// Another family whose layers this one has under other names and keys, or in a model with towers. Tests of what layers
  /// do (placements, caches, tiers) run that one, and this one in `./dev check families`. Empty: none.
  std::string_view like = {};
};

/// All families, by model_type.
std::span<const Family* const> Families();

/// The family of a model_type; else Unimplemented, which lists the known ones.
absl::StatusOr<const Family*> FindFamily(std::string_view model_type);

/// FindFamily(config's model_type)->spec(config).
absl::StatusOr<ModelSpec> SpecFor(const ModelConfig& config);

}  // namespace shoal
