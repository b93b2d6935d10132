#include "exec/step_codec.h"

#include <algorithm>
#include <bit>
#include <span>
#include <string>
#include <utility>
#include <variant>

#include "base/check.h"
#include "base/status.h"
#include "exec/codec_fields.h"
#include "numeric/dtype.h"
#include "wire/row_codec.h"

namespace shoal {
namespace {

constexpr uint8_t kWantLogits = 1;
constexpr uint8_t kWantRouting = 2;

// Of a slice.
constexpr uint8_t kLongRope = 1;
constexpr uint8_t kMasked = 2;
constexpr uint8_t kDraft = 4;

// Of a place of a cache.
constexpr uint8_t kState = 1;

/// How a mask travels.
enum class MaskForm : uint8_t {
  kWords = 0,
  kAllowed = 1,    // The ids whose bits are set,
  kForbidden = 2,  // and those whose bits are not.
};

void WriteBlocks(PayloadWriter& out, const std::vector<BlockId>& blocks) {
  out.u32(static_cast<uint32_t>(blocks.size()));
  for (const BlockId block : blocks) out.i32(block.value);
}

absl::StatusOr<std::vector<BlockId>> ReadBlocks(PayloadReader& in, std::string_view field) {
  ASSIGN_OR_RETURN(const uint32_t count, in.count(field, sizeof(int32_t)));
  std::vector<BlockId> blocks(count);
  for (BlockId& block : blocks) {
    ASSIGN_OR_RETURN(block.value, in.i32(field));
  }
  return blocks;
}

void WriteStates(PayloadWriter& out, const std::vector<StateWrite>& states) {
  out.u32(static_cast<uint32_t>(states.size()));
  for (const StateWrite& write : states) {
    out.i32(write.position);
    out.i32(write.slot.value);
  }
}

absl::StatusOr<std::vector<StateWrite>> ReadStates(PayloadReader& in, std::string_view field) {
  ASSIGN_OR_RETURN(const uint32_t count, in.count(field, 8));
  std::vector<StateWrite> states(count);
  for (StateWrite& write : states) {
    ASSIGN_OR_RETURN(write.position, in.i32(field));
    ASSIGN_OR_RETURN(write.slot.value, in.i32(field));
  }
  return states;
}

void WriteSampling(PayloadWriter& out, const SamplingParams& p) {
  out.f32(p.temperature);
  out.i32(p.top_k);
  out.f32(p.top_p);
  out.f32(p.min_p);
  out.f32(p.repetition_penalty);
  out.f32(p.presence_penalty);
  out.f32(p.frequency_penalty);
  out.u64(p.seed);
  out.u32(p.choice);
  out.u32(static_cast<uint32_t>(p.logit_bias.size()));
  for (const auto& [id, bias] : p.logit_bias) {
    out.i32(id);
    out.f32(bias);
  }
  out.i32(p.top_logprobs);
}

absl::StatusOr<SamplingParams> ReadSampling(PayloadReader& in) {
  SamplingParams p;
  ASSIGN_OR_RETURN(p.temperature, in.f32("sampling.temperature"));
  ASSIGN_OR_RETURN(p.top_k, in.i32("sampling.top_k"));
  ASSIGN_OR_RETURN(p.top_p, in.f32("sampling.top_p"));
  ASSIGN_OR_RETURN(p.min_p, in.f32("sampling.min_p"));
  ASSIGN_OR_RETURN(p.repetition_penalty, in.f32("sampling.repetition_penalty"));
  ASSIGN_OR_RETURN(p.presence_penalty, in.f32("sampling.presence_penalty"));
  ASSIGN_OR_RETURN(p.frequency_penalty, in.f32("sampling.frequency_penalty"));
  ASSIGN_OR_RETURN(p.seed, in.u64("sampling.seed"));
  ASSIGN_OR_RETURN(p.choice, in.u32("sampling.choice"));
  ASSIGN_OR_RETURN(const uint32_t biases, in.count("sampling.logit_bias", 8));
  p.logit_bias.resize(biases);
  for (auto& [id, bias] : p.logit_bias) {
    ASSIGN_OR_RETURN(id, in.i32("sampling.logit_bias.id"));
    ASSIGN_OR_RETURN(bias, in.f32("sampling.logit_bias.value"));
  }
  ASSIGN_OR_RETURN(p.top_logprobs, in.i32("sampling.top_logprobs"));
  return p;
}

void WriteRuns(PayloadWriter& out, const std::vector<StoredRun>& runs) {
  out.u32(static_cast<uint32_t>(runs.size()));
  for (const StoredRun& run : runs) {
    out.u64(run.id.value);
    out.u64(run.root.high);
    out.u64(run.root.low);
    WriteIds(out, run.tokens);
    WriteBlocks(out, run.blocks);
    WriteStates(out, run.states);
  }
}

absl::StatusOr<std::vector<StoredRun>> ReadRuns(PayloadReader& in, std::string_view field) {
  ASSIGN_OR_RETURN(const uint32_t count, in.count(field, 36));
  std::vector<StoredRun> runs(count);
  for (StoredRun& run : runs) {
    ASSIGN_OR_RETURN(run.id.value, in.u64(field));
    ASSIGN_OR_RETURN(run.root.high, in.u64(field));
    ASSIGN_OR_RETURN(run.root.low, in.u64(field));
    ASSIGN_OR_RETURN(run.tokens, ReadIds(in, field));
    ASSIGN_OR_RETURN(run.blocks, ReadBlocks(in, field));
    ASSIGN_OR_RETURN(run.states, ReadStates(in, field));
  }
  return runs;
}

void WritePlaces(PayloadWriter& out, const std::vector<CachedPlace>& places) {
  out.u32(static_cast<uint32_t>(places.size()));
  for (const CachedPlace& one : places) {
    out.u8(std::holds_alternative<SlotId>(one.place) ? kState : 0);
    out.i32(NumberOf(one.place));
    out.u64(one.key.high);
    out.u64(one.key.low);
    out.i32(one.position);
    out.u64(one.entry);
  }
}

absl::StatusOr<std::vector<CachedPlace>> ReadPlaces(PayloadReader& in, std::string_view field) {
  ASSIGN_OR_RETURN(const uint32_t count, in.count(field, 33));
  std::vector<CachedPlace> places(count);
  for (CachedPlace& one : places) {
    ASSIGN_OR_RETURN(const uint8_t flags, ReadFlags(in, field, kState));
    ASSIGN_OR_RETURN(const int32_t id, in.i32(field));
    one.place = flags != 0 ? CachePlace(SlotId{id}) : CachePlace(BlockId{id});
    ASSIGN_OR_RETURN(one.key.high, in.u64(field));
    ASSIGN_OR_RETURN(one.key.low, in.u64(field));
    ASSIGN_OR_RETURN(one.position, in.i32(field));
    ASSIGN_OR_RETURN(one.entry, in.u64(field));
  }
  return places;
}

void WriteStepHeader(PayloadWriter& out, const Step& step) {
  out.u8((step.want_logits ? kWantLogits : 0) | (step.want_routing ? kWantRouting : 0));
  out.u32(static_cast<uint32_t>(step.begins.size()));
  for (const NewSequence& sequence : step.begins) {
    out.u64(sequence.id.value);
    WriteSampling(out, sequence.sampling);
    WriteIds(out, sequence.tokens);
    out.i32(sequence.prompt_tokens);
  }
  out.u32(static_cast<uint32_t>(step.ends.size()));
  for (SeqId id : step.ends) out.u64(id.value);
  out.u32(static_cast<uint32_t>(step.slices.size()));
  for (const SeqSlice& slice : step.slices) {
    out.u64(slice.id.value);
    out.i32(slice.position);
    out.i32(slice.sample_from);
    out.u8((slice.long_rope ? kLongRope : 0) | (slice.masked ? kMasked : 0) | (slice.draft ? kDraft : 0));
    WriteIds(out, slice.tokens);
    WriteBlocks(out, slice.blocks);
    out.i32(slice.state_from.value);
    WriteStates(out, slice.state_to);
    WriteIds(out, slice.scored);
    out.u8(static_cast<uint8_t>(slice.pool));
    out.i32(slice.next_token);
  }
  WriteRuns(out, step.saves);
  WriteRuns(out, step.restores);
  WritePlaces(out, step.copies);
}

absl::StatusOr<SeqSlice> ReadSlice(PayloadReader& in) {
  SeqSlice slice;
  ASSIGN_OR_RETURN(slice.id.value, in.u64("step.slice.id"));
  ASSIGN_OR_RETURN(slice.position, in.i32("step.slice.position"));
  ASSIGN_OR_RETURN(slice.sample_from, in.i32("step.slice.sample_from"));
  ASSIGN_OR_RETURN(const uint8_t flags, ReadFlags(in, "step.slice.flags", kLongRope | kMasked | kDraft));
  slice.long_rope = (flags & kLongRope) != 0;
  slice.masked = (flags & kMasked) != 0;
  slice.draft = (flags & kDraft) != 0;
  ASSIGN_OR_RETURN(slice.tokens, ReadIds(in, "step.slice.tokens"));
  ASSIGN_OR_RETURN(slice.blocks, ReadBlocks(in, "step.slice.blocks"));
  ASSIGN_OR_RETURN(slice.state_from.value, in.i32("step.slice.state_from"));
  ASSIGN_OR_RETURN(slice.state_to, ReadStates(in, "step.slice.state_to"));
  ASSIGN_OR_RETURN(slice.scored, ReadIds(in, "step.slice.scored"));
  ASSIGN_OR_RETURN(const uint8_t pool, in.u8("step.slice.pool"));
  if (pool > static_cast<uint8_t>(Pool::kMean)) {
    return InvalidArgument("step.slice.pool: expected 0 to 3, got {}", pool);
  }
  slice.pool = static_cast<Pool>(pool);
  ASSIGN_OR_RETURN(slice.next_token, in.i32("step.slice.next_token"));
  return slice;
}

absl::StatusOr<Step> ReadStepHeader(PayloadReader& in, StepId id) {
  Step step;
  step.id = id;
  ASSIGN_OR_RETURN(const uint8_t flags, ReadFlags(in, "step.flags", kWantLogits | kWantRouting));
  step.want_logits = (flags & kWantLogits) != 0;
  step.want_routing = (flags & kWantRouting) != 0;
  ASSIGN_OR_RETURN(const uint32_t begins, in.count("step.begins", 64));
  step.begins.resize(begins);
  for (NewSequence& sequence : step.begins) {
    ASSIGN_OR_RETURN(sequence.id.value, in.u64("step.begin.id"));
    ASSIGN_OR_RETURN(sequence.sampling, ReadSampling(in));
    ASSIGN_OR_RETURN(sequence.tokens, ReadIds(in, "step.begin.tokens"));
    ASSIGN_OR_RETURN(sequence.prompt_tokens, in.i32("step.begin.prompt_tokens"));
  }
  ASSIGN_OR_RETURN(const uint32_t ends, in.count("step.ends", 8));
  step.ends.resize(ends);
  for (SeqId& end : step.ends) {
    ASSIGN_OR_RETURN(end.value, in.u64("step.end.id"));
  }
  ASSIGN_OR_RETURN(const uint32_t slices, in.count("step.slices", 42));
  step.slices.reserve(slices);
  for (uint32_t i = 0; i < slices; ++i) {
    ASSIGN_OR_RETURN(SeqSlice slice, ReadSlice(in));
    step.slices.push_back(std::move(slice));
  }
  ASSIGN_OR_RETURN(step.saves, ReadRuns(in, "step.saves"));
  ASSIGN_OR_RETURN(step.restores, ReadRuns(in, "step.restores"));
  ASSIGN_OR_RETURN(step.copies, ReadPlaces(in, "step.copies"));
  return step;
}

/// The ids whose bits are `value`.
std::vector<int32_t> IdsWith(std::span<const uint32_t> words, bool value) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < words.size(); ++i) {
    for (uint32_t left = value ? words[i] : ~words[i]; left != 0; left &= left - 1) {
      ids.push_back(static_cast<int32_t>(32 * i) + std::countr_zero(left));
    }
  }
  return ids;
}

