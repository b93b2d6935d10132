// Records and images as a damaged disk, or somebody who writes to its folder, could give them.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "kv/block_image.h"
#include "kv/disk_record.h"

namespace shoal {
namespace {

constexpr ImageId kId{.identity = {1, 2}, .key = {3, 4}, .position = 32};
constexpr RecordName kName{.share = {5, 6}, .key = {3, 4}};

std::vector<std::byte> GoodRecord(KvCache& cache) {
  std::vector<int32_t> tokens(32, 7);
  std::vector<std::byte> record = BeginRecord(tokens);
  SHOAL_CHECK(ExportImages(cache, BlockId{0}, kId, record).ok());
  SealRecord(kName, tokens.size(), record);
  return record;
}

void Read(std::span<const std::byte> bytes, KvCache& cache) {
  const auto record = ParseRecord(bytes);
  if (record.ok()) {
    (void)CheckRecord(*record, kName, std::vector<int32_t>(32, 7));
    (void)ImportImages(cache, BlockId{1}, kId, record->images);
  }
  const auto image = ParseImage(bytes);
  if (image.ok()) SHOAL_CHECK_LE(image->bytes, std::ssize(bytes));
  (void)ImportImages(cache, BlockId{1}, kId, bytes);
  (void)ImportImages(cache, SlotId{0}, kId, bytes);
}

}  // namespace
}  // namespace shoal

// The first byte says whether the rest is read as it is, or laid over a good record: 2 bytes of offset, then those
// to be put there. Whatever is not the good record must not be taken for it.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shoal;
  if (size < 3) return 0;
  const auto cache = *KvCache::Create({0, 2}, {{1, 16}, {.state_values = 16}}, DType::kF16, 2, 1);
  const std::span rest(data + 1, size - 1);
  if (data[0] % 2 == 0) {
    std::vector<std::byte> bytes(rest.size());  // Aligned.
    std::memcpy(bytes.data(), rest.data(), rest.size());
    Read(bytes, *cache);
    return 0;
  }
  const std::vector<std::byte> good = GoodRecord(*cache);
  std::vector<std::byte> bytes = good;
  const size_t at = std::min<size_t>(rest[0] + 256u * rest[1], bytes.size());
  const size_t count = std::min(rest.size() - 2, bytes.size() - at);
  if (count > 0) std::memcpy(bytes.data() + at, rest.data() + 2, count);
  if (data[0] % 4 == 3) bytes.resize(at);
  Read(bytes, *cache);
  SHOAL_CHECK_EQ(ParseRecord(bytes).ok(), bytes == good);
  return 0;
}
