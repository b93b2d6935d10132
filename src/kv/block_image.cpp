#include "kv/block_image.h"

#include <xxhash.h>

#include <bit>
#include <cstring>

#include "base/check.h"
#include "base/status.h"
#include "numeric/cache_shape.h"

namespace shoal {
namespace {

static_assert(std::endian::native == std::endian::little, "images are little-endian, and are not swapped");

constexpr uint32_t kMagic = 0x494b4853;  // "SHKI"

enum class ImageKind : uint8_t { kBlock = 1, kState = 2 };

struct Header {
  uint32_t magic = kMagic;
  uint16_t version = kImageVersion;
  ImageKind kind = ImageKind::kBlock;
  uint8_t dtype = 0;
  int32_t layer = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t position = 0;
  int64_t beside = 0;  // Of a state its state_values, of a block its index_dim.
  uint64_t value_bytes = 0;
  uint64_t checksum = 0;
  uint64_t identity_low = 0;
  uint64_t identity_high = 0;
  uint64_t key_low = 0;
  uint64_t key_high = 0;
};
static_assert(sizeof(Header) == kImageHeaderBytes && std::has_unique_object_representations_v<Header>);

uint64_t ChecksumOf(Header header, std::span<const std::byte> values) {
  header.checksum = 0;
  return XXH3_64bits_withSeed(values.data(), values.size(), XXH3_64bits(&header, sizeof(header)));
}

bool IsState(const CachePlace& place) { return std::holds_alternative<SlotId>(place); }

/// Of the values of one layer.
size_t BytesAt(const KvCache& cache, LayerId layer, const CachePlace& place) {
  return static_cast<size_t>(IsState(place) ? cache.slot_bytes(layer) : cache.block_bytes(layer));
}

/// The values of one layer.
std::span<std::byte> ValuesAt(const KvCache& cache, LayerId layer, const CachePlace& place) {
  const size_t bytes = BytesAt(cache, layer, place);
  if (IsState(place)) {
    return {reinterpret_cast<std::byte*>(cache.state(layer, std::get<SlotId>(place))), bytes};
  }
  return {cache.keys(layer, std::get<BlockId>(place)), bytes};
}

/// What the header of an image of this place is, but for the checksum.
Header HeaderOf(const KvCache& cache, LayerId layer, const CachePlace& place, const ImageId& id) {
  const KvLayerShape& shape = cache.shape(layer);
  const bool state = IsState(place);
  return {.kind = state ? ImageKind::kState : ImageKind::kBlock,
          .dtype = static_cast<uint8_t>(state ? DType::kF32 : cache.dtype()),
          .layer = layer.value,
          .kv_heads = state ? 0 : shape.kv_heads,
          .head_dim = state ? 0 : shape.head_dim,
          .position = id.position,
          .beside = state ? shape.state_values : shape.index_dim,
          .value_bytes = BytesAt(cache, layer, place),
          .identity_low = id.identity.low,
          .identity_high = id.identity.high,
          .key_low = id.key.low,
          .key_high = id.key.high};
}

absl::Status Differs(std::string_view what, const auto& expected, const auto& got) {
  return FailedPrecondition("cache image: {}: expected {}, got {}", what, expected, got);
}

std::string Text(const BlockKey& key) { return fmt::format("{:016x}{:016x}", key.high, key.low); }

/// CHECKs nothing: a header from outside may say anything.
KvLayerShape ShapeIn(const Header& header) {
  const bool state = header.kind == ImageKind::kState;
  return {.kv_heads = header.kv_heads,
          .head_dim = header.head_dim,
          .state_values = state ? header.beside : 0,
          .index_dim = state ? 0 : static_cast<int>(header.beside)};
}

std::string ShapeText(const KvLayerShape& shape, uint64_t bytes) {
  return fmt::format("{} heads of {}, {} of an indexer, {} state values, {} bytes", shape.kv_heads,
                     shape.head_dim, shape.index_dim, shape.state_values, bytes);
}

absl::Status CheckSame(const Header& expected, const ImageView& view) {
  const KvLayerShape shape = ShapeIn(expected);
  if (view.layer.value != expected.layer) return Differs("layer", expected.layer, view.layer);
  if (view.is_state != (expected.kind == ImageKind::kState)) {
    return Differs("kind", view.is_state ? "a block" : "a state", view.is_state ? "a state" : "a block");
  }
  if (static_cast<uint8_t>(view.dtype) != expected.dtype) {
    return Differs("dtype", DTypeName(static_cast<DType>(expected.dtype)), DTypeName(view.dtype));
  }
  if (!(view.shape == shape) || view.values.size() != expected.value_bytes) {
    return Differs("shape", ShapeText(shape, expected.value_bytes),
                   ShapeText(view.shape, view.values.size()));
  }
  const BlockKey identity{expected.identity_high, expected.identity_low};
  if (view.id.identity != identity) {
    return Differs("model, numerics class or activations", Text(identity), Text(view.id.identity));
  }
  const BlockKey key{expected.key_high, expected.key_low};
  if (view.id.key != key) return Differs("key of the tokens", Text(key), Text(view.id.key));
  if (view.id.position != expected.position) return Differs("position", expected.position, view.id.position);
  return absl::OkStatus();
}

bool HasPlace(const KvCache& cache, LayerId layer, const CachePlace& place) {
  return IsState(place) ? cache.shape(layer).has_states() : cache.shape(layer).has_blocks();
}

}  // namespace

absl::StatusOr<ImageView> ParseImage(std::span<const std::byte> bytes) {
  if (bytes.size() < sizeof(Header)) {
    return DataLoss("cache image: expected a header of {} bytes, got {}", sizeof(Header), bytes.size());
  }
  Header header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.magic != kMagic)
    return InvalidArgument("cache image: expected magic 'SHKI', got {:08x}", header.magic);
  if (header.version != kImageVersion) {
    return InvalidArgument("cache image: expected version {}, got {}", kImageVersion, header.version);
  }
  const bool state = header.kind == ImageKind::kState;
  if (!state && header.kind != ImageKind::kBlock) {
    return InvalidArgument("cache image: expected kind 1 or 2, got {}", static_cast<int>(header.kind));
  }
  if (header.value_bytes > bytes.size() - sizeof(Header)) {
    return DataLoss("cache image: expected {} bytes of values, got {}", header.value_bytes,
                    bytes.size() - sizeof(Header));
  }
  const auto values = bytes.subspan(sizeof(Header), header.value_bytes);
  if (ChecksumOf(header, values) != header.checksum) {
    return DataLoss("cache image: the checksum of layer {} does not match", header.layer);
  }
  if (header.dtype > static_cast<uint8_t>(DType::kF64))
    return InvalidArgument("cache image: unknown dtype {}", header.dtype);
  return ImageView{
      .layer = LayerId{header.layer},
      .is_state = state,
      .dtype = static_cast<DType>(header.dtype),
      .shape = ShapeIn(header),
      .id = {{header.identity_high, header.identity_low}, {header.key_high, header.key_low}, header.position},
      .values = values,
      .bytes = static_cast<int64_t>(sizeof(Header) + values.size())};
}

