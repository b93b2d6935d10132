#include "exec/result_codec.h"

#include <algorithm>
#include <span>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "exec/codec_fields.h"

namespace shoal {
namespace {

// Of a sequence's result.
constexpr uint8_t kLogprobs = 1;

/// Log-probabilities travel only where there are some.
void WriteTokens(PayloadWriter& out, const std::vector<SampledToken>& tokens) {
  const bool logprobs = std::ranges::any_of(
      tokens, [](const SampledToken& token) { return token.logprob != 0 || !token.top.empty(); });
  out.u8(logprobs ? kLogprobs : 0);
  out.u32(static_cast<uint32_t>(tokens.size()));
  for (const SampledToken& token : tokens) {
    out.i32(token.id);
    if (!logprobs) continue;
    out.f32(token.logprob);
    out.u32(static_cast<uint32_t>(token.top.size()));
    for (const TokenLogprob& one : token.top) {
      out.i32(one.id);
      out.f32(one.logprob);
    }
  }
}

absl::StatusOr<std::vector<SampledToken>> ReadTokens(PayloadReader& in) {
  ASSIGN_OR_RETURN(const uint8_t flags, ReadFlags(in, "result.sequence.flags", kLogprobs));
  const bool logprobs = flags != 0;
  ASSIGN_OR_RETURN(const uint32_t count, in.count("result.sequence.tokens", logprobs ? 12 : 4));
  std::vector<SampledToken> tokens(count);
  for (SampledToken& token : tokens) {
    ASSIGN_OR_RETURN(token.id, in.i32("result.sequence.token"));
    if (!logprobs) continue;
    ASSIGN_OR_RETURN(token.logprob, in.f32("result.sequence.logprob"));
    ASSIGN_OR_RETURN(const uint32_t top, in.count("result.sequence.top", 8));
    token.top.resize(top);
    for (TokenLogprob& one : token.top) {
      ASSIGN_OR_RETURN(one.id, in.i32("result.sequence.top.id"));
      ASSIGN_OR_RETURN(one.logprob, in.f32("result.sequence.top.logprob"));
    }
  }
  return tokens;
}

}  // namespace

void WriteStatus(PayloadWriter& out, const absl::Status& status) {
  out.i32(static_cast<int32_t>(status.code()));
  if (!status.ok()) out.string(Message(status));
}

absl::Status ReadStatus(PayloadReader& in, std::string_view field, absl::Status& status) {
  ASSIGN_OR_RETURN(const int32_t code, in.i32(field));
  if (code < 0 || code > 16) return InvalidArgument("{}: expected a code from 0 to 16, got {}", field, code);
  status = absl::OkStatus();
  if (code == 0) return status;
  ASSIGN_OR_RETURN(const std::string text, in.string(field));
  status = absl::Status(static_cast<absl::StatusCode>(code), text);
  return absl::OkStatus();
}

void WriteReport(PayloadWriter& out, const StepReport& report) {
  out.u32(static_cast<uint32_t>(report.failures.size()));
  for (const SeqFailure& failure : report.failures) {
    out.u64(failure.id.value);
    WriteStatus(out, failure.status);
  }
  out.u32(static_cast<uint32_t>(report.timings.size()));
  for (const StageTiming& timing : report.timings) {
    out.i32(timing.node.value);
    out.i64(timing.busy_ns);
    out.i64(timing.expert_wait_ns);
    out.i64(timing.expert_overhead_ns);
    out.i64(timing.kv_saturated);
    out.i64(timing.mask_wait_ns);
  }
  out.u32(static_cast<uint32_t>(report.routing.size()));
  for (const RoutingTrace& trace : report.routing) {
    out.i32(trace.layer.value);
    out.i32(trace.top_k);
    WriteIds(out, trace.ids);
  }
}

absl::StatusOr<StepReport> ReadReport(PayloadReader& in) {
  StepReport report;
  ASSIGN_OR_RETURN(const uint32_t failures, in.count("report.failures", 12));
  report.failures.resize(failures);
  for (SeqFailure& failure : report.failures) {
    ASSIGN_OR_RETURN(failure.id.value, in.u64("report.failure.id"));
    RETURN_IF_ERROR(ReadStatus(in, "report.failure.status", failure.status));
    if (failure.status.ok()) return InvalidArgument("report.failure.status: expected an error, got OK");
  }
  ASSIGN_OR_RETURN(const uint32_t timings, in.count("report.timings", 44));
  report.timings.resize(timings);
  for (StageTiming& timing : report.timings) {
    ASSIGN_OR_RETURN(timing.node.value, in.i32("report.timing.node"));
    ASSIGN_OR_RETURN(timing.busy_ns, in.i64("report.timing.busy_ns"));
    ASSIGN_OR_RETURN(timing.expert_wait_ns, in.i64("report.timing.expert_wait_ns"));
    ASSIGN_OR_RETURN(timing.expert_overhead_ns, in.i64("report.timing.expert_overhead_ns"));
    ASSIGN_OR_RETURN(timing.kv_saturated, in.i64("report.timing.kv_saturated"));
    ASSIGN_OR_RETURN(timing.mask_wait_ns, in.i64("report.timing.mask_wait_ns"));
  }
  ASSIGN_OR_RETURN(const uint32_t traces, in.count("report.routing", 12));
  report.routing.resize(traces);
  for (RoutingTrace& trace : report.routing) {
    ASSIGN_OR_RETURN(trace.layer.value, in.i32("report.routing.layer"));
    ASSIGN_OR_RETURN(trace.top_k, in.i32("report.routing.top_k"));
    ASSIGN_OR_RETURN(trace.ids, ReadIds(in, "report.routing.ids"));
  }
  return report;
}

Frame EncodeResult(Epoch epoch, const StepResult& result) {
  PayloadWriter out;
  out.u32(static_cast<uint32_t>(result.sequences.size()));
  for (const SeqResult& sequence : result.sequences) {
    out.u64(sequence.id.value);
    WriteTokens(out, sequence.tokens);
    WriteStatus(out, sequence.status);
    WriteTokens(out, sequence.scores);
    out.u32(static_cast<uint32_t>(sequence.embedding.size()));
    if (!sequence.embedding.empty()) out.array(std::span<const float>(sequence.embedding));
    WriteIds(out, sequence.drafted);
  }
  WriteReport(out, {{}, result.timings, result.routing});
  out.u64(result.logits.size());
  if (!result.logits.empty()) out.array(std::span<const float>(result.logits));
  Frame frame;
  frame.header.kind = FrameKind::kStepResult;
  frame.header.epoch = epoch;
  frame.header.step = result.id;
  frame.payload = out.finish();
  return frame;
}

absl::StatusOr<StepResult> DecodeResult(const Frame& frame) {
  PayloadReader in(frame.payload);
  StepResult result;
  result.id = frame.header.step;
  ASSIGN_OR_RETURN(const uint32_t sequences, in.count("result.sequences", 30));
  result.sequences.resize(sequences);
  for (SeqResult& sequence : result.sequences) {
    ASSIGN_OR_RETURN(sequence.id.value, in.u64("result.sequence.id"));
    ASSIGN_OR_RETURN(sequence.tokens, ReadTokens(in));
    RETURN_IF_ERROR(ReadStatus(in, "result.sequence.status", sequence.status));
    ASSIGN_OR_RETURN(sequence.scores, ReadTokens(in));
    ASSIGN_OR_RETURN(const uint32_t width, in.count("result.sequence.embedding", sizeof(float)));
    if (width > 0) {
      ASSIGN_OR_RETURN(const std::span<const float> values,
                       in.array<float>("result.sequence.embedding", width));
      sequence.embedding.assign(values.begin(), values.end());
    }
    ASSIGN_OR_RETURN(sequence.drafted, ReadIds(in, "result.sequence.drafted"));
  }
  ASSIGN_OR_RETURN(StepReport report, ReadReport(in));
  result.timings = std::move(report.timings);
  result.routing = std::move(report.routing);
  ASSIGN_OR_RETURN(const uint64_t logits, in.u64("result.logits"));
  if (logits > 0) {
    ASSIGN_OR_RETURN(const std::span<const float> values, in.array<float>("result.logits", logits));
    result.logits.assign(values.begin(), values.end());
  }
  RETURN_IF_ERROR(in.finish("result"));
  return result;
}

Frame EncodeStepError(Epoch epoch, StepId step, LayerId layer, const StepError& error) {
  SHOAL_CHECK(!error.status.ok());
  PayloadWriter out;
  WriteStatus(out, error.status);
  out.i32(error.suspected.value);
  Frame frame;
  frame.header.kind = FrameKind::kStepError;
  frame.header.epoch = epoch;
  frame.header.step = step;
  frame.header.layer = layer;
  frame.payload = out.finish();
  return frame;
}

absl::StatusOr<StepError> DecodeStepError(const Frame& frame) {
  PayloadReader in(frame.payload);
  StepError error;
  RETURN_IF_ERROR(ReadStatus(in, "step_error.status", error.status));
  ASSIGN_OR_RETURN(error.suspected.value, in.i32("step_error.suspected"));
  RETURN_IF_ERROR(in.finish("step_error"));
  if (error.status.ok()) return InvalidArgument("step_error.status: expected an error, got OK");
  return error;
}

}  // namespace shoal
