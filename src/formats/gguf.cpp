#include "formats/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <tuple>

#include "base/status.h"
#include "formats/safetensors.h"
#include "formats/strict_json.h"

namespace shoal {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::string_view kTypeNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                           "bool", "string", "array", "u64", "i64", "f64"};
constexpr int kTypeBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};  ///< 0: of no fixed size.
constexpr uint32_t kMagic = 0x46554747;                                ///< "GGUF"
constexpr int kDimensionsMax = 4;
constexpr int64_t kNameBytesMax = 65535;  ///< Of keys and tensors, as the format says of keys.
constexpr int64_t kAlignmentMax = 1 << 16;
constexpr size_t kNameCharsShown = 200;

template <class T>
T Load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

/// Reads values one after another; reading past the end is an error that says what was expected.
class Reader {
 public:
  Reader(std::span<const std::byte> file, std::string_view name) : file_(file), name_(name) {}

  int64_t at() const { return at_; }
  int64_t left() const { return static_cast<int64_t>(file_.size()) - at_; }
  std::string where() const { return fmt::format("checkpoint: {}: byte {}", name_, at_); }

  template <class T>
  absl::StatusOr<T> number(std::string_view what) {
    RETURN_IF_ERROR(need(static_cast<uint64_t>(sizeof(T)), what));
    const T value = Load<T>(file_.data() + at_);
    at_ += static_cast<int64_t>(sizeof(T));
    return value;
  }

  absl::StatusOr<std::span<const std::byte>> bytes(uint64_t size, std::string_view what) {
    RETURN_IF_ERROR(need(size, what));
    const auto result = file_.subspan(static_cast<size_t>(at_), size);
    at_ += static_cast<int64_t>(size);
    return result;
  }

  /// u64 length and so many bytes.
  absl::StatusOr<std::string_view> text(std::string_view what, uint64_t size_max) {
    const std::string start = where();
    ASSIGN_OR_RETURN(const uint64_t size, number<uint64_t>(what));
    if (size > size_max) {
      return InvalidArgument("{}: length of {}: expected at most {}, found {}", start, what, size_max, size);
    }
    ASSIGN_OR_RETURN(const auto found, bytes(size, what));
    return std::string_view(reinterpret_cast<const char*>(found.data()), found.size());
  }

 private:
  absl::Status need(uint64_t size, std::string_view what) const {
    if (size <= static_cast<uint64_t>(left())) return absl::OkStatus();
    return InvalidArgument(
        "{}: {}: expected {} bytes, found {} to the end of the file. The file is truncated or damaged: "
        "download it again.",
        where(), what, size, left());
  }

  std::span<const std::byte> file_;
  std::string_view name_;
  int64_t at_ = 0;
};

absl::StatusOr<GgufType> ReadType(Reader& reader, std::string_view what) {
  const std::string where = reader.where();
  ASSIGN_OR_RETURN(const uint32_t type, reader.number<uint32_t>(what));
  if (type >= std::size(kTypeNames)) {
    return InvalidArgument("{}: type of {}: expected 0 to {}, found {}", where, what,
                           std::size(kTypeNames) - 1, type);
  }
  return static_cast<GgufType>(type);
}

absl::StatusOr<GgufValue> ReadValue(Reader& reader, const std::string& key) {
  GgufValue value;
  ASSIGN_OR_RETURN(value.type, ReadType(reader, key));
  uint64_t count = 1;
  if (value.type == GgufType::kArray) {
    value.array = true;
    ASSIGN_OR_RETURN(value.type, ReadType(reader, key));
    const std::string where = reader.where();
    ASSIGN_OR_RETURN(count, reader.number<uint64_t>(key));
    if (value.type == GgufType::kArray) {
      return Unimplemented("{}: {}: arrays of arrays are not read", where, key);
    }
    if (count > static_cast<uint64_t>(reader.left())) {  // An element takes a byte at least.
      return InvalidArgument("{}: {}: an array of {} elements is longer than the {} bytes left in the file",
                             where, key, count, reader.left());
    }
  }
  value.count = static_cast<int64_t>(count);
  const int size = kTypeBytes[static_cast<size_t>(value.type)];
  if (size > 0) {
    ASSIGN_OR_RETURN(value.bytes, reader.bytes(count * static_cast<uint64_t>(size), key));
    return value;
  }
  const int64_t begin = reader.at();
  const std::byte* first = nullptr;
  for (uint64_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(const std::string_view text, reader.text(key, std::numeric_limits<int64_t>::max()));
    if (i == 0) first = reinterpret_cast<const std::byte*>(text.data()) - 8;
  }
  if (first != nullptr) value.bytes = {first, static_cast<size_t>(reader.at() - begin)};
  return value;
}

