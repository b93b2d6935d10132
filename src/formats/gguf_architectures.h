// Translates a GGUF architecture to the names and config keys of a Hugging Face folder. Internal to formats/:
// others include gguf_model.h.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "formats/gguf_model.h"
#include "formats/gguf_reader.h"

namespace shoal {

/// One pair of tensor names, without their layer: "attn_q" of a GGUF is "self_attn.q_proj" of Hugging Face.
struct GgufStem {
  enum class Kind : uint8_t {
    kPlain,      ///< ".weight" and ".bias" stay.
    kWholeName,  ///< `hub` is the whole name: Hugging Face has no suffix, or another; `gguf` may have none, too.
    kEach,       ///< One tensor per expert, "ffn_gate.7"; the '*' of `hub` is the expert.
  };
  /// What the tensor is on the hub.
  enum class Shape : uint8_t {
    kSame,
    kRow,      ///< A matrix of one row; a vector here.
    kTaps,     ///< [channels, 1, taps]; [channels, taps] here, or with more dimensions of 1.
    kMlxTaps,  ///< The same as MLX has it, [channels, taps, 1].
    kVector,   ///< A vector; a matrix here.
  };
  /// What of the tensor lies in the order of GgufDraft::value_heads.
  enum class Tiled : uint8_t {
    kNothing,
    kRows,      ///< value_dim rows of each value head.
    kLastRows,  ///< The same behind the rows of queries and keys; of taps the channels.
    kSingle,    ///< One row, or element, of each value head.
    kColumns,   ///< value_dim columns of each value head.
  };
  std::string_view gguf;
  std::string_view hub;
  Kind kind = Kind::kPlain;
  Shape shape = Shape::kSame;
  Tiled tiled = Tiled::kNothing;
};
using StemKind = GgufStem::Kind;
using StemShape = GgufStem::Shape;
using StemTiled = GgufStem::Tiled;

/// Value heads that lie in turns of their key heads (TiledHeads).
struct GgufValueHeads {
  int64_t groups = 0;  ///< Key heads; 0: no tensor is tiled.
  int64_t per_group = 0;
  int64_t value_dim = 0;
  int64_t before = 0;  ///< Rows of all queries and keys.
};

/// A model while it is read: each architecture adds its keys to `config` and its stems.
struct GgufDraft {
  GgufKeys keys;
  const GgufSource& source;
  nlohmann::json& config;
  std::vector<GgufStem> stems;                      ///< Of tensors of layers, "blk.<i>."
  std::vector<GgufStem> outside;                    ///< Of the others; the first that fits counts.
  std::string_view layer_prefix = "model.layers.";  ///< Of the hub's names of tensors of layers.
  /// model_type of the config around the text model's, as whose part it is then named and configured.
  std::string_view wrapper;
  std::vector<GgufNumber> numbers;  ///< Weights that are numbers of the metadata.
  int64_t permuted_q = 0;           ///< Heads; 0: none.
  int64_t permuted_k = 0;
  GgufValueHeads value_heads;
  /// Norms hold 1 + w where the hub has w: their names end in kGgufOnePlus instead of "weight".
  bool norms_plus_one = false;
  /// Keys that would be refused as they change the arithmetic, or differ between layers, if the architecture did not read
  /// them itself.
  std::vector<std::string_view> own_keys;
  bool narrow_values = false;  ///< Values may be narrower than keys: v_head_dim.
  /// Pairs of dimensions that rope_freqs is of, where it has more, which are 1 then; 0: all.
  int64_t scaled_pairs = 0;
  /// rope_freqs stops pairs of dimensions (by 1e30) instead of stretching them: rotating_pairs says how many are left.
  bool stops_pairs = false;
  int64_t rotating_pairs = 0;
  int64_t layers = 0;
  /// Blocks of the file, layers or more: those behind the layers predict further tokens and are not used.
  int64_t blocks = 0;

