#include "formats/block_types.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <span>

#include "base/check.h"

namespace shoal {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr BlockLaw kLaws[] = {
    {BlockType::kQ4_0, "Q4_0", 32, 18, 4, 32, DType::kF16},
    {BlockType::kQ4_1, "Q4_1", 32, 20, 4, 32, DType::kF16},
    {BlockType::kQ5_0, "Q5_0", 32, 22, 5, 32, DType::kF16},
    {BlockType::kQ5_1, "Q5_1", 32, 24, 5, 32, DType::kF16},
    {BlockType::kQ8_0, "Q8_0", 32, 34, 8, 32, DType::kF16},
    {BlockType::kQ4_K, "Q4_K", 256, 144, 4, 32, DType::kF32},
    {BlockType::kQ5_K, "Q5_K", 256, 176, 5, 32, DType::kF32},
    {BlockType::kQ6_K, "Q6_K", 256, 210, 6, 16, DType::kF32},
    {BlockType::kQ2_K, "Q2_K", 256, 84, 2, 16, DType::kF32},
    {BlockType::kQ3_K, "Q3_K", 256, 110, 3, 16, DType::kF32},
    {BlockType::kIq4Nl, "IQ4_NL", 32, 18, 8, 32, DType::kF16},
    {BlockType::kIq4Xs, "IQ4_XS", 256, 136, 8, 32, DType::kF32},
    {BlockType::kMxfp4, "MXFP4", 32, 17, 5, 32, DType::kBF16},
    // Encodings with separate scales. A block is the columns of one scale, or the fewest that fill whole
    // bytes.
    {BlockType::kMxfp4Words, "mxfp4", 32, 16, 5, 32, DType::kBF16},
    {BlockType::kNvfp4Words, "nvfp4", 16, 8, 0, 0, DType::kBF16},
    {BlockType::kMxfp8Words, "mxfp8", 32, 32, 0, 0, DType::kBF16},
    {BlockType::kFp8Blocks, "fp8 blocks", 1, 1, 0, 0, DType::kF32},
    {BlockType::kGptq, "GPTQ", 8, 4, 4, 0, DType::kF32},
    {BlockType::kAwq, "AWQ", 8, 4, 4, 0, DType::kF32},
    {BlockType::kPackedInt4, "packed int4", 8, 4, 4, 0, DType::kF32},
    {BlockType::kGptq8, "GPTQ 8 bit", 4, 4, 8, 0, DType::kF32},
    {BlockType::kPackedInt8, "packed int8", 4, 4, 8, 0, DType::kF32},
    {BlockType::kGptqOrdered, "GPTQ act-order", 8, 4, 0, 0, DType::kF32},
    {BlockType::kGptq8Ordered, "GPTQ 8 bit act-order", 4, 4, 0, 0, DType::kF32},
    {BlockType::kInt8Rows, "int8", 1, 1, 8, 0, DType::kF32},
};

constexpr int kGroup = 32;      ///< Columns of a group, for all types above with an affine code but
constexpr int kHalfGroup = 16;  ///< those of Q2_K, Q3_K and Q6_K.

/// One group of columns: what each decoder below fills in. A group of 16 has the first 16 codes.
struct Group {
  uint8_t codes[kGroup];
  float scale;
  float bias;
};

uint16_t HalfAt(const uint8_t* at) {
  uint16_t bits;
  std::memcpy(&bits, at, 2);
  return bits;
}
float F16At(const uint8_t* at) { return F16ToF32(HalfAt(at)); }

/// 16 bytes: the low nibbles are columns 0..15, the high ones 16..31.
void Nibbles(const uint8_t* bytes, uint8_t codes[kGroup]) {
  for (int i = 0; i < 16; ++i) {
    codes[i] = bytes[i] & 15;
    codes[16 + i] = static_cast<uint8_t>(bytes[i] >> 4);
  }
}

/// The fifth bit of column i is bit i of a little-endian word.
void AddFifthBits(const uint8_t* word, uint8_t codes[kGroup]) {
  uint32_t bits;
  std::memcpy(&bits, word, 4);
  for (int i = 0; i < kGroup; ++i) codes[i] |= static_cast<uint8_t>(((bits >> i) & 1u) << 4);
}

void DecodeQ4Or5(BlockType type, const uint8_t* block, Group* group) {
  const bool five = type == BlockType::kQ5_0 || type == BlockType::kQ5_1;
  const bool has_minimum = type == BlockType::kQ4_1 || type == BlockType::kQ5_1;
  group->scale = F16At(block);
  group->bias = has_minimum ? F16At(block + 2) : group->scale * (five ? -16.0f : -8.0f);
  const uint8_t* at = block + (has_minimum ? 4 : 2);
  Nibbles(at + (five ? 4 : 0), group->codes);
  if (five) AddFifthBits(at, group->codes);
}

void DecodeQ8(const uint8_t* block, Group* group) {
  group->scale = F16At(block);
  group->bias = group->scale * -128.0f;
  for (int i = 0; i < kGroup; ++i) group->codes[i] = block[2 + i] ^ 0x80u;  // Two's complement + 128.
}

/// What the nibbles of IQ4_NL and IQ4_XS stand for (ggml's kvalues_iq4nl), + 128.
constexpr uint8_t kIq4Codes[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};

/// 16 bytes of such nibbles, by their scale.
void DecodeIq4(const uint8_t* bytes, float scale, Group* group) {
  group->scale = scale;
  group->bias = scale * -128.0f;
  Nibbles(bytes, group->codes);
  for (uint8_t& code : group->codes) code = kIq4Codes[code];
}

/// Group `i` of the eight of an IQ4_XS block: d, the high bit pairs of eight scales, their low nibbles, 128 bytes.
void DecodeIq4Xs(const uint8_t* block, int i, Group* group) {
  const int low = block[4 + i / 2] >> (4 * (i % 2)) & 15;
  const int high = HalfAt(block + 2) >> (2 * i) & 3;
  DecodeIq4(block + 8 + 16 * i, F16At(block) * static_cast<float>((low | high << 4) - 32), group);
}

/// Twice an e2m1: sign, then 0, 0.5, 1, 1.5, 2, 3, 4, 6.
constexpr int8_t kTwice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/// 2^(exponent - 127) for the exponent of an e8m0; NaN for 255, which is its NaN.
float E8M0ToF32(int exponent) {
  if (exponent == 255) return std::bit_cast<float>(0x7fc00000u);
  return std::bit_cast<float>(exponent == 0 ? 0x00400000u : static_cast<uint32_t>(exponent) << 23);
}

/// e4m3: sign, 4 bits of exponent with bias 7, 3 of mantissa; no infinities, NaN where all are set.
float E4M3ToF32(uint8_t bits) {
  const int exponent = bits >> 3 & 15;
  const int mantissa = bits & 7;
  const float sign = (bits & 0x80) != 0 ? -1.0f : 1.0f;
  if (exponent == 15 && mantissa == 7) return std::bit_cast<float>(0x7fc00000u);
  if (exponent == 0) return sign * static_cast<float>(mantissa) * 0x1p-9f;
  return sign * std::bit_cast<float>(static_cast<uint32_t>(exponent + 120) << 23 |
                                     static_cast<uint32_t>(mantissa) << 20);
}

/// The scale of 32 doubled e2m1: half of the e8m0.
void DecodeMxfp4(const uint8_t* block, Group* group) {
  group->scale = E8M0ToF32(block[0]) * 0.5f;
  group->bias = group->scale * -12.0f;
  uint8_t nibbles[kGroup];
  Nibbles(block + 1, nibbles);
  for (int i = 0; i < kGroup; ++i) group->codes[i] = static_cast<uint8_t>(kTwice[nibbles[i]] + 12);
}

/// Eight pairs of a 6-bit scale and a 6-bit minimum in 12 bytes.
void ScaleAndMinimum(const uint8_t* packed, int i, int* scale, int* minimum) {
  if (i < 4) {
    *scale = packed[i] & 63;
    *minimum = packed[i + 4] & 63;
    return;
  }
  *scale = (packed[i + 4] & 15) | ((packed[i - 4] >> 6) << 4);
  *minimum = (packed[i + 4] >> 4) | ((packed[i] >> 6) << 4);
}

/// Group `i` of the eight of a Q4_K or Q5_K block: 64 columns share 32 bytes, low nibbles first.
void DecodeQ4Or5K(bool five, const uint8_t* block, int i, Group* group) {
  int scale = 0;
  int minimum = 0;
  ScaleAndMinimum(block + 4, i, &scale, &minimum);
  group->scale = F16At(block) * static_cast<float>(scale);
  group->bias = -(F16At(block + 2) * static_cast<float>(minimum));
  const uint8_t* fifth = block + 16;
  const uint8_t* nibbles = block + (five ? 48 : 16) + i / 2 * 32;
  for (int c = 0; c < kGroup; ++c) {
    const int low = i % 2 == 0 ? nibbles[c] & 15 : nibbles[c] >> 4;
    const int high = five ? (fifth[c] >> i & 1) << 4 : 0;
    group->codes[c] = static_cast<uint8_t>(low | high);
  }
}

/// Group `i` of the sixteen of a Q6_K block: low nibbles 128 bytes, high bit pairs 64, scales 16 int8, d; 128 columns at a
/// time. w = d sc (q - 32).
void DecodeQ6K(const uint8_t* block, int i, Group* group) {
  group->scale = F16At(block + 208) * static_cast<float>(static_cast<int8_t>(block[192 + i]));
  group->bias = group->scale * -32.0f;
  const int half = i / 8;
  const uint8_t* low = block + 64 * half;
  const uint8_t* high = block + 128 + 32 * half;
  for (int k = 0; k < kHalfGroup; ++k) {
    const int c = kHalfGroup * (i % 8) + k;
    const int nibble = c < 64 ? low[c % 64] & 15 : low[c % 64] >> 4;
    group->codes[k] = static_cast<uint8_t>(nibble | (high[c % 32] >> (2 * (c / 32)) & 3) << 4);
  }
}

/// The bit pair of column `c` of a Q2_K or Q3_K block: 128 columns share 32 bytes, four to a byte.
int BitPair(const uint8_t* pairs, int c) { return pairs[c / 128 * 32 + c % 32] >> (2 * (c % 128 / 32)) & 3; }

/// Group `i` of the sixteen of a Q2_K block: scale and minimum of each in a byte, 64 bytes of bit pairs, d, dmin.
void DecodeQ2K(const uint8_t* block, int i, Group* group) {
  group->scale = F16At(block + 80) * static_cast<float>(block[i] & 15);
  group->bias = -(F16At(block + 82) * static_cast<float>(block[i] >> 4));
  for (int k = 0; k < kHalfGroup; ++k)
    group->codes[k] = static_cast<uint8_t>(BitPair(block + 16, kHalfGroup * i + k));
}

/// Group `i` of the sixteen of a Q3_K block: the third bits 32 bytes, where one takes 4 away if it is not set; 64 bytes of
/// bit pairs; 16 scales of 6 bits, their nibbles in 8 bytes, then their high bit pairs in 4; d.
void DecodeQ3K(const uint8_t* block, int i, Group* group) {
  const uint8_t* scales = block + 96;
  const int nibble = i < 8 ? scales[i] & 15 : scales[i - 8] >> 4;
  const int scale = (nibble | (scales[8 + i % 4] >> (2 * (i / 4)) & 3) << 4) - 32;
  group->scale = F16At(block + 108) * static_cast<float>(scale);
  group->bias = group->scale * -4.0f;
  for (int k = 0; k < kHalfGroup; ++k) {
    const int c = kHalfGroup * i + k;
    group->codes[k] = static_cast<uint8_t>(BitPair(block + 32, c) | (block[c % 32] >> (c / 32) & 1) << 2);
  }
}

void DecodeGroup(const BlockLaw& law, const uint8_t* block, int i, Group* group) {
  switch (law.type) {
    case BlockType::kQ8_0:
      return DecodeQ8(block, group);
    case BlockType::kMxfp4:
      return DecodeMxfp4(block, group);
    case BlockType::kIq4Nl:
      return DecodeIq4(block + 2, F16At(block), group);
    case BlockType::kIq4Xs:
      return DecodeIq4Xs(block, i, group);
    case BlockType::kQ4_K:
    case BlockType::kQ5_K:
      return DecodeQ4Or5K(law.type == BlockType::kQ5_K, block, i, group);
    case BlockType::kQ6_K:
      return DecodeQ6K(block, i, group);
    case BlockType::kQ2_K:
      return DecodeQ2K(block, i, group);
    case BlockType::kQ3_K:
      return DecodeQ3K(block, i, group);
    default:
      return DecodeQ4Or5(law.type, block, group);
  }
}

/// Codes as a little-endian bit stream, which ends with a byte.
void StoreCodes(std::span<const uint8_t> codes, int bits, uint8_t* out) {
  if (bits == 8) {
    std::memcpy(out, codes.data(), codes.size());
    return;
  }
  uint64_t window = 0;
  int filled = 0;
  for (const uint8_t code : codes) {
    window |= static_cast<uint64_t>(code) << filled;
    filled += bits;
    for (; filled >= 8; filled -= 8, window >>= 8) *out++ = static_cast<uint8_t>(window);
  }
}

/// Writes the value as `dtype`; false where it does not fit: the types above are chosen so that it does for
/// sound files.
bool StoreScale(float value, DType dtype, uint8_t* out) {
  if (dtype == DType::kF32) {
    std::memcpy(out, &value, 4);
    return std::isfinite(value);
  }
  const uint16_t bits = dtype == DType::kF16 ? F32ToF16(value) : F32ToBF16(value);
  std::memcpy(out, &bits, 2);
  const float back = dtype == DType::kF16 ? F16ToF32(bits) : BF16ToF32(bits);
  return std::isfinite(value) && back == value;
}

/// One row of blocks into its words, scales and biases.
bool DecodeAffineRow(const BlockLaw& law, const uint8_t* blocks, int64_t cols, uint8_t* words,
                     uint8_t* scales, uint8_t* biases) {
  const int groups = law.elements / law.group;
  const int scale_size = DTypeBytes(law.dtype);
  bool held = true;
  for (int64_t col = 0; col < cols; col += law.elements, blocks += law.bytes) {
    for (int i = 0; i < groups; ++i) {
      Group group;
      DecodeGroup(law, blocks, i, &group);
      StoreCodes(std::span(group.codes).first(static_cast<size_t>(law.group)), law.bits, words);
      held &= StoreScale(group.scale, law.dtype, scales);
      held &= StoreScale(group.bias, law.dtype, biases);
      words += law.group * law.bits / 8;
      scales += scale_size;
      biases += scale_size;
    }
  }
  return held;
}

uint32_t WordAt(const std::byte* base, int64_t index) {
  uint32_t word;
  std::memcpy(&word, base + 4 * index, 4);
  return word;
}

/// A table of all 256 values: decoding a large FP8 model spends its time on these look-ups.
const std::array<float, 256>& E4M3Table() {
  static const std::array<float, 256> table = [] {
    std::array<float, 256> values;
    for (int i = 0; i < 256; ++i) values[static_cast<size_t>(i)] = E4M3ToF32(static_cast<uint8_t>(i));
    return values;
  }();
  return table;
}

/// A scale of fp8 blocks: a float, or an exponent.
float BlockScale(const BlockView& view, int64_t index) {
  if (view.scales_dtype == DType::kF8E8M0) return E8M0ToF32(static_cast<uint8_t>(view.scales[index]));
  return LoadFloatWeight(view.scales, view.scales_dtype, index);
}

/// A row of nvfp4, mxfp8 or fp8 blocks. Words hold their codes lowest first, which makes them a stream of
/// nibbles or bytes.
bool DecodeFloatElements(const BlockView& view, const BlockLaw& law, int64_t row, uint8_t* out) {
  const std::array<float, 256>& e4m3 = E4M3Table();
  const auto* codes = reinterpret_cast<const uint8_t*>(view.data) + row * view.row_bytes();
  const auto* scales = reinterpret_cast<const uint8_t*>(view.scales) + row * (view.cols / law.elements);
  const int64_t scale_row = row / view.group_rows * ((view.cols + view.group - 1) / std::max(1, view.group));
  const int size = DTypeBytes(law.dtype);
  bool held = true;
  for (int64_t col = 0; col < view.cols; ++col) {
    float value = 0;
    if (view.type == BlockType::kNvfp4Words) {
      const int nibble = codes[col / 2] >> (4 * (col % 2)) & 15;
      value = e4m3[scales[col / 16]] * 0.5f * static_cast<float>(kTwice[nibble]);
    } else if (view.type == BlockType::kMxfp8Words) {
      value = e4m3[codes[col]] * E8M0ToF32(scales[col / 32]);
    } else {
      value = e4m3[codes[col]] * BlockScale(view, scale_row + col / view.group);
    }
    held &= StoreScale(value, law.dtype, out + col * size);
  }
  return held;
}

/// Bits of a code of an integer type.
int IntBits(BlockType type) {
  const bool eight = type == BlockType::kGptq8 || type == BlockType::kGptq8Ordered ||
                     type == BlockType::kPackedInt8 || type == BlockType::kInt8Rows;
  return eight ? 8 : 4;
}

constexpr int kAwqNibble[8] = {0, 4, 1, 5,
                               2, 6, 3, 7};  // Where each of eight neighbouring rows lies in its word.

/// The code of (row, col) of GPTQ (words down the columns), AWQ (words across the rows, in an order of their
/// own), packed integers (words along the row) and int8 (bytes, of two's complement: + 128).
int IntCode(const BlockView& view, int64_t row, int64_t col) {
  const int bits = IntBits(view.type);
  const int per_word = 32 / bits;
  const auto part = [&](uint32_t word, int64_t i) {
    return static_cast<int>(word >> (bits * i)) & ((1 << bits) - 1);
  };
  switch (view.type) {
    case BlockType::kInt8Rows:
      return static_cast<int>(view.data[row * view.cols + col] ^ std::byte{0x80});
    case BlockType::kAwq:
      return part(WordAt(view.data, col * (view.rows / 8) + row / 8), kAwqNibble[row % 8]);
    case BlockType::kPackedInt4:
    case BlockType::kPackedInt8:
      return part(WordAt(view.data, row * (view.cols / per_word) + col / per_word), col % per_word);
    default:
      return part(WordAt(view.data, col / per_word * view.rows + row), col % per_word);
  }
}

/// Scale and bias of group `index` of a row: w = s (code - zero).
void IntScale(const BlockView& view, int64_t row, int64_t index, Group* group) {
  const int bits = IntBits(view.type);
  const int per_word = 32 / bits;
  int zero = 1 << (bits - 1);
  int64_t at = index * view.rows + row;
  if (view.type == BlockType::kPackedInt4 || view.type == BlockType::kPackedInt8) {
    at = row * (view.cols / view.group) + index;
  } else if (view.type == BlockType::kInt8Rows) {
    at = row / view.group_rows;
  } else {
    const int64_t place = view.type == BlockType::kAwq ? kAwqNibble[row % 8] : row % per_word;
    const uint32_t word = WordAt(view.zeros, index * (view.rows / per_word) + row / per_word);
    zero = (static_cast<int>(word >> (bits * place)) & ((1 << bits) - 1)) + view.zero_offset;
  }
  group->scale = LoadFloatWeight(view.scales, view.scales_dtype, at);
  group->bias = -group->scale * static_cast<float>(zero);
}

bool DecodeIntRow(const BlockView& view, int64_t row, uint8_t* words, uint8_t* scales, uint8_t* biases) {
  const DType dtype = view.decoded_dtype();
  const int bits = IntBits(view.type);
  const int decoded_group = view.decoded_group();
  bool held = true;
  for (int64_t col = 0; col < view.cols; col += kGroup) {
    Group group;
    for (int i = 0; i < kGroup; ++i) group.codes[i] = static_cast<uint8_t>(IntCode(view, row, col + i));
    StoreCodes(group.codes, bits, words);
    words += 4 * bits;
    if (col % decoded_group != 0) continue;
    IntScale(view, row, col / view.group, &group);
    held &= StoreScale(group.scale, dtype, scales);
    held &= StoreScale(group.bias, dtype, biases);
    scales += DTypeBytes(dtype);
    biases += DTypeBytes(dtype);
  }
  return held;
}

/// GPTQ where g_idx gives each column its group. False for a group that there is not, too.
bool DecodeOrderedRow(const BlockView& view, int64_t row, uint8_t* out) {
  bool held = true;
  for (int64_t col = 0; col < view.cols; ++col, out += 4) {
    const uint32_t index = WordAt(view.order, col);
    if (index >= static_cast<uint64_t>(view.cols / view.group)) return false;
    Group group;
    IntScale(view, row, index, &group);
    held &=
        StoreScale(group.scale * static_cast<float>(IntCode(view, row, col)) + group.bias, DType::kF32, out);
  }
  return held;
}

/// MLX's and gpt-oss's mxfp4: a row of nibbles, neighbours in one byte, and a scale per 32.
bool DecodeMxfp4Row(const BlockView& view, int64_t row, uint8_t* words, uint8_t* scales, uint8_t* biases) {
  const auto* codes = reinterpret_cast<const uint8_t*>(view.data) + row * view.row_bytes();
  const auto* exponents = reinterpret_cast<const uint8_t*>(view.scales) + row * (view.cols / kGroup);
  bool held = true;
  for (int64_t index = 0; index < view.cols / kGroup; ++index) {
    Group group;
    for (int i = 0; i < kGroup; ++i) {
      group.codes[i] = static_cast<uint8_t>(kTwice[codes[index * 16 + i / 2] >> (4 * (i % 2)) & 15] + 12);
    }
    group.scale = E8M0ToF32(exponents[index]) * 0.5f;
    group.bias = group.scale * -12.0f;
    StoreCodes(group.codes, 5, words);
    held &= StoreScale(group.scale, DType::kBF16, scales);
    held &= StoreScale(group.bias, DType::kBF16, biases);
    words += 20;
    scales += 2;
    biases += 2;
  }
  return held;
}

bool DecodeRow(const BlockView& view, int64_t row, uint8_t* words, uint8_t* scales, uint8_t* biases) {
  const BlockLaw& law = LawOf(view.type);
  const auto* blocks = reinterpret_cast<const uint8_t*>(view.data) + row * view.row_bytes();
  switch (view.type) {
    case BlockType::kNvfp4Words:
    case BlockType::kMxfp8Words:
    case BlockType::kFp8Blocks:
      return DecodeFloatElements(view, law, row, words);
    case BlockType::kGptq:
    case BlockType::kGptq8:
    case BlockType::kAwq:
    case BlockType::kPackedInt4:
    case BlockType::kPackedInt8:
    case BlockType::kInt8Rows:
      return DecodeIntRow(view, row, words, scales, biases);
    case BlockType::kGptqOrdered:
    case BlockType::kGptq8Ordered:
      return DecodeOrderedRow(view, row, words);
    case BlockType::kMxfp4Words:
      return DecodeMxfp4Row(view, row, words, scales, biases);
    default:
      return DecodeAffineRow(law, blocks, view.cols, words, scales, biases);
  }
}

}  // namespace

