// What one layer caches of a block of positions, or of a state, as bytes that say what they are: so that they can
// lie on a disk or travel, and are taken in again only where they mean the same.
//
//   offset  bytes
//        0      4  magic "SHKI"
//        4      2  version
//        6      1  1 = a block of positions, 2 = a state
//        7      1  dtype of the values (numeric/dtype.h)
//        8      4  layer
//       12      4  kv_heads      of a block; 0 of a state
//       16      4  head_dim      of a block; 0 of a state
//       20      4  position: tokens up to the end of the block, or behind which the state is
//       24      8  state_values  of a state; of a block the dimensions of its indexer's keys, 0 without
//       32      8  bytes of values
//       40      8  checksum: XXH3-64 of the values, seeded with XXH3-64 of the header with this field zero
//       48     16  identity, low word first
//       64     16  key, low word first
//       80         values as they lie in the cache (kv_cache.h), little-endian
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/ids.h"
#include "kv/block_key.h"
#include "kv/kv_cache.h"

namespace shoal {

inline constexpr uint16_t kImageVersion = 1;  ///< Any change of the layout, or of the cache's, raises it.
inline constexpr int64_t kImageHeaderBytes = 80;

/// Where in a cache it is.
using CachePlace = std::variant<BlockId, SlotId>;
/// The number of the block or slot.
inline int32_t NumberOf(const CachePlace& place) {
  return std::visit([](auto id) { return id.value; }, place);
}

/// What is in it. Equal ids, of one layer, have equal values: all nodes compute the same bits.
struct ImageId {
  BlockKey identity;     ///< CachesKey of the weights and of what else decides the bits.
  BlockKey key;          ///< Of the tokens: BlockKey of the block, or of the last one before the state.
  int32_t position = 0;  ///< Number of those tokens.
  bool operator==(const ImageId&) const = default;
};

/// What a place of a cache holds, whichever cache.
struct CachedPlace {
  CachePlace place;
  BlockKey key;
  int32_t position = 0;  ///< ImageId::position of its images.
  /// The coordinator's number of what entered its index there, which it never gives twice: other tokens may have the
  /// same key by chance, or on purpose. 0: not numbered.
  uint64_t entry = 0;
  bool operator==(const CachedPlace&) const = default;
};
/// More of them nobody names at once: blocks of three million positions.
inline constexpr int kCachedPlacesMax = 100'000;

/// An image whose header and checksum are sound.
struct ImageView {
  LayerId layer;
  bool is_state = false;
  DType dtype = DType::kF16;
  KvLayerShape shape;
  ImageId id;
  std::span<const std::byte> values;  ///< Within the bytes that were parsed.
  int64_t bytes = 0;                  ///< Of the image.
};

/// Reads the image at the beginning of `bytes`; more may follow it. InvalidArgument: not an image, or of another
/// version. DataLoss: it is cut short, or the checksum does not match.
absl::StatusOr<ImageView> ParseImage(std::span<const std::byte> bytes);

/// Appends the image of one layer to `out`. CHECKs that the layer has such a place.
void ExportImage(const KvCache& cache, LayerId layer, const CachePlace& place, const ImageId& id,
                 std::vector<std::byte>& out);

/// Stores the image at the beginning of `bytes`, and returns its size. It must be of this layer, shape, dtype and
/// id: FailedPrecondition names what differs, and nothing is stored. Else as ParseImage. CHECKs as ExportImage.
/// Does not set the position of a state (KvCache::set_state_position).
absl::StatusOr<int64_t> ImportImage(KvCache& cache, LayerId layer, const CachePlace& place, const ImageId& id,
                                    std::span<const std::byte> bytes);

/// Bytes of the images of all layers that have such a place; 0: no layer has.
int64_t ImagesBytes(const KvCache& cache, const CachePlace& place);

/// The images of all layers that have such a place, one behind the other. FailedPrecondition where it is a state
/// and the slot does not hold the one at id.position: then nothing is appended.
absl::Status ExportImages(const KvCache& cache, const CachePlace& place, const ImageId& id,
                          std::vector<std::byte>& out);

/// Stores all of them, and nothing else may be in `images`. On an error, as ImportImage, some layers may hold the
/// new values: the place must not be used before it is written again. A slot then holds no state.
absl::Status ImportImages(KvCache& cache, const CachePlace& place, const ImageId& id,
                          std::span<const std::byte> images);

}  // namespace shoal
