// The GGUF container: header, metadata, tensor table. Knows no architecture (gguf_model.h does).
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/range.h"
#include "formats/block_types.h"
#include "numeric/dtype.h"

namespace shoal {

enum class GgufType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

/// A value of the metadata: a view into the file, whose lengths have been checked.
struct GgufValue {
  GgufType type = GgufType::kU8;     ///< Of the value, or of an array's elements.
  bool array = false;                ///< Whether it is an array.
  int64_t count = 1;                 ///< Elements.
  std::span<const std::byte> bytes;  ///< Strings: u64 length and bytes, one after another.

  /// The value as the type asked for; nullopt for an array or another kind. integer(): every integer type
  /// whose value fits int64. number(): floats and integers.
  std::optional<int64_t> as_int() const;
  std::optional<double> as_number() const;
  std::optional<bool> as_bool() const;
  std::optional<std::string_view> as_string() const;
  /// The elements of an array; nullopt where it is no array of that kind. A bool is the integer 0 or 1.
  std::optional<std::vector<std::string_view>> as_strings() const;
  std::optional<std::vector<int64_t>> as_ints() const;
  std::optional<std::vector<double>> as_numbers() const;
  /// "array of 151936 string", "string": for messages.
  std::string describe() const;
};

using GgufMetadata = std::map<std::string, GgufValue, std::less<>>;

/// A row of the table. A matrix of blocks has dtype u8.
struct GgufTensor {
  std::string name;
  DType dtype = DType::kF32;
  BlockType blocks = BlockType::kNone;
  std::vector<int64_t>
      shape;     ///< Slowest dimension first, as in safetensors; GGUF writes them the other way.
  Range bytes;   ///< In the file, from its first byte.
  int file = 0;  ///< Which of the files of a split model.
};

struct GgufHeader {
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  ///< In the order of the table.
  int64_t data_begin = 0;
};

/// Reads and checks the head of a whole file. Whatever the bytes are, the answer is a header whose views and
/// ranges lie in the file, do not overlap and have the size of their type and shape, or an error that names
/// `file_name`, the key or tensor, expected and got: InvalidArgument, or Unimplemented for a version or a
/// tensor type that is not read. Memory is bounded by a small multiple of the header's bytes.
absl::StatusOr<GgufHeader> ParseGguf(std::span<const std::byte> file, std::string_view file_name);

}  // namespace shoal