void ExportImage(const KvCache& cache, LayerId layer, const CachePlace& place, const ImageId& id,
                 std::vector<std::byte>& out) {
  const std::span<const std::byte> values = ValuesAt(cache, layer, place);
  Header header = HeaderOf(cache, layer, place, id);
  header.checksum = ChecksumOf(header, values);
  const size_t begin = out.size();
  out.resize(begin + sizeof(header) + values.size());
  std::memcpy(out.data() + begin, &header, sizeof(header));
  std::memcpy(out.data() + begin + sizeof(header), values.data(), values.size());
}

absl::StatusOr<int64_t> ImportImage(KvCache& cache, LayerId layer, const CachePlace& place, const ImageId& id,
                                    std::span<const std::byte> bytes) {
  const std::span<std::byte> values = ValuesAt(cache, layer, place);
  ASSIGN_OR_RETURN(const ImageView view, ParseImage(bytes));
  RETURN_IF_ERROR(CheckSame(HeaderOf(cache, layer, place, id), view));
  std::memcpy(values.data(), view.values.data(), values.size());
  return view.bytes;
}

int64_t ImagesBytes(const KvCache& cache, const CachePlace& place) {
  int64_t bytes = 0;
  for (int64_t i = cache.layers().begin; i < cache.layers().end; ++i) {
    const LayerId layer{static_cast<int32_t>(i)};
    if (HasPlace(cache, layer, place)) {
      bytes += kImageHeaderBytes + static_cast<int64_t>(BytesAt(cache, layer, place));
    }
  }
  return bytes;
}

absl::Status ExportImages(const KvCache& cache, const CachePlace& place, const ImageId& id,
                          std::vector<std::byte>& out) {
  if (IsState(place) && cache.state_position(std::get<SlotId>(place)) != id.position) {
    return FailedPrecondition("cache image: slot {} holds the state behind {} tokens, expected {}",
                              std::get<SlotId>(place), cache.state_position(std::get<SlotId>(place)),
                              id.position);
  }
  out.reserve(out.size() + static_cast<size_t>(ImagesBytes(cache, place)));
  for (int64_t i = cache.layers().begin; i < cache.layers().end; ++i) {
    const LayerId layer{static_cast<int32_t>(i)};
    if (HasPlace(cache, layer, place)) ExportImage(cache, layer, place, id, out);
  }
  return absl::OkStatus();
}

absl::Status ImportImages(KvCache& cache, const CachePlace& place, const ImageId& id,
                          std::span<const std::byte> images) {
  if (IsState(place)) cache.set_state_position(std::get<SlotId>(place), -1);
  for (int64_t i = cache.layers().begin; i < cache.layers().end; ++i) {
    const LayerId layer{static_cast<int32_t>(i)};
    if (!HasPlace(cache, layer, place)) continue;
    ASSIGN_OR_RETURN(const int64_t bytes, ImportImage(cache, layer, place, id, images));
    images = images.subspan(static_cast<size_t>(bytes));
  }
  if (!images.empty()) {
    return InvalidArgument("cache image: {} bytes are left behind the last layer, [{}, {}) are held",
                           images.size(), cache.layers().begin, cache.layers().end);
  }
  if (IsState(place)) cache.set_state_position(std::get<SlotId>(place), id.position);
  return absl::OkStatus();
}

}  // namespace shoal