void WriteMaskWords(PayloadWriter& out, std::span<const uint32_t> words) {
  size_t allowed = 0;
  for (const uint32_t word : words) allowed += static_cast<size_t>(std::popcount(word));
  const size_t forbidden = 32 * words.size() - allowed;
  out.u32(static_cast<uint32_t>(words.size()));
  if (std::min(allowed, forbidden) >= words.size()) {
    out.u8(static_cast<uint8_t>(MaskForm::kWords));
    return out.array(words);
  }
  const bool of_allowed = allowed <= forbidden;
  out.u8(static_cast<uint8_t>(of_allowed ? MaskForm::kAllowed : MaskForm::kForbidden));
  WriteIds(out, IdsWith(words, of_allowed));
}

absl::StatusOr<std::vector<uint32_t>> ReadMaskWords(PayloadReader& in, int64_t vocabulary) {
  ASSIGN_OR_RETURN(const uint32_t count, in.u32("mask.words"));
  if (count < 1 || count > (vocabulary + 31) / 32) {
    return InvalidArgument("mask.words: {} words of 32 ids for a vocabulary of {}", count, vocabulary);
  }
  ASSIGN_OR_RETURN(const uint8_t form, in.u8("mask.form"));
  if (form > static_cast<uint8_t>(MaskForm::kForbidden)) {
    return InvalidArgument("mask.form: expected 0 to 2, got {}", form);
  }
  if (form == static_cast<uint8_t>(MaskForm::kWords)) {
    ASSIGN_OR_RETURN(const std::span<const uint32_t> words, in.array<uint32_t>("mask.words", count));
    return std::vector(words.begin(), words.end());
  }
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids, ReadIds(in, "mask.ids"));
  const bool allowed = form == static_cast<uint8_t>(MaskForm::kAllowed);
  std::vector<uint32_t> words(count, allowed ? 0 : ~uint32_t{0});
  for (const int32_t id : ids) {
    if (id < 0 || id / 32 >= static_cast<int64_t>(count)) {
      return InvalidArgument("mask.ids: expected ids below {}, got {}", 32 * int64_t{count}, id);
    }
    const uint32_t bit = uint32_t{1} << (id % 32);
    uint32_t& word = words[static_cast<size_t>(id / 32)];
    word = allowed ? word | bit : word & ~bit;
  }
  return words;
}

