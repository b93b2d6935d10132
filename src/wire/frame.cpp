#include "wire/frame.h"

#include <cstring>

#include "base/check.h"
#include "base/status.h"
#define XXH_INLINE_ALL
#include <xxhash.h>

namespace shoal {
namespace {

// Offsets of the fields; docs/wire.md repeats them as a table. Bytes 9..11 and 48..55 are zero.
enum Offset : size_t {
  kMagicAt = 0,
  kVersionAt = 4,
  kKindAt = 6,
  kFlagsAt = 7,
  kDTypeAt = 8,
  kReservedAAt = 9,
  kSenderAt = 12,
  kEpochAt = 16,
  kLayerAt = 20,
  kStepAt = 24,
  kRowsAt = 32,
  kColsAt = 36,
  kLengthAt = 40,
  kReservedBAt = 48,
  kChecksumAt = 56,
};

template <typename T>
void Put(std::span<std::byte> target, size_t at, T value) {
  std::memcpy(target.data() + at, &value, sizeof(T));
}

template <typename T>
T Get(std::span<const std::byte> source, size_t at) {
  T value;
  std::memcpy(&value, source.data() + at, sizeof(T));
  return value;
}

// XXH3-64 of the payload, seeded with XXH3-64 of the header before its checksum: one number guards both, at
// memory speed.
uint64_t Checksum(std::span<const std::byte> header, std::span<const std::byte> payload) {
  const uint64_t seed = XXH3_64bits(header.data(), kChecksumAt);
  return XXH3_64bits_withSeed(payload.data(), payload.size(), seed);
}

absl::Status CheckFixedFields(std::span<const std::byte> bytes) {
  const auto magic = Get<uint32_t>(bytes, kMagicAt);
  if (magic != kFrameMagic) {
    return InvalidArgument("frame: expected magic {:#010x}, got {:#010x}: not a shoal node", kFrameMagic,
                           magic);
  }
  const auto version = Get<uint16_t>(bytes, kVersionAt);
  if (version != kWireVersion) {
    return FailedPrecondition(
        "frame: this node speaks wire version {}, the peer {}: run one release on all nodes", kWireVersion,
        version);
  }
  if (Get<uint8_t>(bytes, kKindAt) == 0) return InvalidArgument("frame: kind 0 is never sent");
  const auto dtype = Get<uint8_t>(bytes, kDTypeAt);
  if (dtype > static_cast<uint8_t>(DType::kF64)) {
    return InvalidArgument("frame: dtype {} is unknown, expected 0 to {}", dtype,
                           static_cast<int>(DType::kF64));
  }
  if (Get<uint8_t>(bytes, kReservedAAt) != 0 || Get<uint16_t>(bytes, kReservedAAt + 1) != 0 ||
      Get<uint64_t>(bytes, kReservedBAt) != 0) {
    return InvalidArgument("frame: reserved header bytes are not zero");
  }
  return absl::OkStatus();
}

absl::Status CheckRows(const FrameHeader& header) {
  const uint64_t elements = uint64_t{header.rows} * header.cols;
  if (elements > header.length / static_cast<uint64_t>(DTypeBytes(header.dtype))) {
    return InvalidArgument("frame: {} x {} rows of {} do not fit a payload of {} bytes", header.rows,
                           header.cols, DTypeName(header.dtype), header.length);
  }
  return absl::OkStatus();
}

}  // namespace

std::string_view FrameKindName(FrameKind kind) {
  switch (kind) {
    case FrameKind::kHello:
      return "hello";
    case FrameKind::kHelloAck:
      return "hello_ack";
    case FrameKind::kHelloProof:
      return "hello_proof";
    case FrameKind::kReady:
      return "ready";
    case FrameKind::kStep:
      return "step";
    case FrameKind::kStepResult:
      return "step_result";
    case FrameKind::kStepError:
      return "step_error";
    case FrameKind::kExpertRequest:
      return "expert_request";
    case FrameKind::kExpertReply:
      return "expert_reply";
    case FrameKind::kExpertError:
      return "expert_error";
    case FrameKind::kPosition:
      return "position";
    case FrameKind::kMasks:
      return "masks";
    case FrameKind::kKvDisk:
      return "kv_disk";
    case FrameKind::kSegmentRequest:
      return "segment_request";
    case FrameKind::kSegmentReply:
      return "segment_reply";
    case FrameKind::kSegmentError:
      return "segment_error";
  }
  return "";
}

std::string FrameKindText(FrameKind kind) {
  const auto name = FrameKindName(kind);
  return name.empty() ? fmt::format("kind_{}", static_cast<int>(kind)) : std::string(name);
}

std::string Describe(const FrameHeader& header) {
  return fmt::format("{} epoch {} step {} layer {} from node {}, {} B", FrameKindText(header.kind),
                     header.epoch, header.step, header.layer, header.sender, header.length);
}

std::array<std::byte, kFrameHeaderBytes> EncodeHeader(FrameHeader header,
                                                      std::span<const std::byte> payload) {
  std::array<std::byte, kFrameHeaderBytes> bytes{};
  Put(bytes, kMagicAt, kFrameMagic);
  Put(bytes, kVersionAt, kWireVersion);
  Put(bytes, kKindAt, static_cast<uint8_t>(header.kind));
  Put(bytes, kFlagsAt, header.flags);
  Put(bytes, kDTypeAt, static_cast<uint8_t>(header.dtype));
  Put(bytes, kSenderAt, header.sender.value);
  Put(bytes, kEpochAt, header.epoch.value);
  Put(bytes, kLayerAt, header.layer.value);
  Put(bytes, kStepAt, header.step.value);
  Put(bytes, kRowsAt, header.rows);
  Put(bytes, kColsAt, header.cols);
  Put(bytes, kLengthAt, uint64_t{payload.size()});
  Put(bytes, kChecksumAt, Checksum(bytes, payload));
  return bytes;
}

Buffer EncodeFrame(const Frame& frame) {
  const auto payload = frame.payload.bytes();
  const size_t total = kFrameHeaderBytes + payload.size();
  auto block = AllocateWireBytes(total);
  const auto header = EncodeHeader(frame.header, payload);
  std::memcpy(block.get(), header.data(), header.size());
  if (!payload.empty()) std::memcpy(block.get() + kFrameHeaderBytes, payload.data(), payload.size());
  const std::span<const std::byte> view(block.get(), total);
  return {std::move(block), view};
}

absl::StatusOr<FrameHeader> DecodeHeader(std::span<const std::byte> bytes, const FrameLimits& limits) {
  if (bytes.size() < kFrameHeaderBytes) {
    return InvalidArgument("frame: expected a header of {} bytes, got {}", kFrameHeaderBytes, bytes.size());
  }
  RETURN_IF_ERROR(CheckFixedFields(bytes));
  FrameHeader header;
  header.kind = static_cast<FrameKind>(Get<uint8_t>(bytes, kKindAt));
  header.flags = Get<uint8_t>(bytes, kFlagsAt);
  header.dtype = static_cast<DType>(Get<uint8_t>(bytes, kDTypeAt));
  header.sender = NodeId{Get<int32_t>(bytes, kSenderAt)};
  header.epoch = Epoch{Get<uint32_t>(bytes, kEpochAt)};
  header.layer = LayerId{Get<int32_t>(bytes, kLayerAt)};
  header.step = StepId{Get<uint64_t>(bytes, kStepAt)};
  header.rows = Get<uint32_t>(bytes, kRowsAt);
  header.cols = Get<uint32_t>(bytes, kColsAt);
  header.length = Get<uint64_t>(bytes, kLengthAt);
  if (header.length > limits.payload_bytes_max) {
    return ResourceExhausted("frame: a payload of {} bytes is above the limit of {}", header.length,
                             limits.payload_bytes_max);
  }
  RETURN_IF_ERROR(CheckRows(header));
  return header;
}

absl::StatusOr<Frame> DecodeFrameInPlace(const Buffer& block, const FrameLimits& limits) {
  const auto bytes = block.bytes();
  SHOAL_CHECK_EQ(reinterpret_cast<uintptr_t>(bytes.data()) % kWireAlignment, size_t{0});
  ASSIGN_OR_RETURN(const FrameHeader header, DecodeHeader(bytes, limits));
  const auto payload = bytes.subspan(kFrameHeaderBytes);
  if (payload.size() != header.length) {
    return InvalidArgument("frame: the header says {} payload bytes, {} came", header.length, payload.size());
  }
  const auto expected = Get<uint64_t>(bytes, kChecksumAt);
  const uint64_t got = Checksum(bytes, payload);
  if (got != expected) {
    return DataLoss("frame: {} is corrupted: its checksum says {:016x}, its bytes give {:016x}",
                    Describe(header), expected, got);
  }
  return Frame{header, block.slice(kFrameHeaderBytes)};
}

absl::StatusOr<Frame> DecodeFrame(std::span<const std::byte> bytes, const FrameLimits& limits) {
  // The header bounds the copy, before it is made.
  ASSIGN_OR_RETURN(const FrameHeader header, DecodeHeader(bytes, limits));
  if (bytes.size() - kFrameHeaderBytes != header.length) {
    return InvalidArgument("frame: the header says {} payload bytes, {} came", header.length,
                           bytes.size() - kFrameHeaderBytes);
  }
  return DecodeFrameInPlace(Buffer::copy_of(bytes), limits);
}

}  // namespace shoal
