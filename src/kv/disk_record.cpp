#include "kv/disk_record.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "base/check.h"
#include "base/status.h"

namespace shoal {
namespace {

static_assert(std::endian::native == std::endian::little, "records are little-endian, and are not swapped");

constexpr uint32_t kMagic = 0x444b4853;  // "SHKD"
constexpr size_t kAlignment = 32;

struct Header {
  uint32_t magic = kMagic;
  uint16_t version = kDiskRecordVersion;
  uint16_t zero = 0;
  uint64_t share_low = 0;
  uint64_t share_high = 0;
  uint64_t key_low = 0;
  uint64_t key_high = 0;
  uint64_t checksum = 0;
  uint32_t tokens = 0;
  uint32_t zero_too = 0;
  uint64_t image_bytes = 0;
};
static_assert(sizeof(Header) == kDiskRecordHeaderBytes && std::has_unique_object_representations_v<Header>);

uint64_t ChecksumOf(Header header, std::span<const std::byte> rest) {
  header.checksum = 0;
  return XXH3_64bits_withSeed(rest.data(), rest.size(), XXH3_64bits(&header, sizeof(header)));
}

size_t ImagesOffset(size_t tokens) {
  return (sizeof(Header) + tokens * sizeof(int32_t) + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

BlockKey ShareKey(const BlockKey& identity, int64_t layers_begin, int64_t layers_end) {
  const std::array<uint64_t, 4> words = {identity.high, identity.low, static_cast<uint64_t>(layers_begin),
                                         static_cast<uint64_t>(layers_end)};
  const XXH128_hash_t hash = XXH3_128bits(words.data(), sizeof(words));
  return {hash.high64, hash.low64};
}

std::vector<std::byte> BeginRecord(std::span<const int32_t> tokens) {
  std::vector<std::byte> record(ImagesOffset(tokens.size()));
  if (!tokens.empty()) std::memcpy(record.data() + sizeof(Header), tokens.data(), tokens.size_bytes());
  return record;
}

void SealRecord(const RecordName& name, size_t tokens, std::vector<std::byte>& record) {
  SHOAL_CHECK_GE(record.size(), ImagesOffset(tokens));
  Header header{.share_low = name.share.low,
                .share_high = name.share.high,
                .key_low = name.key.low,
                .key_high = name.key.high,
                .tokens = static_cast<uint32_t>(tokens),
                .image_bytes = record.size() - ImagesOffset(tokens)};
  header.checksum = ChecksumOf(header, std::span(record).subspan(sizeof(header)));
  std::memcpy(record.data(), &header, sizeof(header));
}

absl::StatusOr<RecordView> ParseRecord(std::span<const std::byte> bytes) {
  if (bytes.size() < sizeof(Header)) {
    return DataLoss("kv record: expected a header of {} bytes, got {}", sizeof(Header), bytes.size());
  }
  Header header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.magic != kMagic)
    return InvalidArgument("kv record: expected magic 'SHKD', got {:08x}", header.magic);
  if (header.version != kDiskRecordVersion) {
    return InvalidArgument("kv record: expected version {}, got {}", kDiskRecordVersion, header.version);
  }
  const size_t offset = ImagesOffset(header.tokens);  // Of 32 bits: no overflow.
  if (offset > bytes.size() || header.image_bytes != bytes.size() - offset) {
    return DataLoss("kv record: expected {} bytes for {} tokens and {} of images, got {}", offset,
                    header.tokens, header.image_bytes, bytes.size());
  }
  if (ChecksumOf(header, bytes.subspan(sizeof(header))) != header.checksum) {
    return DataLoss("kv record: the checksum does not match");
  }
  return RecordView{
      .name = {{header.share_high, header.share_low}, {header.key_high, header.key_low}},
      .tokens = {reinterpret_cast<const int32_t*>(bytes.data() + sizeof(header)), header.tokens},
      .images = bytes.subspan(offset)};
}

absl::Status CheckRecord(const RecordView& record, const RecordName& name, std::span<const int32_t> tokens) {
  if (record.name.share != name.share)
    return FailedPrecondition("kv record: of another model, or of other layers");
  if (record.name.key != name.key) return FailedPrecondition("kv record: of another key");
  if (!std::ranges::equal(record.tokens, tokens)) {
    return FailedPrecondition("kv record: of {} other tokens with the same key", record.tokens.size());
  }
  return absl::OkStatus();
}

}  // namespace shoal
