// What Gemma 3 and Gemma 4 share.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "formats/config.h"
#include "models/families/common/family_parts.h"
#include "models/family.h"
#include "models/spec.h"

namespace shoal {

/// sqrt(hidden_size) on embeddings, and four norms a layer: of what goes into attention and feed-forward and
/// of what comes out of them. norm_offset: 1 where norms are stored as w of 1 + w, heads' included.
void MakeGemma(const DecoderSizes& sizes, float norm_offset, ModelSpec& spec);

/// final_logit_softcapping; 0 where absent.
absl::StatusOr<float> ReadFinalLogitSoftcap(const ModelConfig& config);

/// The text model of a checkpoint that has towers for images or sound beside it: its config is `text_config`,
/// in which the hub leaves out what equals the reference's `defaults`; its tensors lie where
/// PlaceBelowLanguageModel puts them, and those of the towers are ignored.
absl::StatusOr<ModelSpec> TextModelOf(const ModelConfig& config, const Family& text,
                                      std::string_view defaults);

}  // namespace shoal
