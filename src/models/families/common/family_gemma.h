// What Gemma 3 and Gemma 4 share.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "formats/config.h"
#include "models/families/common/family_common.h"
#include "models/family.h"
#include "models/spec.h"

namespace shoal {

/// Scales embeddings by sqrt(hidden_size) and adds norms of the outputs of attention and feed-forward, four
/// norms a layer in all. norm_offset: 1 where norms, those of heads included, are stored as w and applied as
/// 1 + w.
void MakeGemma(const DecoderSizes& sizes, float norm_offset, ModelSpec& spec);

/// final_logit_softcapping; 0 where absent.
absl::StatusOr<float> ReadFinalLogitSoftcap(const ModelConfig& config);

/// The text model of a checkpoint that also has towers for images or sound. Its config is `text_config`, in
/// which the hub omits keys that equal the reference's `defaults`; its tensors have the names of
/// PlaceBelowLanguageModel; those of the towers are ignored.
absl::StatusOr<ModelSpec> TextModelOf(const ModelConfig& config, const Family& text,
                                      std::string_view defaults);

}  // namespace shoal
