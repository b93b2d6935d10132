// What the versions of Gemma share.
#pragma once

#include "absl/status/statusor.h"
#include "formats/config.h"
#include "models/families/common/family_common.h"
#include "models/spec.h"

namespace shoal {

/// How Gemma's norms are stored, and which there are.
struct GemmaNorms {
  float offset = 1;         ///< 1 where norms, those of heads included, are stored as w and applied as 1 + w.
  bool of_outputs = false;  ///< Also of what attention and feed-forward add, four norms a layer in all.
};
/// Scales embeddings by sqrt(hidden_size), gates by gelu, and sets the norms.
void MakeGemma(const DecoderSizes& sizes, const GemmaNorms& norms, ModelSpec& spec);

/// Refuses attention to what comes behind (use_bidirectional_attention), which embedding models have.
absl::Status RefuseBidirectional(const ModelConfig& config);

/// final_logit_softcapping or attn_logit_softcapping; 0 where absent.
absl::StatusOr<float> ReadSoftcap(const ModelConfig& config, const char* key);

}  // namespace shoal