const BlockLaw& LawOf(BlockType type) {
  const auto* law = std::ranges::find(kLaws, type, &BlockLaw::type);
  SHOAL_CHECK(law != std::end(kLaws));
  return *law;
}

std::optional<BlockType> BlockTypeFromGgml(uint32_t ggml_type) {
  switch (ggml_type) {  // enum ggml_type of ggml.h; the numbers are part of the file format.
    case 2:
      return BlockType::kQ4_0;
    case 3:
      return BlockType::kQ4_1;
    case 6:
      return BlockType::kQ5_0;
    case 7:
      return BlockType::kQ5_1;
    case 8:
      return BlockType::kQ8_0;
    case 10:
      return BlockType::kQ2_K;
    case 11:
      return BlockType::kQ3_K;
    case 12:
      return BlockType::kQ4_K;
    case 13:
      return BlockType::kQ5_K;
    case 14:
      return BlockType::kQ6_K;
    case 20:
      return BlockType::kIq4Nl;
    case 23:
      return BlockType::kIq4Xs;
    case 39:
      return BlockType::kMxfp4;
    default:
      return std::nullopt;
  }
}

BlockView BlockView::matrix(int64_t index, int64_t count) const {
  SHOAL_CHECK(0 <= index && index < count && rows % count == 0);
  BlockView one = *this;
  one.rows = rows / count;
  one.data += index * one.rows * row_bytes();
  // Only types with one byte of scale per block stand in stacks beside their scales.
  if (scales != nullptr) one.scales += index * one.rows * (cols / LawOf(type).elements);
  return one;
}

