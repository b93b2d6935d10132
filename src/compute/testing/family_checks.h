// What every family's test asks, in one line each.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/spec.h"

namespace shoal {

/// The family's goldens: with exact activations and an f32 cache, logits within max_abs and mean KL within
/// 1e-8 of the reference, greedy tokens and expert sets equal, long prompts too. Prints how near the default
/// (int8, f16) comes. Skipped where some of the goldens are not there (GoldenCases), after the others.
void ExpectGoldensMatch(const std::string& family, double max_abs = 1e-3);

/// The text model of a family that nests one (its tiny model) as a checkpoint of its own, under the model_type of its
/// text_config and without `language_model` in names: the same logits, to the bit.
void ExpectTheTextModelAloneHasTheSameBits(const std::string& nested);

/// The family's tiny config with `key` replaced by the JSON `value` (removed where `value` is empty) is
/// refused, with a message that contains `message`.
void ExpectConfigRefused(std::string_view family, std::string_view key, std::string_view value,
                         std::string_view message);
/// The same with several keys replaced.
using ConfigEdits = std::vector<std::pair<std::string, std::string>>;
void ExpectConfigRefused(std::string_view family, const ConfigEdits& edits, std::string_view message);

/// The spec of the tiny config with `key` replaced by the JSON `value`; a failure to make it fails the test.
ModelSpec SpecWith(std::string_view family, std::string_view key, std::string_view value);
ModelSpec SpecWith(std::string_view family, const ConfigEdits& edits);

}  // namespace shoal
