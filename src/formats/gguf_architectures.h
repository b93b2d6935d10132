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
    kWholeName,  ///< `hub` is the whole name: Hugging Face has no suffix, or another.
    kRow,        ///< As kPlain; a vector here, a matrix of one row there.
    kEach,       ///< One tensor per expert, "ffn_gate.7"; the '*' of `hub` is the expert.
  };
  std::string_view gguf;
  std::string_view hub;
  Kind kind = Kind::kPlain;
};

/// A model while it is read: each architecture adds its keys to `config` and its stems.
struct GgufDraft {
  GgufKeys keys;
  const GgufSource& source;
  nlohmann::json& config;
  std::vector<GgufStem> stems;
  int64_t permuted_q = 0;  ///< Heads; 0: none.
  int64_t permuted_k = 0;
  /// Norms hold 1 + w where the hub has w: their names end in kGgufOnePlus instead of "weight".
  bool norms_plus_one = false;
  /// Keys that would be refused as they change the arithmetic, if the architecture did not read them itself.
  std::vector<std::string_view> own_keys;
  int64_t layers = 0;
  /// Blocks of the file, layers or more: those behind the layers predict further tokens and are not used.
  int64_t blocks = 0;

  const GgufTensor* tensor(std::string_view name) const;
  bool has(std::string_view name) const { return tensor(name) != nullptr; }
  void add(std::span<const GgufStem> more) { stems.insert(stems.end(), more.begin(), more.end()); }
  /// The keys that every decoder of grouped-query attention has.
  absl::Status add_decoder();
  /// The same, the usual projections and a dense feed-forward, under that model_type.
  absl::Status add_dense(const char* model_type);
  /// How many experts there are, under that key, and how many a token takes.
  absl::Status add_experts(const char* count_key);
  /// The rows of q and k are in the order of interleaved rope, those of the folder in halves.
  void permute_heads();
};

struct GgufArchitecture {
  std::string_view name;  ///< general.architecture
  absl::Status (*build)(GgufDraft& draft);
};

// Of gguf_late_architectures.cpp.
absl::Status BuildGranite(GgufDraft& draft);
absl::Status BuildErnie45(GgufDraft& draft);
absl::Status BuildHunyuanDense(GgufDraft& draft);
absl::Status BuildHunyuanMoe(GgufDraft& draft);
absl::Status BuildStarcoder2(GgufDraft& draft);
absl::Status BuildCohere2(GgufDraft& draft);

/// All that are built.
std::span<const GgufArchitecture> GgufArchitectures();

inline constexpr std::string_view kGgufOnePlus = "one_plus_weight";

/// Tensors that an architecture may have beside its stems: their values go into the config.
inline constexpr std::string_view kGgufRopeFactors = "rope_freqs.weight";
inline constexpr std::string_view kGgufRopeLong = "rope_factors_long.weight";
inline constexpr std::string_view kGgufRopeShort = "rope_factors_short.weight";

/// rope_theta, rope_scaling and, where not all of `head_dim` dimensions are rotated, partial_rotary_factor.
absl::Status AddGgufRope(GgufDraft& draft, int64_t head_dim);

}  // namespace shoal
