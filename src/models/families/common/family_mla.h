// Latent attention under the keys and names of DeepSeek's configs and checkpoints.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "formats/config.h"
#include "models/families/common/family_common.h"
#include "models/spec.h"

namespace shoal {

/// How mlx-lm stores the hub's kv_b_proj: as the same tensor, or split by heads into embed_q and unembed_out.
/// Both are read; this decides what a conversion writes.
enum class LatentNames : uint8_t { kFused, kSplit };

/// Latent attention of every layer: under the hub's names (kv_b_proj, whose heads hold their key matrix
/// before their value matrix) or MLX's (embed_q and unembed_out, one matrix per head).
/// `part`: what its tensors' names have behind the layer's.
absl::StatusOr<MakeMixer> ReadLatentAttention(const ModelConfig& config, const DecoderSizes& sizes,
                                              LatentNames names, const std::string& part = ".self_attn");

/// Says which positions a layer's rows attend to. layer: num_hidden_layers for that of multi-token prediction.
using MakePicks = std::function<TopPicks(int64_t layer, const std::string& base)>;

/// A whole decoder as DeepSeek-V3's config describes it, for families that use it under another model_type, or with
/// attention to what `picks` says.
absl::StatusOr<ModelSpec> ReadDeepseekV3(const ModelConfig& config, std::string model_type,
                                         const MakePicks& picks = {});

/// index_topk positions, picked by the indexer that index_n_heads, index_head_dim and q_lora_rank describe. Its tensors lie
/// below `<base>.self_attn.indexer`. InvalidArgument where its heads are narrower than what is rotated.
absl::StatusOr<MakePicks> ReadTopPicks(const ModelConfig& config, RopePairing pairing);

}  // namespace shoal