std::string Where(std::string_view tensor, std::string_view file) {
  return fmt::format("checkpoint: tensor '{}' in {}", Printable(tensor, kNameCharsShown), file);
}

/// A row of the table and where its bytes begin, from data_begin on.
struct TableRow {
  GgufTensor tensor;
  uint64_t offset = 0;
};

absl::Status SetType(uint32_t type, const std::string& where, GgufTensor* tensor) {
  switch (type) {  // enum ggml_type
    case 0:
      tensor->dtype = DType::kF32;
      return absl::OkStatus();
    case 1:
      tensor->dtype = DType::kF16;
      return absl::OkStatus();
    case 30:
      tensor->dtype = DType::kBF16;
      return absl::OkStatus();
    default:
      break;
  }
  const std::optional<BlockType> blocks = BlockTypeFromGgml(type);
  if (!blocks) {
    return Unimplemented(
        "{}: ggml type {} is not read: expected F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, "
        "IQ4_NL, "
        "IQ4_XS or MXFP4. Take another quantization of the model, or the original and `shoal convert`.",
        where, type);
  }
  tensor->dtype = DType::kU8;
  tensor->blocks = *blocks;
  return absl::OkStatus();
}

absl::StatusOr<TableRow> ReadTensor(Reader& reader, std::string_view file) {
  TableRow row;
  ASSIGN_OR_RETURN(const std::string_view name, reader.text("name of a tensor", kNameBytesMax));
  row.tensor.name = std::string(name);
  const std::string where = Where(name, file);
  ASSIGN_OR_RETURN(const uint32_t dimensions, reader.number<uint32_t>("dimensions of a tensor"));
  if (dimensions < 1 || dimensions > kDimensionsMax) {
    return InvalidArgument("{}: expected 1 to {} dimensions, found {}", where, kDimensionsMax, dimensions);
  }
  for (uint32_t i = 0; i < dimensions; ++i) {
    ASSIGN_OR_RETURN(const uint64_t size, reader.number<uint64_t>("shape of a tensor"));
    if (size < 1 || size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return InvalidArgument("{}: dimension {}: expected 1 to 2^63 - 1, found {}", where, i, size);
    }
    row.tensor.shape.insert(row.tensor.shape.begin(), static_cast<int64_t>(size));
  }
  ASSIGN_OR_RETURN(const uint32_t type, reader.number<uint32_t>("type of a tensor"));
  RETURN_IF_ERROR(SetType(type, where, &row.tensor));
  ASSIGN_OR_RETURN(row.offset, reader.number<uint64_t>("offset of a tensor"));
  return row;
}

/// Bytes of all elements; InvalidArgument where they do not fit, or a row is no whole number of blocks.
absl::StatusOr<int64_t> SizeOf(const GgufTensor& tensor, const std::string& where) {
  const std::optional<int64_t> elements = ElementCount(tensor.shape);
  int64_t bytes = 0;
  if (!elements || __builtin_mul_overflow(*elements, int64_t{8}, &bytes)) {
    return InvalidArgument("{}: the size of [{}] does not fit 62 bits", where, fmt::join(tensor.shape, ", "));
  }
  if (tensor.blocks == BlockType::kNone) return *elements * DTypeBytes(tensor.dtype);
  const BlockLaw& law = LawOf(tensor.blocks);
  if (tensor.shape.back() % law.elements != 0) {
    return InvalidArgument("{}: expected rows of a multiple of {} for {}, found [{}]", where, law.elements,
                           law.name, fmt::join(tensor.shape, ", "));
  }
  return *elements / law.elements * law.bytes;
}

/// general.alignment, or the format's default.
absl::StatusOr<int64_t> Alignment(const GgufMetadata& metadata, std::string_view file) {
  const auto found = metadata.find("general.alignment");
  if (found == metadata.end()) return 32;
  const std::optional<int64_t> value = found->second.as_int();
  if (!value || *value < 1 || *value > kAlignmentMax || !std::has_single_bit(static_cast<uint64_t>(*value))) {
    return InvalidArgument("checkpoint: {}: 'general.alignment': expected a power of two up to {}, found {}",
                           file, kAlignmentMax, value ? fmt::format("{}", *value) : found->second.describe());
  }
  return *value;
}

