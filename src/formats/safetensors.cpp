#include "formats/safetensors.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "base/check.h"
#include "base/status.h"
#include "base/text.h"
#include "formats/strict_json.h"

namespace shoal {
namespace {

using Json = nlohmann::json;

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kElementsMax = int64_t{1} << 62;
constexpr size_t kNameCharsShown = 200;

/// Where a tensor's error happened: "checkpoint: tensor 'a.weight' in model.safetensors".
std::string Where(std::string_view tensor, std::string_view file) {
  return fmt::format("checkpoint: tensor '{}' in {}", Printable(tensor, kNameCharsShown), file);
}

/// A non-negative integer below 2^62.
std::optional<int64_t> SizeFrom(const Json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;  // The parser types every non-negative integer so.
  const auto number = value.get<uint64_t>();
  if (number >= static_cast<uint64_t>(kElementsMax)) return std::nullopt;
  return static_cast<int64_t>(number);
}

absl::StatusOr<DType> DTypeFrom(const Json& entry, const std::string& where) {
  const auto found = entry.find("dtype");
  if (found == entry.end() || !found->is_string()) {
    return InvalidArgument("{}: expected a string under 'dtype', found {}", where,
                           found == entry.end() ? "nothing" : JsonExcerpt(*found));
  }
  const auto& name = found->get_ref<const std::string&>();
  if (const std::optional<DType> dtype = DTypeFromSafetensors(name)) return *dtype;
  return InvalidArgument(
      "{}: dtype '{}' is not known: expected one of BOOL, U8, I8, F8_E4M3, F8_E5M2, F8_E8M0, U16, I16, "
      "F16, BF16, U32, I32, F32, U64, I64, F64",
      where, Printable(name, 40));
}

/// Dtypes of the format that no model here computes with: a tensor of one is refused only where it is used.
struct UnreadDType {
  std::string_view name;
  int bits;
};
constexpr UnreadDType kUnread[] = {{"F4", 4},          {"F6_E2M3", 6},     {"F6_E3M2", 6},
                                   {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"C64", 64}};

const UnreadDType* FindUnread(const Json& entry) {
  const auto found = entry.find("dtype");
  if (found == entry.end() || !found->is_string()) return nullptr;
  const auto* known = std::ranges::find(kUnread, found->get_ref<const std::string&>(), &UnreadDType::name);
  return known == std::end(kUnread) ? nullptr : known;
}

absl::StatusOr<std::vector<int64_t>> ShapeFrom(const Json& entry, const std::string& where) {
  const auto found = entry.find("shape");
  if (found == entry.end() || !found->is_array()) {
    return InvalidArgument("{}: expected a list under 'shape', found {}", where,
                           found == entry.end() ? "nothing" : JsonExcerpt(*found));
  }
  std::vector<int64_t> shape;
  for (const Json& dimension : *found) {
    const std::optional<int64_t> size = SizeFrom(dimension);
    if (!size) {
      return InvalidArgument("{}: shape {}: expected non-negative integers, found {}", where,
                             JsonExcerpt(*found), JsonExcerpt(dimension));
    }
    shape.push_back(*size);
  }
  return shape;
}

/// data_offsets as a range relative to the first data byte, inside [0, data_size).
absl::StatusOr<Range> OffsetsFrom(const Json& entry, int64_t data_size, const std::string& where) {
  const auto found = entry.find("data_offsets");
  std::optional<int64_t> begin;
  std::optional<int64_t> end;
  if (found != entry.end() && found->is_array() && found->size() == 2) {
    begin = SizeFrom((*found)[0]);
    end = SizeFrom((*found)[1]);
  }
  if (!begin || !end || *begin > *end) {
    return InvalidArgument("{}: expected 'data_offsets' [begin, end] with 0 <= begin <= end, found {}", where,
                           found == entry.end() ? "nothing" : JsonExcerpt(*found));
  }
  if (*end > data_size) {
    return InvalidArgument(
        "{}: its bytes are [{}, {}) but the file holds {} bytes of data. The file is truncated: "
        "download or convert it again.",
        where, *begin, *end, data_size);
  }
  return Range{*begin, *end};
}

absl::StatusOr<TensorInfo> TensorFrom(const std::string& name, const Json& entry, Range data,
                                      std::string_view file) {
  const std::string where = Where(name, file);
  if (!entry.is_object())
    return InvalidArgument("{}: expected an object, found {}", where, JsonExcerpt(entry));
  TensorInfo info;
  info.name = name;
  ASSIGN_OR_RETURN(info.shape, ShapeFrom(entry, where));
  const UnreadDType* unread = FindUnread(entry);
  if (unread != nullptr) {
    info.dtype = DType::kU8;
    info.unread = fmt::format("{} [{}]", unread->name, fmt::join(info.shape, ", "));
  } else {
    ASSIGN_OR_RETURN(info.dtype, DTypeFrom(entry, where));
  }
  ASSIGN_OR_RETURN(const Range offsets, OffsetsFrom(entry, data.size(), where));
  const std::optional<int64_t> elements = ElementCount(info.shape);
  const int64_t element_bits = unread != nullptr ? unread->bits : 8 * DTypeBytes(info.dtype);
  int64_t bits = 0;
  if (!elements || __builtin_mul_overflow(*elements, element_bits, &bits)) {
    return InvalidArgument("{}: the size of {} does not fit 62 bits", where, DescribeTensor(info));
  }
  if (bits != 8 * offsets.size()) {
    return InvalidArgument("{}: expected {} bytes for {}, found data_offsets [{}, {}) = {} bytes", where,
                           bits / 8, DescribeTensor(info), offsets.begin, offsets.end, offsets.size());
  }
  if (unread != nullptr) info.shape = {offsets.size()};
  info.bytes = {data.begin + offsets.begin, data.begin + offsets.end};
  return info;
}

absl::Status ReadMetadata(const Json& entry, std::string_view file,
                          std::map<std::string, std::string>* metadata) {
  if (entry.is_null()) return absl::OkStatus();  // What MLX writes where it was given none.
  if (!entry.is_object()) {
    return InvalidArgument("checkpoint: {}: '__metadata__': expected an object, found {}", file,
                           JsonExcerpt(entry));
  }
  for (const auto& [key, value] : entry.items()) {
    if (!value.is_string()) {
      return InvalidArgument("checkpoint: {}: '__metadata__' key '{}': expected a string, found {}", file,
                             Printable(key, kNameCharsShown), JsonExcerpt(value));
    }
    metadata->emplace(key, value.get<std::string>());
  }
  return absl::OkStatus();
}

/// The tensors, sorted by their bytes, tile `data`.
absl::Status CheckTiling(const std::vector<TensorInfo>& tensors, Range data, std::string_view file) {
  int64_t at = data.begin;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo& tensor = tensors[i];
    if (tensor.bytes.begin < at) {
      return InvalidArgument("{}: its bytes [{}, {}) overlap those of '{}', which end at {}",
                             Where(tensor.name, file), tensor.bytes.begin - data.begin,
                             tensor.bytes.end - data.begin, Printable(tensors[i - 1].name, kNameCharsShown),
                             at - data.begin);
    }
    if (tensor.bytes.begin > at) {
      return InvalidArgument(
          "{}: its bytes begin at {}, expected {}: the {} bytes between belong to no tensor",
          Where(tensor.name, file), tensor.bytes.begin - data.begin, at - data.begin,
          tensor.bytes.begin - at);
    }
    at = tensor.bytes.end;
  }
  if (at != data.end) {
    return InvalidArgument(
        "checkpoint: {}: the tensors take {} bytes of data, the file holds {}: expected them equal", file,
        at - data.begin, data.size());
  }
  return absl::OkStatus();
}

/// The header's text, after its length has been checked.
absl::StatusOr<std::string_view> HeaderText(std::span<const std::byte> file, std::string_view file_name) {
  const auto file_size = static_cast<int64_t>(file.size());
  if (file_size < kLengthBytes) {
    return InvalidArgument("checkpoint: {}: expected a safetensors file of at least {} bytes, found {} bytes",
                           file_name, kLengthBytes, file_size);
  }
  uint64_t length = 0;
  std::memcpy(&length, file.data(), kLengthBytes);  // Little-endian, as every machine that we build for.
  static_assert(std::endian::native == std::endian::little);
  const int64_t length_max = std::min(kSafetensorsHeaderMax, file_size - kLengthBytes);
  if (length > static_cast<uint64_t>(length_max)) {
    return InvalidArgument(
        "checkpoint: {}: header length: expected at most {} (the file has {} bytes), found {}. The file is "
        "truncated or not safetensors: download it again.",
        file_name, length_max, file_size, length);
  }
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kLengthBytes, length);
  if (text.empty() || text.front() != '{') {
    return InvalidArgument("checkpoint: {}: expected a header that begins with '{{', found '{}'", file_name,
                           Printable(text, 20));
  }
  return text;
}

}  // namespace

