// Value heads in the order of a GGUF of Qwen3.5: in turns of the key heads that serve them.
#pragma once

#include <cstdint>

namespace shoal {

/// Key head g serves value heads [g * per_group, (g + 1) * per_group) on Hugging Face. The file has them in turns: the
/// first of each key head, then the second of each. Rows, columns or elements of a vector lie so from `begin` on.
/// Source: `_reorder_v_heads` of llama.cpp's converter, pull request 19468.
struct TiledHeads {
  int64_t groups = 0;  ///< Key heads; 0: all are in the hub's order.
  int64_t per_group = 0;
  int64_t size = 0;  ///< Rows, columns or elements of a head.
  int64_t begin = 0;
  bool columns = false;

  bool of_rows() const { return groups > 0 && !columns; }  ///< Or of elements of a vector.
  bool of_columns() const { return groups > 0 && columns; }
  int64_t heads() const { return groups * per_group; }
  int64_t end() const { return begin + heads() * size; }
  /// The head of the file that is `head` of the hub.
  int64_t stored_head(int64_t head) const { return head % per_group * groups + head / per_group; }
  /// How many rows, from the hub's `at` on, the file has one behind the other.
  int64_t run_from(int64_t at) const { return at < begin ? begin - at : size - (at - begin) % size; }
  /// The row, column or element of the file that is `at` of the hub.
  int64_t stored(int64_t at) const {
    if (groups == 0 || at < begin) return at;
    return begin + stored_head((at - begin) / size) * size + (at - begin) % size;
  }
};

/// Copies rows of row_bytes, of which each head has the same share (CHECK), with their columns in the hub's order.
/// order: of columns, from 0 on (CHECK). to: not `from`.
void OrderColumns(const TiledHeads& order, const void* from, int64_t rows, int64_t row_bytes, void* to);

}  // namespace shoal