/// Gives each tensor its byte range: aligned, inside the file, without overlap.
absl::Status PlaceTensors(std::vector<TableRow> rows, int64_t alignment, int64_t file_size,
                          std::string_view file, GgufHeader* header) {
  const int64_t data_size = file_size - header->data_begin;
  for (TableRow& row : rows) {
    const std::string where = Where(row.tensor.name, file);
    ASSIGN_OR_RETURN(const int64_t bytes, SizeOf(row.tensor, where));
    if (row.offset % static_cast<uint64_t>(alignment) != 0) {
      return InvalidArgument("{}: offset: expected a multiple of {}, found {}", where, alignment, row.offset);
    }
    if (data_size < 0 || row.offset > static_cast<uint64_t>(data_size) ||
        bytes > data_size - static_cast<int64_t>(row.offset)) {
      return InvalidArgument(
          "{}: its {} bytes from offset {} on do not lie in the {} bytes of data. The file is truncated: "
          "download it again.",
          where, bytes, row.offset, std::max<int64_t>(0, data_size));
    }
    const int64_t begin = header->data_begin + static_cast<int64_t>(row.offset);
    row.tensor.bytes = {begin, begin + bytes};
    header->tensors.push_back(std::move(row.tensor));
  }
  std::vector<const GgufTensor*> ordered;
  for (const GgufTensor& tensor : header->tensors) ordered.push_back(&tensor);
  std::ranges::sort(ordered, {}, [](const GgufTensor* t) { return std::pair(t->bytes.begin, t->bytes.end); });
  for (size_t i = 1; i < ordered.size(); ++i) {
    if (ordered[i]->bytes.begin >= ordered[i - 1]->bytes.end) continue;
    return InvalidArgument("{}: its bytes from {} on overlap those of '{}', which end at {}",
                           Where(ordered[i]->name, file), ordered[i]->bytes.begin,
                           Printable(ordered[i - 1]->name, kNameCharsShown), ordered[i - 1]->bytes.end);
  }
  std::ranges::sort(ordered, {}, [](const GgufTensor* t) { return std::string_view(t->name); });
  for (size_t i = 1; i < ordered.size(); ++i) {
    if (ordered[i]->name != ordered[i - 1]->name) continue;
    return InvalidArgument("{}: the name is in the table twice", Where(ordered[i]->name, file));
  }
  return absl::OkStatus();
}

struct Counts {
  uint64_t tensors = 0;
  uint64_t keys = 0;
};

absl::StatusOr<Counts> ReadCounts(Reader& reader, std::string_view file) {
  ASSIGN_OR_RETURN(const uint32_t magic, reader.number<uint32_t>("magic number"));
  if (magic != kMagic) {
    return InvalidArgument("checkpoint: {}: expected a GGUF file that begins with 'GGUF', found bytes {:08x}",
                           file, std::byteswap(magic));
  }
  ASSIGN_OR_RETURN(const uint32_t version, reader.number<uint32_t>("version"));
  if (version != 2 && version != 3) {
    return Unimplemented("checkpoint: {}: expected GGUF version 2 or 3, little-endian, found {}{}", file,
                         version, version != 0 && version % 65536 == 0 ? " (a big-endian file)" : "");
  }
  Counts counts;
  ASSIGN_OR_RETURN(counts.tensors, reader.number<uint64_t>("number of tensors"));
  ASSIGN_OR_RETURN(counts.keys, reader.number<uint64_t>("number of keys"));
  // The fewest bytes that a row of the table and a key take: a larger count cannot be true.
  constexpr uint64_t kTensorBytesMin = 8 + 4 + 8 + 4 + 8;
  constexpr uint64_t kKeyBytesMin = 8 + 4 + 1;
  const auto left = static_cast<uint64_t>(reader.left());
  if (counts.tensors > left / kTensorBytesMin || counts.keys > left / kKeyBytesMin) {
    return InvalidArgument(
        "checkpoint: {}: {} tensors and {} keys do not fit the {} bytes of the file. The file is truncated "
        "or "
        "damaged: download it again.",
        file, counts.tensors, counts.keys, reader.left());
  }
  return counts;
}