bool DecodedRows::decode(const BlockView& view, const std::vector<int64_t>& rows) {
  const BlockLaw& law = LawOf(view.type);
  SHOAL_CHECK_EQ(view.cols % law.elements, 0);
  type_ = view.type;
  rows_ = static_cast<int64_t>(rows.size());
  cols_ = view.cols;
  dtype_ = view.decoded_dtype();
  group_ = view.decoded_group();
  const int64_t row_words = law.bits > 0 ? cols_ * law.bits / 8 : cols_ * DTypeBytes(dtype_);
  const int64_t row_scales = law.bits > 0 ? cols_ / group_ * DTypeBytes(dtype_) : 0;
  words_.resize(static_cast<size_t>(rows_ * row_words));
  scales_.resize(static_cast<size_t>(rows_ * row_scales));
  biases_.resize(scales_.size());
  for (int64_t i = 0; i < rows_; ++i) {
    const int64_t row = rows[static_cast<size_t>(i)];
    SHOAL_CHECK(0 <= row && row < view.rows);
    if (DecodeRow(view, row, words_.data() + i * row_words, scales_.data() + i * row_scales,
                  biases_.data() + i * row_scales)) {
      continue;
    }
    bad_row_ = row;
    return false;
  }
  return true;
}

void DecodedRows::order_columns(const TiledHeads& order) {
  SHOAL_CHECK(LawOf(type_).bits == 0 || order.size % group_ == 0);
  for (std::vector<uint8_t>* part : {&words_, &scales_, &biases_}) {
    if (part->empty()) continue;
    ordered_.resize(part->size());
    OrderColumns(order, part->data(), rows_, std::ssize(*part) / rows_, ordered_.data());
    part->swap(ordered_);
  }
}

float DecodedRows::value(int64_t row, int64_t col) const {
  if (LawOf(type_).bits > 0) return AffineValue(affine(), row, col);
  return LoadFloatWeight(floats(), dtype_, row * cols_ + col);
}

AffineView DecodedRows::affine() const {
  const BlockLaw& law = LawOf(type_);
  SHOAL_CHECK(law.bits > 0);
  return {.words = words_.data(),
          .scales = scales_.data(),
          .biases = biases_.data(),
          .scale_dtype = dtype_,
          .rows = rows_,
          .cols = cols_,
          .bits = law.bits,
          .group = group_};
}

}  // namespace shoal
