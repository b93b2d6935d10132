// MLX's affine quantization as a folder's config states it: which tensors, how many bits, which groups.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "formats/checkpoint.h"
#include "formats/config.h"
#include "numeric/affine.h"

namespace shoal {

struct AffineFormat {
  int bits = 0;
  int group = 0;
  bool operator==(const AffineFormat&) const = default;
};

/// "quantization" (or "quantization_config") of a config.json: a default and overrides per tensor.
class Quantization {
 public:
  /// InvalidArgument for unknown modes, bits, groups and keys, with key, value and what is known.
  /// A config without such a key gives a Quantization that is not present().
  static absl::StatusOr<Quantization> FromConfig(const ModelConfig& config);

  bool present() const { return default_.has_value(); }
  /// The format of a tensor by its base name ("model.layers.0.mlp.gate", without ".weight"); nullopt where
  /// the config says that it is not quantized. Whether it is quantized on disk is what the checkpoint shows:
  /// see IsQuantized.
  std::optional<AffineFormat> for_tensor(std::string_view base_name) const;

 private:
  std::optional<AffineFormat> default_;
  std::map<std::string, std::optional<AffineFormat>, std::less<>> overrides_;
};

/// Whether `base_name`.scales is in the checkpoint, which is how MLX folders tell a quantized tensor.
bool IsQuantized(const Checkpoint& checkpoint, std::string_view base_name);

/// A matrix [rows, cols] = [N, K], alone or as one of a stack [experts, N, K].
struct MatrixShape {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t experts = 0;  ///< 0: the tensor has no expert axis.
  int64_t expert = 0;   ///< Which of the stack, in [0, experts).
};

/// The quantized matrix behind `base_name`: `.weight` u32 [N, K * bits / 32], `.scales` and `.biases` float
/// [N, K / group], each with a leading [experts] where the shape has one. Valid while the checkpoint lives;
/// in a shard that lacks them, parts are nullptr. NotFound or InvalidArgument; a shape that fits other bits
/// or another group says so.
absl::StatusOr<AffineView> ViewAffine(const Checkpoint& checkpoint, const Quantization& quantization,
                                      std::string_view base_name, const MatrixShape& shape);

/// Bytes of the parts of one AffineView, for Checkpoint::drop after packing.
struct AffineBytes {
  int64_t words = 0;
  int64_t scales = 0;  ///< And as many of biases.
};
AffineBytes BytesOf(const AffineView& view);

}  // namespace shoal
