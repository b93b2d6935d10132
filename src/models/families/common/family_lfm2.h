// What the models of LFM2 have in common: most layers are gated short convolutions, the others attention. Reference:
// transformers models/lfm2/modeling_lfm2.py.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "formats/config.h"
#include "models/families/common/family_common.h"
#include "models/spec.h"

namespace shoal {

/// All but the feed-forwards.
struct Lfm2Parts {
  DecoderSizes sizes;
  MakeMixer mixer;
};
absl::StatusOr<Lfm2Parts> ReadLfm2(const ModelConfig& config);

/// w1 (gate), w3 (up) and w2 (down) below `base`; also under the names that mlx-lm gives them in models with experts.
DenseSpec Lfm2Mlp(const std::string& base, int64_t width, int64_t ffn);

/// The model with these feed-forwards, its norms under LFM2's names.
ModelSpec MakeLfm2(std::string model_type, const Lfm2Parts& parts, const MakeFeedForward& feed_forward);

/// A tiny config; keys: `"a": 1, "b": 2`.
std::string TinyLfm2(std::string_view model_type, std::string_view keys);

}  // namespace shoal
