// The safetensors container: a strict header parser and a streaming writer.
// Format: https://huggingface.co/docs/safetensors (u64 header length, JSON header, tensor bytes without
// gaps).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/range.h"
#include "formats/block_types.h"
#include "formats/tiled_heads.h"
#include "numeric/dtype.h"

namespace shoal {

/// Longest header that is read, as in the reference implementation.
inline constexpr int64_t kSafetensorsHeaderMax = 100'000'000;

/// Where a tensor's bytes are.
struct TensorPlace {
  int file = 0;
  Range bytes;
  DType dtype = DType::kF32;
};

/// The tensors that belong to an encoded one's codes (encoded_tensors.h).
struct EncodingTensors {
  TensorPlace scales;
  std::optional<TensorPlace> zeros;
  std::optional<TensorPlace> order;  ///< The group of each column.
  int64_t group = 0;                 ///< Columns per scale; 0: as the type says.
  int64_t group_rows = 1;            ///< Rows per scale.
  int zero_offset = 0;
  std::string codes_name;  ///< Of the tensor in the file.
};

/// One row of a header.
struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  ///< [] is a scalar.
  Range bytes;                 ///< In the file, from its first byte.
  int file = 0;                ///< Index of the file in its Checkpoint; -1: not in this shard.
  BlockType blocks =
      BlockType::kNone;  ///< How its bytes encode the elements of `shape`; kNone: as `dtype` says.
  std::optional<EncodingTensors> parts;  ///< Where the encoding's scales are apart.
  int64_t permuted_heads = 0;            ///< Of GGUF: see GgufName::permuted_heads.
  TiledHeads tiled;                      ///< The same.
  /// Of a dtype that nothing here computes with, "F4 [8, 8]": then it is the bytes alone, u8 of one dimension.
  std::string unread;
  /// Which matrices of a stack a shard has (shard.h), where not all; `shape` is the whole stack's.
  std::vector<int64_t> held;
};

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  ///< In the order of their bytes; they tile [data_begin, file size).
  std::map<std::string, std::string> metadata;
  int64_t data_begin = 0;
};

/// Reads and checks the header of a whole file. Whatever the bytes are, the answer is a header whose every
/// range lies in the file and has the size of its dtype and shape, or an InvalidArgument that names
/// `file_name`, the tensor, expected and got. Refused: a length beyond the file or kSafetensorsHeaderMax,
/// duplicate names, unknown dtypes, shapes that overflow, overlapping ranges, bytes that belong to no tensor.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::span<const std::byte> file,
                                                         std::string_view file_name);

/// "u32 [128, 768, 256]".
std::string DescribeTensor(DType dtype, std::span<const int64_t> shape);
/// The same, with the name of the blocks where it has some.
std::string DescribeTensor(const TensorInfo& tensor);

/// Elements of a shape; nullopt where a dimension is negative or the product does not fit 62 bits.
std::optional<int64_t> ElementCount(std::span<const int64_t> shape);

/// Writes one file: all names first, then the bytes of the tensors in the same order, in pieces of any size.
/// The file appears under its name only when finish() has succeeded.
class SafetensorsWriter {
 public:
  struct Entry {
    std::string name;
    DType dtype;
    std::vector<int64_t> shape;
  };

  /// InvalidArgument for duplicate names or bad shapes; the system's error where the file cannot be made.
  static absl::StatusOr<SafetensorsWriter> Create(std::string path, const std::vector<Entry>& entries,
                                                  const std::map<std::string, std::string>& metadata = {});

  SafetensorsWriter(SafetensorsWriter&&) = default;
  SafetensorsWriter& operator=(SafetensorsWriter&&) = default;
  ~SafetensorsWriter();

  /// ResourceExhausted where the disk is full. Writing more than was announced is a CHECK.
  absl::Status append(std::span<const std::byte> bytes);
  /// Every announced byte must have been written (CHECK).
  absl::Status finish();

 private:
  struct CloseFile {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  SafetensorsWriter(std::string path, std::unique_ptr<std::FILE, CloseFile> file, int64_t bytes_left)
      : path_(std::move(path)), file_(std::move(file)), bytes_left_(bytes_left) {}

  std::string path_;
  std::unique_ptr<std::FILE, CloseFile> file_;
  int64_t bytes_left_ = 0;
};

}  // namespace shoal
