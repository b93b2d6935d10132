// What travels between nodes: a fixed 64-byte little-endian header, then the payload. docs/wire.md has the
// table.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/ids.h"
#include "numeric/dtype.h"
#include "wire/buffer.h"

namespace shoal {

inline constexpr uint32_t kFrameMagic = 0x304c4853;  ///< "SHL0" as bytes on the wire.
inline constexpr uint16_t kWireVersion = 8;          ///< Any change of the header or of a payload raises it.
inline constexpr size_t kFrameHeaderBytes = 64;

/// What a frame is. The wire knows 1..15 (a stream's handshake); exec owns the rest, and an unknown kind is
/// passed on for its consumer to refuse. 0 is never sent.
enum class FrameKind : uint8_t {
  kHello = 1,       ///< Initiator's identity and nonce.
  kHelloAck = 2,    ///< Responder's identity, nonce and proof.
  kHelloProof = 3,  ///< Initiator's proof.
  kReady = 4,       ///< Frames may follow.
  kStep = 16,       ///< Step header with rows: coordinator -> stage 0 -> stage 1 ...
  kStepResult = 17,
  kStepError = 18,
  kExpertRequest = 19,  ///< Rows for the experts of one owner, one per (layer, owner).
  kExpertReply = 20,
  kExpertError = 21,
  kPosition = 22,
  kMasks = 23,  ///< Which tokens a step may sample: coordinator -> the node that samples.
  kKvDisk =
      24,  ///< What a node keeps on disk, and what it restored -> coordinator; with flag 1 the question.
  kSegmentRequest = 25,  ///< Rows for the segments of one holder: two for each (layer, holder).
  kSegmentReply = 26,
  kSegmentError = 27,
};

/// "step", "expert_request", ...; "kind_<n>" is written by FrameKindText for those without a name ("" here).
std::string_view FrameKindName(FrameKind kind);
std::string FrameKindText(FrameKind kind);

/// The key of a frame is {epoch, step, layer, kind}; rows, cols and dtype describe the bulk part of the
/// payload.
struct FrameHeader {
  FrameKind kind = FrameKind::kStep;
  uint8_t flags = 0;          ///< Meaning depends on the kind.
  DType dtype = DType::kF32;  ///< Of the rows.
  NodeId sender;              ///< Set by Transport::send.
  Epoch epoch;
  LayerId layer{-1};  ///< -1 where the kind has no layer.
  StepId step;
  uint32_t rows = 0;
  uint32_t cols = 0;
  uint64_t length = 0;  ///< Payload bytes. Set by EncodeHeader from the payload.

  bool operator==(const FrameHeader&) const = default;
};

struct Frame {
  FrameHeader header;
  Buffer payload;
};

/// "step epoch 3 step 17 layer -1 from node 2, 4096 B", for messages.
std::string Describe(const FrameHeader& header);

/// Bounds that a receiver checks before it allocates.
struct FrameLimits {
  uint64_t payload_bytes_max = uint64_t{256} << 20;
};

/// The header as it travels: length and checksum (XXH3 over header and payload) are computed from `payload`.
std::array<std::byte, kFrameHeaderBytes> EncodeHeader(FrameHeader header, std::span<const std::byte> payload);

/// Header and payload in one freshly allocated block.
Buffer EncodeFrame(const Frame& frame);

/// Parses and checks the first kFrameHeaderBytes of `bytes`. Nothing is allocated.
/// InvalidArgument: too short, wrong magic or version, kind 0, unknown dtype, reserved bytes set, rows that
/// do not fit the length. ResourceExhausted: length above the limit. Each says expected and got.
absl::StatusOr<FrameHeader> DecodeHeader(std::span<const std::byte> bytes, const FrameLimits& limits);

/// Decodes exactly one frame; the payload is a copy, aligned to kWireAlignment.
/// As DecodeHeader, and InvalidArgument where bytes are missing or left over, DataLoss on a wrong checksum.
absl::StatusOr<Frame> DecodeFrame(std::span<const std::byte> bytes, const FrameLimits& limits);

/// As DecodeFrame, without a copy: `block` holds header and payload, and the payload keeps it alive.
absl::StatusOr<Frame> DecodeFrameInPlace(const Buffer& block, const FrameLimits& limits);

}  // namespace shoal
