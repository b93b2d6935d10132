// The decoders of bytes that a peer sends. The first byte picks one: a whole frame, a hello, or fields of a
// payload.
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "wire/frame.h"
#include "wire/handshake.h"
#include "wire/payload.h"

namespace shoal {
namespace {

constexpr FrameLimits kLimits{.payload_bytes_max = 1 << 16};

void FuzzFrame(std::span<const std::byte> bytes) {
  const auto frame = DecodeFrame(bytes, kLimits);
  if (!frame.ok()) return;
  const Buffer again = EncodeFrame(*frame);
  SHOAL_CHECK(std::ranges::equal(again.bytes(), bytes));  // One frame, one encoding.
}

void FuzzHello(std::span<const std::byte> bytes) {
  Frame frame;
  frame.header.kind = FrameKind::kHello;
  frame.payload = Buffer::copy_of(bytes);
  const auto hello = ParseHello(frame);
  if (!hello.ok()) return;
  Hello ours = *hello;
  std::swap(ours.from, ours.to);
  SHOAL_CHECK(CheckHellos(ours, *hello).ok());
  frame.header.kind = FrameKind::kHelloAck;
  (void)InitiatorHandshake(ours, std::nullopt).on_ack(frame);
}

/// The first bytes say which fields to read from the rest.
void FuzzFields(std::span<const std::byte> bytes) {
  constexpr size_t kReads = 8;
  if (bytes.size() < kReads) return;
  const Buffer payload = Buffer::copy_of(bytes.subspan(kReads));
  PayloadReader reader(payload);
  uint64_t sum = 0;
  for (const std::byte read : bytes.first(kReads)) {
    switch (static_cast<int>(read) % 6) {
      case 0:
        sum += reader.u8("a").ok();
        break;
      case 1:
        sum += reader.u64("b").ok();
        break;
      case 2:
        if (const auto text = reader.string("c"); text.ok()) sum += text->size();
        break;
      case 3:
        if (const auto count = reader.count("d", 4); count.ok()) {
          if (const auto values = reader.array<float>("e", *count); values.ok()) sum += values->size();
        }
        break;
      case 4:
        if (const auto count = reader.u64("f"); count.ok()) {
          if (const auto values = reader.array<double>("g", *count); values.ok()) {
            for (const double value : *values) sum += value > 0;
          }
        }
        break;
      default:
        sum += reader.finish("h").ok();
        break;
    }
    SHOAL_CHECK_LE(reader.remaining(), payload.size());
  }
  SHOAL_CHECK_LE(sum, uint64_t{8} * (payload.size() + 1));
}

}  // namespace
}  // namespace shoal

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto bytes = std::as_bytes(std::span(data, size)).subspan(1);
  switch (data[0] % 3) {
    case 0:
      shoal::FuzzFrame(bytes);
      break;
    case 1:
      shoal::FuzzHello(bytes);
      break;
    default:
      shoal::FuzzFields(bytes);
      break;
  }
  return 0;
}
