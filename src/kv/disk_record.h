// What a disk keeps of one block, or of one state, of all layers of a node: the tokens that lead to it, and the
// images of its layers.
//
//   offset  bytes
//        0      4  magic "SHKD"
//        4      2  version
//        6      2  zero
//        8     16  share, low word first
//       24     16  key, low word first
//       40      8  checksum: XXH3-64 of all that follows, seeded with XXH3-64 of the header with this field zero
//       48      4  number of tokens
//       52      4  zero
//       56      8  bytes of images
//       64         tokens i32, zeros up to a multiple of 32 bytes, images (block_image.h)
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kv/block_key.h"

namespace shoal {

inline constexpr uint16_t kDiskRecordVersion = 1;
inline constexpr int64_t kDiskRecordHeaderBytes = 64;

/// Which record it is.
struct RecordName {
  BlockKey share;  ///< Of what decides the bits beside the tokens, and of the layers.
  BlockKey key;    ///< Of the tokens: BlockKey of a block, StateKey of a state.
  auto operator<=>(const RecordName&) const = default;
};

/// The key of the state behind a block.
constexpr BlockKey StateKey(const BlockKey& block) { return {~block.high, ~block.low}; }

/// The share of a node: ids of images (ImageId::identity), and the layers that it holds.
BlockKey ShareKey(const BlockKey& identity, int64_t layers_begin, int64_t layers_end);

/// A record without images: they are to be appended. `tokens`: all from the first of the sequence on.
std::vector<std::byte> BeginRecord(std::span<const int32_t> tokens);
/// Completes it: header and checksum.
void SealRecord(const RecordName& name, size_t tokens, std::vector<std::byte>& record);

/// A record that is sound.
struct RecordView {
  RecordName name;
  std::span<const int32_t> tokens;
  std::span<const std::byte> images;  ///< Not parsed.
};
/// bytes: all of a record, at a multiple of 4 bytes in memory. InvalidArgument: not a record, or of another version.
/// DataLoss: it is cut short, or longer than it says, or the checksum does not match.
absl::StatusOr<RecordView> ParseRecord(std::span<const std::byte> bytes);

/// That it is the record of this name behind these tokens, all of them. FailedPrecondition says what differs.
absl::Status CheckRecord(const RecordView& record, const RecordName& name, std::span<const int32_t> tokens);

}  // namespace shoal

template <>
struct std::hash<shoal::RecordName> {
  size_t operator()(const shoal::RecordName& name) const { return name.share.low ^ name.key.low; }
};
