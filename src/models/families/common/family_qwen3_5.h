// What the models of Qwen3-Next and Qwen3.5 have in common: most layers are gated delta nets, the others attention with
// an output gate. Reference: transformers models/qwen3_next/modeling_qwen3_next.py, models/qwen3_5/modeling_qwen3_5.py.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "formats/config.h"
#include "models/families/common/family_common.h"
#include "models/spec.h"

namespace shoal {

/// How a checkpoint states and stores such a model.
enum class Qwen35Place : uint8_t {
  kNested,  ///< As the text model of one that sees images.
  kAlone,   ///< As a text model alone.
  /// As Qwen3-Next: alone, the projections of a gated delta net fused by key heads (in_proj_qkvz, in_proj_ba), rope at the
  /// top level of the config or in rope_parameters.
  kNext,
};

/// All but the feed-forwards.
struct Qwen35Parts {
  ModelConfig text;  ///< Of the text model.
  Qwen35Place place;
  DecoderSizes sizes;
  MakeMixer mixer;
};
absl::StatusOr<Qwen35Parts> ReadQwen35(const ModelConfig& config, Qwen35Place place);

/// Experts in every layer, fused on the hub, and a gated shared one.
absl::StatusOr<MakeFeedForward> ReadQwen35Experts(const Qwen35Parts& parts);

/// The model with these feed-forwards: its weights are named and stored as checkpoints have them, and it says which
/// tensors are ignored. Where mtp_num_hidden_layers says that there is a head for multi-token prediction, that is
/// ModelSpec::mtp: `mtp.fc`, norms and an attention layer, with a feed-forward as the others have. Its embedding and its
/// head are the model's own; of several layers the first is used. One with an embedding of its own is left out.
/// Configs of Qwen3-Next don't say: it has a head unless num_nextn_predict_layers is 0 or the tensors are missing.
absl::StatusOr<ModelSpec> MakeQwen35(std::string model_type, const Qwen35Parts& parts,
                                     const MakeFeedForward& feed_forward);

/// A tiny config of a text model; feed_forward_keys: `"a": 1, "b": 2`.
std::string TinyQwen35(std::string_view model_type, std::string_view feed_forward_keys);

}  // namespace shoal
