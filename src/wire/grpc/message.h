// Internal to the gRPC transport: frames as gRPC messages, and statuses and times in gRPC's types.
#pragma once

#include <grpc/support/time.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "wire/frame.h"

namespace shoal {

/// The streaming method that carries frames, served without a protobuf message.
inline constexpr char kFramesMethod[] = "/shoal.v1.Wire/Frames";

absl::Status FromGrpc(const grpc::Status& status);
grpc::Status ToGrpc(const absl::Status& status);

/// A deadline for gRPC, counted from now by its own clock.
gpr_timespec After(Duration duration);

/// As gRPC's arguments want a time, rounded up.
int WholeMs(Duration duration);

/// Header and payload as slices of one message. The payload is not copied: its slice keeps the buffer alive.
grpc::ByteBuffer ToByteBuffer(const Frame& frame);

/// The one copy on the receiving side: from gRPC's slices into aligned memory, after the size is found
/// bearable. Errors as DecodeFrame.
absl::StatusOr<Frame> FromByteBuffer(const grpc::ByteBuffer& message, const FrameLimits& limits);

}  // namespace shoal
