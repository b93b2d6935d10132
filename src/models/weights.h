// Where a weight of a model may be in a checkpoint, and the parts that weights form: linears and norms.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/range.h"

namespace shoal {

/// One place where a weight may be: the tensor `<base>.<suffix>`, or a part of it. It is quantized where
/// `<base>.scales` exists beside `<base>.weight`.
struct WeightSource {
  std::string base;               ///< "model.layers.3.self_attn.q_proj"
  std::string suffix = "weight";  ///< "weight" or "bias"
  /// Stacked tensors [stack, N, K]: which of the `stack` matrices. Not stacked: stack = 0.
  int64_t stack = 0;
  int64_t index = 0;
  /// Rows of the stored matrix [stored_rows, K] that are the weight (fused projections). Empty: all of them.
  Range rows;
  int64_t stored_rows = 0;
  /// Of `rows`, the first row_run, and as many from each row_interval-th row on (matrices that take turns).
  int64_t row_interval = 1;
  int64_t row_run = 1;
  /// A strided view of a stored tensor of another shape (transposed, every other row): element (n, k) of the
  /// weight is value offset + n * row_stride + k * col_stride of the stored matrix, or of matrix `index` of a
  /// stack. Of plain tensors; of blocks only where it is transposed.
  struct StridedView {
    std::vector<int64_t> stored_shape;  ///< Of the whole tensor.
    int64_t offset = 0;
    int64_t row_stride = 0;
    int64_t col_stride = 0;
  };
  std::optional<StridedView> strided;
  bool written = true;  ///< Whether a conversion may write the weight here, as mlx-lm reads this name.
  float offset =
      0;  ///< Of vectors: added to the stored values. 1 for norms that are stored as w and applied as 1 + w.
  bool ids = false;  ///< Of vectors: whole numbers below 2^24, stored as floats, i32 or i64.
  bool mlx = false;  ///< This is where mlx-lm's folders have it, although it is no stack.
  /// A tensor that only mlx-lm's folders have, in a place that means something else on the hub (the same name, another
  /// shape or offset): the place counts where that tensor is, and then before others. A conversion writes the weight
  /// here.
  std::string only_with;

  /// base empty: the suffix alone.
  std::string name() const { return base.empty() ? suffix : base + "." + suffix; }
};

/// A weight of the model: its logical shape ([N, K], or [N] for norms and biases) and its possible places,
/// tried in order.
struct WeightRef {
  std::vector<int64_t> shape;
  std::vector<WeightSource> sources;

  int64_t elements() const {
    int64_t product = 1;
    for (const int64_t n : shape) product *= n;
    return product;
  }
};

/// y = x W^T + b. `bias` absent: none, and a checkpoint that has `<base>.bias` nevertheless is refused.
struct LinearSpec {
  WeightRef weight;
  std::optional<WeightRef> bias;
};

/// Root mean square norm: y = x / sqrt(mean(x^2) + eps) * weight. Source: Zhang, Sennrich 2019,
/// arXiv:1910.07467. Or, centered, layer norm: y = (x - mean) / sqrt(mean((x - mean)^2) + eps) * weight + bias.
struct NormSpec {
  WeightRef weight;  ///< Without sources: all are 1.
  float eps = 0;
  float factor = 1;  ///< On the weight.
  bool centered = false;
  std::optional<WeightRef> bias = std::nullopt;  ///< Of a centered norm.
};

/// A weight that ForEachWeight shows.
struct WeightUse {
  int64_t layer = -1;     ///< -1: embedding, final norm, head.
  int64_t expert = -1;    ///< -1: not a routed expert's.
  std::string_view role;  ///< "embedding", "head", "norm", "scale", "attention", "router", "mlp", "expert",
                          ///< "convolution", "decay", "projection", "choice"
  bool is_head = false;   ///< Belongs to the last stage (final norm and head).
  const WeightRef& ref;
  bool is_mtp = false;  ///< Of ModelSpec::mtp, which the last stage may leave out; `layer` is -1.
};

/// Shows the weights of one place of a model to a visitor.
class WeightWalk {
 public:
  using Visit = std::function<void(const WeightUse&)>;
  WeightWalk(const Visit& visit, int64_t layer, bool is_head)
      : visit_(visit), layer_(layer), is_head_(is_head) {}
  /// Of ModelSpec::mtp.
  static WeightWalk OfMtp(const Visit& visit) {
    WeightWalk walk(visit, -1, true);
    walk.is_mtp_ = true;
    return walk;
  }

  void weight(std::string_view role, const WeightRef& ref, int64_t expert = -1) const {
    visit_(WeightUse{layer_, expert, role, is_head_, ref, is_mtp_});
  }
  void linear(std::string_view role, const LinearSpec& linear, int64_t expert = -1) const {
    weight(role, linear.weight, expert);
    if (linear.bias) weight(role, *linear.bias, expert);
  }
  void norm(const NormSpec& norm) const {
    if (!norm.weight.sources.empty()) weight("norm", norm.weight);
    if (norm.bias) weight("norm", *norm.bias);
  }
  void norm(const std::optional<NormSpec>& norm) const {
    if (norm) this->norm(*norm);
  }

 private:
  const Visit& visit_;
  int64_t layer_;
  bool is_head_;
  bool is_mtp_ = false;
};

}  // namespace shoal