std::optional<int64_t> ElementCount(std::span<const int64_t> shape) {
  int64_t count = 1;
  for (const int64_t dimension : shape) {
    if (dimension < 0 || __builtin_mul_overflow(count, dimension, &count) || count >= kElementsMax)
      return std::nullopt;
  }
  return count;
}

std::string DescribeTensor(DType dtype, std::span<const int64_t> shape) {
  return fmt::format("{} [{}]", DTypeName(dtype), fmt::join(shape, ", "));
}

std::string DescribeTensor(const TensorInfo& tensor) {
  if (!tensor.unread.empty()) return tensor.unread;
  if (tensor.blocks == BlockType::kNone) return DescribeTensor(tensor.dtype, tensor.shape);
  return fmt::format("{} [{}]", LawOf(tensor.blocks).name, fmt::join(tensor.shape, ", "));
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::span<const std::byte> file,
                                                         std::string_view file_name) {
  ASSIGN_OR_RETURN(const std::string_view text, HeaderText(file, file_name));
  Json json;
  RETURN_IF_ERROR(ParseStrictJson(text, fmt::format("checkpoint: {}: header", file_name), &json));
  SafetensorsHeader header;
  header.data_begin = kLengthBytes + static_cast<int64_t>(text.size());
  const Range data{header.data_begin, static_cast<int64_t>(file.size())};
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") {
      RETURN_IF_ERROR(ReadMetadata(entry, file_name, &header.metadata));
      continue;
    }
    ASSIGN_OR_RETURN(TensorInfo tensor, TensorFrom(name, entry, data, file_name));
    header.tensors.push_back(std::move(tensor));
  }
  std::ranges::sort(header.tensors, {}, [](const TensorInfo& tensor) {
    return std::tuple(tensor.bytes.begin, tensor.bytes.end, std::string_view(tensor.name));
  });
  RETURN_IF_ERROR(CheckTiling(header.tensors, data, file_name));
  return header;
}