  const GgufTensor* tensor(std::string_view name) const;
  bool has(std::string_view name) const { return tensor(name) != nullptr; }
  /// Whether each layer has that tensor: "ffn_gate_inp.weight".
  std::vector<bool> layers_with(std::string_view name) const;
  /// The numbers of a key that has one for all layers, or an array with one for each of them; empty where absent.
  absl::StatusOr<std::vector<int64_t>> per_layer(std::string_view key,
                                                 Bounds<int64_t> bounds = kAnyCount) const;
  /// The one number of such a key; where it is an array, of the layers that have one (0: none, as of the heads of a
  /// recurrent layer). Unimplemented where layers differ, unless the architecture reads them itself (own_keys): then the
  /// largest. 0 where no layer has one, or the key is absent.
  absl::StatusOr<int64_t> of_all_layers(std::string_view key) const;
  void add(std::span<const GgufStem> more) { stems.insert(stems.end(), more.begin(), more.end()); }
  /// The keys that every decoder has, except those of its heads.
  absl::Status add_sizes();
  /// The keys that every decoder of grouped-query attention has.
  absl::Status add_decoder();
  /// The keys and projections of DeepSeek's latent attention.
  absl::Status add_latent_attention();
  /// The same, the usual projections and a dense feed-forward, under that model_type.
  absl::Status add_dense(const char* model_type);
  /// How many experts there are, under that key, and how many a token takes.
  absl::Status add_experts(const char* count_key);
  /// The same as Qwen's configs have it: every layer has experts. The format has no key for norm_topk_prob: `normalized`
  /// is what every released model of the architecture does, and what llama.cpp assumes.
  absl::Status add_qwen_experts(bool normalized);
  /// The same with what DeepSeek's configs have beside it: width, dense layers first, scale and norm of weights, and
  /// n_group and topk_group.
  absl::Status add_routed_experts(const char* count_key);
  /// How many shared experts there are, under that key; none where the file does not say.
  absl::Status add_shared_experts(const char* count_key);
  /// Refuses experts that are scored otherwise than by sigmoids.
  absl::Status require_sigmoid_scores() const;
  /// sliding_window and layer_types. Where the file does not say which layers have the window, all but every
  /// `usual`-th have it. Returns which.
  absl::StatusOr<std::vector<bool>> add_windows(int64_t usual);
  /// The rows of q and k are in the order of interleaved rope, those of the folder in halves.
  void permute_heads();
};

struct GgufArchitecture {
  std::string_view name;  ///< general.architecture
  absl::Status (*build)(GgufDraft& draft);
};

// Of gguf_late_architectures.cpp.
absl::Status AddGgufGranite(GgufDraft& draft, const char* model_type);
absl::Status BuildGranite(GgufDraft& draft);
absl::Status BuildErnie45(GgufDraft& draft);
absl::Status BuildHunyuanDense(GgufDraft& draft);
absl::Status BuildHunyuanMoe(GgufDraft& draft);
absl::Status BuildStarcoder2(GgufDraft& draft);
absl::Status BuildCohere2(GgufDraft& draft);
absl::Status BuildExaone4(GgufDraft& draft);
absl::Status BuildStableLm(GgufDraft& draft);
absl::Status BuildApertus(GgufDraft& draft);

// Of gguf_gemma_architectures.cpp.
absl::Status BuildGemma(GgufDraft& draft);
absl::Status BuildGemma2(GgufDraft& draft);
absl::Status BuildGemma3(GgufDraft& draft);
absl::Status BuildGemma3n(GgufDraft& draft);
absl::Status BuildGemma4(GgufDraft& draft);

// Of gguf_expert_architectures.cpp.
absl::Status BuildDeepseek(GgufDraft& draft);
absl::Status BuildOlmoe(GgufDraft& draft);
absl::Status BuildMinimaxM2(GgufDraft& draft);
absl::Status BuildGlm4Moe(GgufDraft& draft);
absl::Status BuildErnie45Moe(GgufDraft& draft);
absl::Status BuildExaoneMoe(GgufDraft& draft);
absl::Status BuildAfmoe(GgufDraft& draft);
absl::Status BuildPhimoe(GgufDraft& draft);
absl::Status BuildMistral4(GgufDraft& draft);
absl::Status BuildMimo2(GgufDraft& draft);
absl::Status BuildStep35(GgufDraft& draft);
absl::Status BuildLlama4(GgufDraft& draft);

// Of gguf_state_architectures.cpp.
absl::Status BuildLfm2(GgufDraft& draft);
absl::Status BuildLfm2Moe(GgufDraft& draft);
absl::Status BuildMamba2(GgufDraft& draft);
absl::Status BuildNemotronH(GgufDraft& draft);
absl::Status BuildGraniteHybrid(GgufDraft& draft);
absl::Status BuildJamba(GgufDraft& draft);
absl::Status BuildFalconH1(GgufDraft& draft);

// Of gguf_delta_architectures.cpp.
absl::Status BuildQwen35(GgufDraft& draft);
absl::Status BuildQwen35Moe(GgufDraft& draft);
absl::Status BuildQwen3Next(GgufDraft& draft);
absl::Status BuildKimiLinear(GgufDraft& draft);

// Of gguf_architectures.cpp.
absl::Status BuildDeepseek2(GgufDraft& draft);

/// Stems that several files use.
extern const std::span<const GgufStem>
    kGgufNorms;  ///< Of what attention and feed-forward read; first of all stems.
extern const std::span<const GgufStem> kGgufProjections;  ///< q, k, v and o under the usual names.
extern const std::span<const GgufStem> kGgufHeadNorms;    ///< q_norm and k_norm.
extern const std::span<const GgufStem> kGgufDense;        ///< The gated MLP below `mlp`.
extern const std::span<const GgufStem> kGgufOutputNorms;  ///< Of what attention and feed-forward add.
extern const std::span<const GgufStem>
    kGgufStacks;  ///< Experts and their router below `mlp`, stacks in mlx-lm's place.
extern const std::span<const GgufStem> kGgufMixtralStacks;  ///< The same below `block_sparse_moe`.
extern const std::span<const GgufStem> kGgufSharedExpert;   ///< mlp.shared_experts.
extern const std::span<const GgufStem> kGgufQwenShared;     ///< mlp.shared_expert, with its gate.
extern const std::span<const GgufStem> kGgufSelectionBias;  ///< mlp.gate.e_score_correction_bias

/// All that are built.
std::span<const GgufArchitecture> GgufArchitectures();

inline constexpr std::string_view kGgufOnePlus = "one_plus_weight";

/// Tensors that an architecture may have beside its stems: their values go into the config.
inline constexpr std::string_view kGgufRopeFactors = "rope_freqs.weight";
inline constexpr std::string_view kGgufRopeLong = "rope_factors_long.weight";
inline constexpr std::string_view kGgufRopeShort = "rope_factors_short.weight";

/// A share of `whole`, such that the integer part of share * whole is `part`.
double GgufShareOf(int64_t part, int64_t whole);
/// rope_theta, rope_scaling and, where not all of `head_dim` dimensions are rotated, partial_rotary_factor.
absl::Status AddGgufRope(GgufDraft& draft, int64_t head_dim);

}  // namespace shoal
