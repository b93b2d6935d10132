// Payloads of steps, results, errors and expert messages as a hostile peer could send them.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "exec/awaited_reply.h"
#include "exec/kv_report.h"
#include "exec/planned_exchange.h"
#include "exec/stage_runner.h"
#include "exec/step_codec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shoal;
  // The first bytes stand for the header fields that the payload's reader believes.
  if (size < 6) return 0;
  Frame frame;
  const int what = data[0] % 8;
  const auto format = static_cast<RowFormat>(data[1] / 2 % 3);
  frame.header.flags = static_cast<uint8_t>(format);
  frame.header.dtype = data[1] % 2 == 0 ? DType::kF32 : DType::kI8;
  if (format != RowFormat::kExact) frame.header.dtype = format == RowFormat::kF16 ? DType::kF16 : DType::kI8;
  frame.header.rows = data[2];
  frame.header.cols = static_cast<uint32_t>(data[3]) << (data[4] % 8);
  frame.payload = Buffer::copy_of(std::as_bytes(std::span(data + 6, size - 6)));
  if (what == 0) {
    const auto message = DecodeStep(frame, {.format = format});
    if (!message.ok()) return 0;
    const auto finite = [](float value) { return std::isfinite(value); };
    SHOAL_CHECK(format == RowFormat::kExact || std::ranges::all_of(message->rows, finite));
    (void)ValidateStep(message->step, {.context = 64, .vocabulary = 100, .blocks = 8});
    (void)ValidateStep(
        message->step,
        {.context = 64, .vocabulary = 100, .blocks = 8, .state_slots = 4, .short_rope_positions = 40});
    if (frame.header.rows > 0 || frame.header.cols > 0) return 0;  // Rows stand behind padding of any bytes.
    const Frame again = EncodeStep(Epoch{1}, message->step, message->report, {});
    SHOAL_CHECK(std::ranges::equal(again.payload.bytes(), frame.payload.bytes()));  // One step, one encoding.
  } else if (what == 1) {
    (void)DecodeResult(frame);
  } else if (what == 2) {
    (void)DecodeStepError(frame);
    (void)DecodeExpertError(frame);
  } else if (what == 3) {
    ExpertMessage request;
    (void)DecodeExpertRequest(frame, request, format);
  } else if (what == 5) {
    const auto masks = DecodeMasks(frame, 100);
    if (!masks.ok()) return 0;
    SHOAL_CHECK(*DecodeMasks(EncodeMasks(Epoch{1}, StepId{1}, *masks), 100) == *masks);
  } else if (what == 6) {
    const auto report = DecodeKvReport(frame);
    if (!report.ok()) return 0;
    SHOAL_CHECK(*DecodeKvReport(EncodeKvReport(Epoch{1}, *report)) == *report);
  } else if (what == 7) {
    SegmentMessage request;
    (void)DecodeSegmentRequest(frame, request);
    (void)DecodeSegmentReply(frame);
  } else {
    Arena arena;
    std::vector<int64_t> acc(4 * 8);
    const std::vector<int32_t> targets = {0, 3};
    (void)AddExpertReply(frame, targets, arena, MatView<int64_t>(acc.data(), 4, 8), format);
  }
  return 0;
}
