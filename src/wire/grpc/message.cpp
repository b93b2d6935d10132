#include "wire/grpc/message.h"

#include <cstring>
#include <utility>
#include <vector>

#include "base/status.h"

namespace shoal {

absl::Status FromGrpc(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

grpc::Status ToGrpc(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), Message(status));
}

gpr_timespec After(Duration duration) { return gpr_time_from_nanos(duration.count(), GPR_TIMESPAN); }

int WholeMs(Duration duration) {
  return static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(duration).count());
}

grpc::ByteBuffer ToByteBuffer(const Frame& frame) {
  const auto header = EncodeHeader(frame.header, frame.payload.bytes());
  grpc::Slice slices[2] = {grpc::Slice(header.data(), header.size())};
  if (frame.payload.empty()) return {slices, 1};
  auto* keep = new Buffer(frame.payload);
  slices[1] = grpc::Slice(
      const_cast<std::byte*>(keep->data()), keep->size(), [](void* p) { delete static_cast<Buffer*>(p); },
      keep);
  return {slices, 2};
}

absl::StatusOr<Frame> FromByteBuffer(const grpc::ByteBuffer& message, const FrameLimits& limits) {
  const size_t total = message.Length();
  if (total > kFrameHeaderBytes && total - kFrameHeaderBytes > limits.payload_bytes_max) {
    return ResourceExhausted("frame: a payload of {} bytes is above the limit of {}",
                             total - kFrameHeaderBytes, limits.payload_bytes_max);
  }
  std::vector<grpc::Slice> slices;
  const grpc::Status dumped = message.Dump(&slices);
  if (!dumped.ok()) return Annotate(FromGrpc(dumped), "frame");
  auto block = AllocateWireBytes(total);
  size_t at = 0;
  for (const grpc::Slice& slice : slices) {
    std::memcpy(block.get() + at, slice.begin(), slice.size());
    at += slice.size();
  }
  const std::span<const std::byte> view(block.get(), total);
  return DecodeFrameInPlace(Buffer(std::move(block), view), limits);
}

}  // namespace shoal
