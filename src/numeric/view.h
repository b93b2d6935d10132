// Non-owning views of matrices: the arguments of kernels and blocks.
#pragma once

#include <cstdint>
#include <type_traits>

#include "base/check.h"

namespace shoal {

/// A view of [rows, cols] row-major elements. Row r starts at data + r * stride; stride >= cols, in elements.
template <class T>
struct MatView {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  MatView() = default;
  /// Contiguous rows.
  MatView(T* data_in, int64_t rows_in, int64_t cols_in)
      : data(data_in), rows(rows_in), cols(cols_in), stride(cols_in) {}
  MatView(T* data_in, int64_t rows_in, int64_t cols_in, int64_t stride_in)
      : data(data_in), rows(rows_in), cols(cols_in), stride(stride_in) {
    SHOAL_CHECK_GE(stride_in, cols_in);
  }
  /// MatView<T> -> MatView<const T>.
  template <class U>
  requires(std::is_same_v<const U, T> && !std::is_same_v<U, T>)
      MatView(const MatView<U>& other)  // NOLINT(google-explicit-constructor): adding const loses nothing.
      : data(other.data), rows(other.rows), cols(other.cols), stride(other.stride) {}

  T* row(int64_t r) const { return data + r * stride; }
  T& at(int64_t r, int64_t c) const { return data[r * stride + c]; }
  bool contiguous() const { return stride == cols || rows <= 1; }

  /// Rows [begin, end).
  MatView rows_between(int64_t begin, int64_t end) const {
    SHOAL_CHECK(begin >= 0 && begin <= end && end <= rows);
    return MatView(data + begin * stride, end - begin, cols, stride);
  }
  /// Columns [begin, end) of every row.
  MatView cols_between(int64_t begin, int64_t end) const {
    SHOAL_CHECK(begin >= 0 && begin <= end && end <= cols);
    return MatView(data + begin, rows, end - begin, stride);
  }
};

}  // namespace shoal
