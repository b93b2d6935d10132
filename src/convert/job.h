// What `shoal convert` writes as one tensor, or as the words, scales and biases of one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/text.h"
#include "convert/shards.h"
#include "formats/mlx_quant.h"
#include "formats/safetensors.h"
#include "loading/stored_weight.h"
#include "numeric/dtype.h"

namespace shoal {

/// A tensor of the new folder: one matrix, a stack of them, or a vector.
struct ConvertJob {
  std::string base;
  std::string suffix;
  std::string role;
  std::vector<StoredWeight> parts;  ///< As many as the stack has; one where there is none.
  std::vector<Nodes> needed;        ///< Of each part: by which shards.
  bool stacked = false;
  bool vector = false;
  std::optional<std::vector<int64_t>> vector_shape;  ///< In which a vector is stored, where that is another.
  float add = 0;        ///< To what is read of a vector, which is stored with another offset.
  bool log = false;     ///< The logarithm of what is read, negated, is written (kMinusExpSuffix).
  bool floats = false;  ///< Stays unquantized: taken apart when it is read, or a router of floats.
  bool codes = false;   ///< Its codes and scales are those of the blocks that it is stored in.
  std::optional<AffineFormat> format;  ///< nullopt: `dtype`.
  DType dtype = DType::kBF16;          ///< Of the elements, or of scales and biases.

  /// base empty: the suffix alone.
  std::string name() const { return base.empty() ? suffix : base + "." + suffix; }
  int64_t rows() const { return parts.front().rows; }
  int64_t cols() const { return parts.front().cols; }
  int64_t rows_total() const { return rows() * std::ssize(parts); }

  std::vector<SafetensorsWriter::Entry> entries() const {
    const auto shape = [this](int64_t last) {
      std::vector<int64_t> result;
      if (stacked) result.push_back(std::ssize(parts));
      if (!vector) result.push_back(rows());
      result.push_back(last);
      return result;
    };
    if (vector_shape) return {{name(), dtype, *vector_shape}};
    if (!format) return {{name(), dtype, shape(cols())}};
    const std::vector<int64_t> groups = shape(cols() / format->group);
    return {{base + ".weight", DType::kU32, shape(cols() * format->bits / 32)},
            {base + ".scales", dtype, groups},
            {base + ".biases", dtype, groups}};
  }
  std::string format_name() const {
    if (!format) return std::string(DTypeName(dtype));
    return fmt::format("{}-bit groups of {}", format->bits, format->group);
  }
};

}  // namespace shoal
