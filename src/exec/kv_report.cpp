#include "exec/kv_report.h"

#include "base/status.h"
#include "exec/codec_fields.h"
#include "wire/payload.h"

namespace shoal {
namespace {

constexpr uint8_t kQuestionFlag = 1;  // Of the header.

// Of the payload.
constexpr uint8_t kRestart = 1;
constexpr uint8_t kActive = 2;

/// A flag of its own byte.
absl::StatusOr<bool> ReadBool(PayloadReader& in, std::string_view field) {
  ASSIGN_OR_RETURN(const uint8_t value, in.u8(field));
  if (value > 1) return InvalidArgument("{}: expected 0 or 1, got {}", field, value);
  return value == 1;
}

}  // namespace

Frame EncodeKvReport(Epoch epoch, const KvReport& report) {
  PayloadWriter out;
  out.u8((report.restart ? kRestart : 0) | (report.active ? kActive : 0));
  out.u32(static_cast<uint32_t>(report.changes.size()));
  for (const RecordChange& change : report.changes) {
    out.u64(change.key.high);
    out.u64(change.key.low);
    out.u8(change.there ? 1 : 0);
  }
  out.u32(static_cast<uint32_t>(report.restored.size()));
  for (const RestoreOutcome& one : report.restored) {
    out.u64(one.id.value);
    out.i32(one.blocks);
    out.u8(one.state ? 1 : 0);
    out.i64(one.bytes);
    out.i64(one.ns);
  }
  out.i64(report.bytes);
  out.i64(report.dropped);
  out.i64(report.errors);
  Frame frame;
  frame.header.kind = FrameKind::kKvDisk;
  frame.header.epoch = epoch;
  frame.payload = out.finish();
  return frame;
}

absl::StatusOr<KvReport> DecodeKvReport(const Frame& frame) {
  PayloadReader in(frame.payload);
  KvReport report;
  ASSIGN_OR_RETURN(const uint8_t flags, ReadFlags(in, "kv_disk.flags", kRestart | kActive));
  report.restart = (flags & kRestart) != 0;
  report.active = (flags & kActive) != 0;
  ASSIGN_OR_RETURN(const uint32_t changes, in.count("kv_disk.changes", 17));
  report.changes.resize(changes);
  for (RecordChange& change : report.changes) {
    ASSIGN_OR_RETURN(change.key.high, in.u64("kv_disk.change.key"));
    ASSIGN_OR_RETURN(change.key.low, in.u64("kv_disk.change.key"));
    ASSIGN_OR_RETURN(change.there, ReadBool(in, "kv_disk.change.there"));
  }
  ASSIGN_OR_RETURN(const uint32_t restored, in.count("kv_disk.restored", 29));
  report.restored.resize(restored);
  for (RestoreOutcome& one : report.restored) {
    ASSIGN_OR_RETURN(one.id.value, in.u64("kv_disk.restored.id"));
    ASSIGN_OR_RETURN(one.blocks, in.i32("kv_disk.restored.blocks"));
    ASSIGN_OR_RETURN(one.state, ReadBool(in, "kv_disk.restored.state"));
    ASSIGN_OR_RETURN(one.bytes, in.i64("kv_disk.restored.bytes"));
    ASSIGN_OR_RETURN(one.ns, in.i64("kv_disk.restored.ns"));
    if (one.blocks < 0 || one.bytes < 0 || one.ns < 0) {
      return InvalidArgument(
          "kv_disk.restored: sequence {}: {} blocks, {} bytes, {} ns; none may be negative", one.id,
          one.blocks, one.bytes, one.ns);
    }
  }
  ASSIGN_OR_RETURN(report.bytes, in.i64("kv_disk.bytes"));
  ASSIGN_OR_RETURN(report.dropped, in.i64("kv_disk.dropped"));
  ASSIGN_OR_RETURN(report.errors, in.i64("kv_disk.errors"));
  RETURN_IF_ERROR(in.finish("kv_disk"));
  return report;
}

Frame EncodeKvQuestion(Epoch epoch) {
  Frame frame;
  frame.header.kind = FrameKind::kKvDisk;
  frame.header.flags = kQuestionFlag;
  frame.header.epoch = epoch;
  return frame;
}

bool IsKvQuestion(const Frame& frame) {
  return frame.header.kind == FrameKind::kKvDisk && (frame.header.flags & kQuestionFlag) != 0;
}

}  // namespace shoal