/// Traces of earlier stages have a row for each of the step's.
absl::Status CheckTraces(const std::vector<RoutingTrace>& traces, int64_t rows) {
  for (const RoutingTrace& trace : traces) {
    if (trace.top_k > 0 && std::ssize(trace.ids) == rows * trace.top_k) continue;
    return InvalidArgument("report.routing: layer {} has {} ids, expected {} for each of {} rows",
                           trace.layer, trace.ids.size(), trace.top_k, rows);
  }
  return absl::OkStatus();
}

}  // namespace

Frame EncodeStep(Epoch epoch, const Step& step, const StepReport& report, MatView<const float> rows,
                 RowFormat format) {
  PayloadWriter out;
  WriteStepHeader(out, step);
  WriteReport(out, report);
  Frame frame;
  frame.header.kind = FrameKind::kStep;
  frame.header.epoch = epoch;
  frame.header.step = step.id;
  if (rows.data != nullptr) {
    SHOAL_CHECK_EQ(rows.rows, step.rows());
    WriteRows(out, format, rows, frame.header);
  }
  frame.payload = out.finish();
  return frame;
}

namespace {

/// The rows of the frame, which has as many as the step.
absl::Status ReadStepRows(PayloadReader& in, const FrameHeader& header, const RowsExpected& expected,
                          StepMessage& message) {
  ASSIGN_OR_RETURN(const RowFormat format, FormatOf(header));
  if (format != expected.format) {
    return InvalidArgument("step.rows: expected rows as {}, as the plan says, got them as {}",
                           Name(expected.format), Name(format));
  }
  message.cols = header.cols;
  if (expected.cols != 0 && message.cols != expected.cols) {
    return InvalidArgument("step {}: {} rows of width {}, expected {} of {}", header.step, header.rows,
                           message.cols, message.step.rows(), expected.cols);
  }
  return ReadRows(in, "step.rows", format, header, message.rows);
}

}  // namespace

