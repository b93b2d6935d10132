// What the models of Qwen3.5 have in common: most layers are gated delta nets, the others attention with an output
// gate. Reference: transformers models/qwen3_5/modeling_qwen3_5.py.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "formats/config.h"
#include "models/families/common/family_common.h"
#include "models/spec.h"

namespace shoal {

/// All but the feed-forwards.
struct Qwen35Layers {
  DecoderSizes sizes;
  MakeMixer mixer;
};
/// Of a text model's config. tied_when_silent: as ReadDecoderSizes takes it.
absl::StatusOr<Qwen35Layers> ReadQwen35(const ModelConfig& text, std::optional<bool> tied_when_silent);

/// Adds ModelSpec::mtp where mtp_num_hidden_layers says that there is one: `mtp.fc`, norms and an attention layer, with a
/// feed-forward as the others have. Its embedding and its head are the model's own; of several layers the first is used.
/// One with an embedding of its own is left out. Before PlaceQwen35().
absl::Status AddQwen35Mtp(const ModelConfig& text, const Qwen35Layers& layers,
                          const MakeFeedForward& feed_forward, ModelSpec& spec);

/// Whether the text model is a part of one that sees images, or alone.
enum class Qwen35Place : uint8_t { kNested, kAlone };

/// Names the weights of a spec that DecoderOf made as checkpoints have them, and says how they are stored there; and
/// which tensors are ignored.
void PlaceQwen35(Qwen35Place place, ModelSpec& spec);

/// A tiny config of a text model; feed_forward_keys: `"a": 1, "b": 2`.
std::string TinyQwen35(std::string_view model_type, std::string_view feed_forward_keys);

}  // namespace shoal