std::optional<int64_t> IntAt(GgufType type, const std::byte* at) {
  switch (type) {
    case GgufType::kU8:
      return Load<uint8_t>(at);
    case GgufType::kI8:
      return Load<int8_t>(at);
    case GgufType::kU16:
      return Load<uint16_t>(at);
    case GgufType::kI16:
      return Load<int16_t>(at);
    case GgufType::kU32:
      return Load<uint32_t>(at);
    case GgufType::kI32:
      return Load<int32_t>(at);
    case GgufType::kI64:
      return Load<int64_t>(at);
    case GgufType::kU64: {
      const auto value = Load<uint64_t>(at);
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    default:
      return std::nullopt;
  }
}

std::optional<double> NumberAt(GgufType type, const std::byte* at) {
  if (type == GgufType::kF32) return Load<float>(at);
  if (type == GgufType::kF64) return Load<double>(at);
  const std::optional<int64_t> integer = IntAt(type, at);
  return integer ? std::optional(static_cast<double>(*integer)) : std::nullopt;
}

/// Reads every element by `read`, one of the two functions above.
template <class T>
std::optional<std::vector<T>> Elements(const GgufValue& value,
                                       std::optional<T> (*read)(GgufType, const std::byte*)) {
  if (!value.array || value.type == GgufType::kString) return std::nullopt;
  std::vector<T> result;
  const int size = kTypeBytes[static_cast<size_t>(value.type)];
  for (int64_t i = 0; i < value.count; ++i) {
    const std::optional<T> element = read(value.type, value.bytes.data() + i * size);
    if (!element) return std::nullopt;
    result.push_back(*element);
  }
  return result;
}

}  // namespace

std::optional<int64_t> GgufValue::as_int() const { return array ? std::nullopt : IntAt(type, bytes.data()); }

std::optional<double> GgufValue::as_number() const {
  return array ? std::nullopt : NumberAt(type, bytes.data());
}

std::optional<bool> GgufValue::as_bool() const {
  if (array || type != GgufType::kBool) return std::nullopt;
  return Load<uint8_t>(bytes.data()) != 0;
}

std::optional<std::string_view> GgufValue::as_string() const {
  if (array || type != GgufType::kString) return std::nullopt;
  return std::string_view(reinterpret_cast<const char*>(bytes.data()) + 8, bytes.size() - 8);
}

std::optional<std::vector<std::string_view>> GgufValue::as_strings() const {
  if (!array || type != GgufType::kString) return std::nullopt;
  std::vector<std::string_view> result;
  result.reserve(static_cast<size_t>(count));
  for (const std::byte* at = bytes.data(); std::ssize(result) < count;) {
    const auto size = Load<uint64_t>(at);
    result.emplace_back(reinterpret_cast<const char*>(at) + 8, size);
    at += 8 + size;
  }
  return result;
}

std::optional<std::vector<int64_t>> GgufValue::as_ints() const {
  return Elements<int64_t>(*this, [](GgufType of, const std::byte* at) {
    return of == GgufType::kBool ? std::optional<int64_t>(Load<uint8_t>(at) != 0) : IntAt(of, at);
  });
}
std::optional<std::vector<double>> GgufValue::as_numbers() const {
  return Elements<double>(*this, &NumberAt);
}

std::string GgufValue::describe() const {
  const std::string_view name = kTypeNames[static_cast<size_t>(type)];
  return array ? fmt::format("array of {} {}", count, name) : std::string(name);
}

absl::StatusOr<GgufHeader> ParseGguf(std::span<const std::byte> file, std::string_view file_name) {
  Reader reader(file, file_name);
  ASSIGN_OR_RETURN(const Counts counts, ReadCounts(reader, file_name));
  GgufHeader header;
  for (uint64_t i = 0; i < counts.keys; ++i) {
    ASSIGN_OR_RETURN(const std::string_view key, reader.text("a key of the metadata", kNameBytesMax));
    const std::string shown = fmt::format("'{}'", Printable(key, kNameCharsShown));
    ASSIGN_OR_RETURN(const GgufValue value, ReadValue(reader, shown));
    if (!header.metadata.emplace(key, value).second) {
      return InvalidArgument("checkpoint: {}: the key {} is in the metadata twice", file_name, shown);
    }
  }
  std::vector<TableRow> rows;
  for (uint64_t i = 0; i < counts.tensors; ++i) {
    ASSIGN_OR_RETURN(TableRow row, ReadTensor(reader, file_name));
    rows.push_back(std::move(row));
  }
  ASSIGN_OR_RETURN(const int64_t alignment, Alignment(header.metadata, file_name));
  header.data_begin = (reader.at() + alignment - 1) / alignment * alignment;
  RETURN_IF_ERROR(
      PlaceTensors(std::move(rows), alignment, static_cast<int64_t>(file.size()), file_name, &header));
  return header;
}

}  // namespace shoal