absl::StatusOr<SafetensorsWriter> SafetensorsWriter::Create(
    std::string path, const std::vector<Entry>& entries, const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t bytes = 0;
  std::set<std::string_view> names;
  for (const Entry& entry : entries) {
    const std::optional<int64_t> elements = ElementCount(entry.shape);
    if (!elements)
      return InvalidArgument("{}: bad shape {}", Where(entry.name, path), fmt::join(entry.shape, ", "));
    if (entry.name == "__metadata__" || !names.insert(entry.name).second) {
      return InvalidArgument("{}: the name is taken", Where(entry.name, path));
    }
    const int64_t end = bytes + *elements * DTypeBytes(entry.dtype);
    auto& row = header[entry.name];
    row["dtype"] = std::string(SafetensorsName(entry.dtype));
    row["shape"] = entry.shape;
    row["data_offsets"] = {bytes, end};
    bytes = end;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');  // The data begin on 8 bytes, as the reference writes them.

  const std::string partial = path + ".partial";
  std::unique_ptr<std::FILE, CloseFile> file(std::fopen(partial.c_str(), "wb"));
  if (file == nullptr) return Unavailable("cannot write {}: {}", partial, std::strerror(errno));
  SafetensorsWriter writer(std::move(path), std::move(file),
                           kLengthBytes + static_cast<int64_t>(text.size()) + bytes);
  const uint64_t length = text.size();
  RETURN_IF_ERROR(writer.append(std::as_bytes(std::span(&length, 1))));
  RETURN_IF_ERROR(writer.append(std::as_bytes(std::span(text))));
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (file_ == nullptr) return;  // Moved from, or finished.
  file_.reset();
  std::remove((path_ + ".partial").c_str());
}

absl::Status SafetensorsWriter::append(std::span<const std::byte> bytes) {
  SHOAL_CHECK_LE(static_cast<int64_t>(bytes.size()), bytes_left_);
  if (std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size()) {
    return ResourceExhausted("cannot write {}: {}", path_, std::strerror(errno));
  }
  bytes_left_ -= static_cast<int64_t>(bytes.size());
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::finish() {
  SHOAL_CHECK_EQ(bytes_left_, 0);
  const std::string partial = path_ + ".partial";
  if (std::fclose(file_.release()) != 0 || std::rename(partial.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    std::remove(partial.c_str());
    return ResourceExhausted("cannot write {}: {}", path_, std::strerror(error));
  }
  return absl::OkStatus();
}

}  // namespace shoal
