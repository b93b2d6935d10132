// What another node sends of weights, as any bytes: the first byte picks the message. A skeleton that is sound is sent
// again as it came.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "base/status.h"
#include "cluster/chunk_source.h"
#include "cluster/control_weights_wire.h"
#include "loading/fetched_models.h"

namespace shoal {
namespace {

void CheckParts(const v1::SkeletonPart& part) {
  ModelSkeleton skeleton;
  if (!AddPart(part, skeleton).ok() || !CheckSkeleton(skeleton).ok()) return;
  for (const ModelSkeleton::File& file : skeleton.files) {
    SHOAL_CHECK(file.name.find('/') == std::string::npos && file.name.front() != '.' && file.bytes > 0);
  }
  ModelSkeleton again;
  for (const v1::SkeletonPart& one : SkeletonParts(skeleton)) SHOAL_CHECK(AddPart(one, again).ok());
  SHOAL_CHECK(again.files == skeleton.files && again.bytes() == skeleton.bytes());
}

void CheckChunks(const v1::ChunksRequest& request) {
  const auto chunks = ReadChunks(request);
  if (!chunks.ok()) {
    SHOAL_CHECK(absl::IsInvalidArgument(chunks.status()));
    return;
  }
  int64_t bytes = 0;
  for (const TensorChunk& chunk : *chunks) bytes += chunk.bytes;
  SHOAL_CHECK(bytes <= kRequestBytesMax && std::ssize(*chunks) <= kRequestChunksMax);
}

void CheckRecord(std::string_view text) {
  const auto record = ParseFetchedRecord(text, "record");
  if (!record.ok()) return;
  const auto again = ParseFetchedRecord(FetchedRecordText(*record), "record");
  SHOAL_CHECK(again.ok() && again->files.size() == record->files.size());
}

template <typename Proto, typename Check>
void Parsed(const uint8_t* data, size_t size, Check check) {
  Proto message;
  if (message.ParseFromArray(data, static_cast<int>(size))) check(message);
}

}  // namespace
}  // namespace shoal

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shoal;
  if (size == 0) return 0;
  const uint8_t* rest = data + 1;
  --size;
  switch (data[0] % 4) {
    case 0:
      Parsed<v1::SkeletonPart>(rest, size, CheckParts);
      break;
    case 1:
      Parsed<v1::ChunksRequest>(rest, size, CheckChunks);
      break;
    case 2:
      Parsed<v1::HashesReply>(rest, size, [](const v1::HashesReply& reply) { (void)ReadHashes(reply, 3); });
      break;
    default:
      CheckRecord({reinterpret_cast<const char*>(rest), size});
  }
  return 0;
}