absl::StatusOr<StepMessage> DecodeStep(const Frame& frame, const RowsExpected& expected) {
  PayloadReader in(frame.payload);
  StepMessage message;
  ASSIGN_OR_RETURN(message.step, ReadStepHeader(in, frame.header.step));
  ASSIGN_OR_RETURN(message.report, ReadReport(in));
  RETURN_IF_ERROR(CheckTraces(message.report.routing, message.step.rows()));
  if (frame.header.rows > 0 || frame.header.cols > 0) {
    if (frame.header.rows != message.step.rows()) {
      return InvalidArgument("step.rows: the slices hold {} tokens, the frame {} rows", message.step.rows(),
                             frame.header.rows);
    }
    RETURN_IF_ERROR(ReadStepRows(in, frame.header, expected, message));
  }
  RETURN_IF_ERROR(in.finish("step"));
  return message;
}

Frame EncodeMasks(Epoch epoch, StepId step, std::span<const TokenMask> masks) {
  PayloadWriter out;
  out.u32(static_cast<uint32_t>(masks.size()));
  for (const TokenMask& mask : masks) {
    out.u64(mask.id.value);
    out.i32(mask.position);
    WriteStatus(out, mask.status);
    if (mask.status.ok()) WriteMaskWords(out, mask.words);
  }
  Frame frame;
  frame.header.kind = FrameKind::kMasks;
  frame.header.epoch = epoch;
  frame.header.step = step;
  frame.payload = out.finish();
  return frame;
}

absl::StatusOr<std::vector<TokenMask>> DecodeMasks(const Frame& frame, int64_t vocabulary) {
  PayloadReader in(frame.payload);
  ASSIGN_OR_RETURN(const uint32_t count, in.count("masks", 20));
  std::vector<TokenMask> masks;
  for (uint32_t i = 0; i < count; ++i) {
    TokenMask& mask = masks.emplace_back();
    ASSIGN_OR_RETURN(mask.id.value, in.u64("mask.id"));
    ASSIGN_OR_RETURN(mask.position, in.i32("mask.position"));
    RETURN_IF_ERROR(ReadStatus(in, "mask.status", mask.status));
    if (!mask.status.ok()) continue;
    ASSIGN_OR_RETURN(mask.words, ReadMaskWords(in, vocabulary));
  }
  RETURN_IF_ERROR(in.finish("masks"));
  return masks;
}

}  // namespace shoal
