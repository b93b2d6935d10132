#include "exec/segment_exchange.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "base/text.h"
#include "exec/code_rows.h"
#include "exec/codec_fields.h"
#include "numeric/dtype.h"
#include "wire/payload.h"
#include "wire/row_codec.h"

namespace shoal {
namespace {

/// Of the widest rows as f32 in one message: a frame has a limit, and a link's window room for few such.
constexpr int64_t kRowBytesMax = int64_t{64} << 20;

/// Rows of the input of a feed-forward, of which x may have no data where there are codes.
SegmentRows RowsBetween(const SegmentRows& rows, Range part) {
  SegmentRows some{.x = MatView<const float>(nullptr, part.size(), rows.cols())};
  if (rows.x.data != nullptr) some.x = rows.x.rows_between(part.begin, part.end);
  if (rows.codes) some.codes = rows.codes->rows_between(part);
  return some;
}

void WriteSegmentRows(PayloadWriter& out, const SegmentRows& rows, FrameHeader& header) {
  header.flags = 0;
  if (rows.codes) return WriteCodes(out, *rows.codes, header);
  WriteRows(out, RowFormat::kExact, rows.x, header);
}

absl::StatusOr<SegmentRows> ReadSegmentRows(PayloadReader& in, std::string_view what,
                                            const FrameHeader& header) {
  const int64_t rows = header.rows;
  const int64_t cols = header.cols;
  SegmentRows out{.x = MatView<const float>(nullptr, rows, cols)};
  if (HasCodes(header)) {
    ASSIGN_OR_RETURN(out.codes, ReadCodes(in, what, header));
    return out;
  }
  if (header.dtype != DType::kF32 || header.flags != 0) {
    return InvalidArgument("{}: expected codes of dtype i8 or rows of f32, got format {} of dtype {}", what,
                           header.flags, DTypeName(header.dtype));
  }
  ASSIGN_OR_RETURN(const auto x, in.array<float>(fmt::format("{}.rows", what),
                                                 static_cast<uint64_t>(rows) * static_cast<uint64_t>(cols)));
  out.x = MatView<const float>(x.data(), rows, cols);
  return out;
}

}  // namespace

Frame EncodeSegmentRequest(const SegmentRequestKey& key, const SegmentRows& rows,
                           std::span<const int32_t> segments) {
  PayloadWriter out;
  out.u64(key.ticket);
  out.u8(static_cast<uint8_t>(key.half));
  WriteIds(out, segments);
  Frame frame;
  frame.header.kind = FrameKind::kSegmentRequest;
  frame.header.epoch = key.epoch;
  frame.header.step = key.step;
  frame.header.layer = key.layer;
  WriteSegmentRows(out, rows, frame.header);
  frame.payload = out.finish();
  return frame;
}

absl::Status DecodeSegmentRequest(const Frame& frame, SegmentMessage& request) {
  PayloadReader in(frame.payload);
  request.ticket = 0;
  ASSIGN_OR_RETURN(request.ticket, in.u64("segment_request.ticket"));
  ASSIGN_OR_RETURN(const uint8_t half, in.u8("segment_request.half"));
  if (half > static_cast<uint8_t>(SegmentHalf::kDown))
    return InvalidArgument("segment_request.half: expected 0 or 1, got {}", half);
  request.half = static_cast<SegmentHalf>(half);
  ASSIGN_OR_RETURN(const uint32_t count, in.count("segment_request.segments", 4));
  if (count < 1 || count > kSegmentsMax) {
    return InvalidArgument("segment_request.segments: expected 1 to {}, got {}", kSegmentsMax, count);
  }
  request.segments.resize(count);
  int32_t before = -1;
  for (int32_t& segment : request.segments) {
    ASSIGN_OR_RETURN(segment, in.i32("segment_request.segment"));
    if (segment <= before || segment >= kSegmentsMax) {
      return InvalidArgument("segment_request.segment: {} follows {}, expected ascending numbers below {}",
                             segment, before, kSegmentsMax);
    }
    before = segment;
  }
  ASSIGN_OR_RETURN(request.rows, ReadSegmentRows(in, "segment_request", frame.header));
  return in.finish("segment_request");
}

Frame EncodeSegmentReply(const FrameHeader& request, uint64_t ticket, const SegmentAnswer& answer) {
  PayloadWriter out;
  out.u64(ticket);
  out.i64(answer.compute_ns);
  Frame frame;
  frame.header = request;
  frame.header.kind = FrameKind::kSegmentReply;
  WriteSegmentRows(out, answer.rows, frame.header);
  frame.payload = out.finish();
  return frame;
}

absl::StatusOr<SegmentAnswer> DecodeSegmentReply(const Frame& frame) {
  PayloadReader in(frame.payload);
  SegmentAnswer answer;
  ASSIGN_OR_RETURN([[maybe_unused]] const uint64_t ticket, in.u64("segment_reply.ticket"));
  ASSIGN_OR_RETURN(answer.compute_ns, in.i64("segment_reply.compute_ns"));
  ASSIGN_OR_RETURN(answer.rows, ReadSegmentRows(in, "segment_reply", frame.header));
  RETURN_IF_ERROR(in.finish("segment_reply"));
  return answer;
}

absl::StatusOr<SegmentRows> RunSegments(BackendSession& compute, LayerId layer, SegmentHalf half,
                                        std::span<const int32_t> segments, const SegmentRows& rows,
                                        Arena& arena) {
  SegmentRows part;
  if (half == SegmentHalf::kHidden) {
    RETURN_IF_ERROR(compute.run_hidden(layer, segments, rows, part));
    return part;
  }
  const SegmentShape* shape = compute.segment_shape(layer);
  SHOAL_CHECK(shape != nullptr);
  const MatView<float> y = arena.allocate_rows<float>(rows.rows(), TotalSize(shape->out, segments));
  RETURN_IF_ERROR(compute.run_down(layer, segments, rows, y));
  part.x = y;
  return part;
}

SegmentExchange::SegmentExchange(Options options, ReplyWait::Pump pump)
    : options_(options), wait_(options.reply_timeout, std::move(pump)), down_(options.plan->nodes.size()) {}

void SegmentExchange::begin_step(StepId step, Arena& arena) {
  step_ = step;
  arena_ = &arena;
  waited_ns_ = 0;
  overhead_ns_ = 0;
  loss_ = {};
}

absl::Status SegmentExchange::begin_layer(LayerId layer) {
  layer_ = layer;
  shape_ = options_.compute->segment_shape(layer);
  const std::span<const NodeId> owners = options_.plan->segment_owners(layer);
  if (shape_ == nullptr || shape_->hidden.size() != owners.size()) {
    return FailedPrecondition("layer {}: the plan has {} segments of its feed-forward, {} were loaded", layer,
                              owners.size(), shape_ == nullptr ? 0 : shape_->hidden.size());
  }
  hidden_group_ = options_.plan->activations == Plan::Activations::kInt8 ? shape_->hidden_group : 0;
  used_ = 0;
  for (size_t segment = 0; segment < owners.size(); ++segment) {
    size_t at = 0;
    while (at < used_ && holders_[at].node != owners[segment]) ++at;
    if (at == used_) {
      if (used_ == holders_.size()) holders_.emplace_back();
      holders_[used_].node = owners[segment];
      holders_[used_++].segments.clear();
    }
    holders_[at].segments.push_back(static_cast<int32_t>(segment));
  }
  return absl::OkStatus();
}

SegmentRows SegmentExchange::allocate_hidden(int64_t rows) const {
  const int64_t width = shape_->width;
  SegmentRows hidden{.x = MatView<const float>(nullptr, rows, width)};
  if (hidden_group_ == 0) {
    hidden.x = arena_->allocate_rows<float>(rows, width);
  } else {
    hidden.codes = QuantizedRowsIn(arena_->allocate_bytes(QuantizedRowsBytes(rows, width, hidden_group_)),
                                   rows, width, hidden_group_);
  }
  return hidden;
}

namespace {

/// Columns [from, from + n) of row r of `part` are columns [to, to + n) of `whole`, by groups of `group` columns.
struct ColumnMove {
  int64_t from = 0;
  int64_t to = 0;
  int64_t n = 0;
};

template <typename T>
void CopyColumns(const T* part, int64_t part_stride, T* whole, int64_t whole_stride, int64_t rows,
                 ColumnMove move) {
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(whole + r * whole_stride + move.to, part + r * part_stride + move.from,
                static_cast<size_t>(move.n) * sizeof(T));
  }
}

}  // namespace

absl::Status SegmentExchange::place_hidden(std::span<const int32_t> segments, const SegmentRows& part,
                                           const SegmentRows& whole) const {
  const int got = part.codes ? part.codes->group : 0;
  if (part.rows() != whole.rows() || part.cols() != TotalSize(shape_->hidden, segments) ||
      got != hidden_group_) {
    return InvalidArgument(
        "segment_reply: expected {} rows of {} hidden values in groups of {}, got {} of {} in {}",
        whole.rows(), TotalSize(shape_->hidden, segments), hidden_group_, part.rows(), part.cols(), got);
  }
  int64_t from = 0;
  for (const int32_t segment : segments) {
    const Range to = shape_->hidden[static_cast<size_t>(segment)];
    const ColumnMove move{from, to.begin, to.size()};
    from += to.size();
    if (hidden_group_ == 0) {
      // `whole` is this node's own, and is read when it is full.
      CopyColumns(part.x.data, part.x.stride, const_cast<float*>(whole.x.data), whole.x.stride, part.rows(),
                  move);
      continue;
    }
    const ColumnMove groups{move.from / hidden_group_, move.to / hidden_group_, move.n / hidden_group_};
    const QuantizedRows& in = *part.codes;
    const QuantizedRows& out = *whole.codes;
    CopyColumns(in.codes, in.cols, out.codes, out.cols, in.rows, move);
    CopyColumns(in.scales, in.groups(), out.scales, out.groups(), in.rows, groups);
    CopyColumns(in.sums, in.groups(), out.sums, out.groups(), in.rows, groups);
  }
  return absl::OkStatus();
}

absl::Status SegmentExchange::place_out(std::span<const int32_t> segments, const SegmentRows& part,
                                        MatView<float> y) const {
  if (part.codes || part.rows() != y.rows || part.cols() != TotalSize(shape_->out, segments)) {
    return InvalidArgument("segment_reply: expected {} rows of {} outputs as f32, got {} of {}{}", y.rows,
                           TotalSize(shape_->out, segments), part.rows(), part.cols(),
                           part.codes ? " as codes" : "");
  }
  int64_t from = 0;
  for (const int32_t segment : segments) {
    const Range to = shape_->out[static_cast<size_t>(segment)];
    CopyColumns(part.x.data, part.x.stride, y.data, y.stride, y.rows, {from, to.begin, to.size()});
    from += to.size();
  }
  return absl::OkStatus();
}

absl::Status SegmentExchange::run(LayerId layer, const SegmentRows& rows, MatView<float> y) {
  RETURN_IF_ERROR(begin_layer(layer));
  const int64_t widest = std::max({shape_->width, rows.cols(), y.cols});
  const int64_t at_once = std::max<int64_t>(kRowBytesMax / (widest * int64_t{sizeof(float)}), 1);
  for (int64_t begin = 0; begin < y.rows; begin += at_once) {
    const Range part{begin, std::min(begin + at_once, y.rows)};
    RETURN_IF_ERROR(run_rows(RowsBetween(rows, part), y.rows_between(part.begin, part.end)));
  }
  return absl::OkStatus();
}

absl::Status SegmentExchange::run_rows(const SegmentRows& rows, MatView<float> y) {
  const ArenaScope scope(*arena_);
  const SegmentRows hidden = allocate_hidden(rows.rows());
  RETURN_IF_ERROR(
      run_half(SegmentHalf::kHidden, rows, [&](std::span<const int32_t> segments, const SegmentRows& part) {
        return place_hidden(segments, part, hidden);
      }));
  return run_half(SegmentHalf::kDown, hidden,
                  [&](std::span<const int32_t> segments, const SegmentRows& part) {
                    return place_out(segments, part, y);
                  });
}

absl::Status SegmentExchange::run_half(SegmentHalf half, const SegmentRows& rows, Place place) {
  const int64_t begin_ns = NowNs();
  RETURN_IF_ERROR(ask(half, rows));
  const int64_t asked_ns = NowNs();
  bool remote = false;
  for (size_t i = 0; i < used_; ++i) {
    if (holders_[i].node != options_.self) {
      remote = true;
      continue;
    }
    RETURN_IF_ERROR(run_own(half, rows, holders_[i], place));
  }
  if (!remote) return absl::OkStatus();
  const int64_t waits_ns = NowNs();
  int64_t compute_ns = waits_ns - asked_ns;
  const Duration now = wait_.now();
  for (size_t i = 0; i < used_; ++i) holders_[i].heard = now;
  for (size_t i = 0; i < used_; ++i) {
    if (holders_[i].node != options_.self) RETURN_IF_ERROR(collect(holders_[i], place, compute_ns));
  }
  waited_ns_ += NowNs() - waits_ns;
  // No holder computed for longer than the whole took, whatever it says.
  overhead_ns_ += std::max<int64_t>(0, NowNs() - begin_ns - compute_ns);
  return absl::OkStatus();
}

absl::Status SegmentExchange::ask(SegmentHalf half, const SegmentRows& rows) {
  const uint64_t ticket = next_ticket_++;
  for (size_t i = 0; i < used_; ++i) {
    Holder& holder = holders_[i];
    holder.begin(holder.node, ticket);
    holder.failed = down_[static_cast<size_t>(holder.node.value)];
    if (holder.node == options_.self) continue;
    if (!holder.failed.ok()) return lost(holder);
    const Frame frame =
        EncodeSegmentRequest({options_.plan->epoch, step_, layer_, ticket, half}, rows, holder.segments);
    RETURN_IF_ERROR(wait_.send(*options_.transport, holder, frame));
    if (!holder.failed.ok()) return lost(holder);
  }
  return absl::OkStatus();
}

absl::Status SegmentExchange::run_own(SegmentHalf half, const SegmentRows& rows, const Holder& own,
                                      Place place) {
  const ArenaScope scope(*arena_);
  ASSIGN_OR_RETURN(const SegmentRows part,
                   RunSegments(*options_.compute, layer_, half, own.segments, rows, *arena_));
  return place(own.segments, part);
}

absl::Status SegmentExchange::collect(Holder& holder, Place place, int64_t& compute_ns) {
  RETURN_IF_ERROR(wait_.wait_for(holder));
  if (!holder.bad_rows.ok()) {  // No fault of the holder.
    return Annotate(holder.bad_rows,
                    fmt::format("segments of node '{}'", options_.plan->node(holder.node).name));
  }
  if (holder.answered) {
    const absl::StatusOr<SegmentAnswer> answer = DecodeSegmentReply(holder.reply);
    holder.failed = answer.ok() ? place(holder.segments, answer->rows) : answer.status();
    if (answer.ok()) compute_ns = std::max(compute_ns, answer->compute_ns);
    holder.reply = {};
  }
  return holder.failed.ok() ? absl::OkStatus() : lost(holder);
}

void SegmentExchange::on_reply(NodeId from, Frame frame) {
  absl::StatusOr<NodeAnswer> answer = ReadAnswer(std::move(frame));
  if (!answer.ok()) return;
  for (size_t i = 0; i < used_; ++i) {
    if (holders_[i].take(from, *answer)) return;
  }
}

void SegmentExchange::on_heartbeat(NodeId from) {
  const Duration now = wait_.now();
  for (size_t i = 0; i < used_; ++i) {
    if (holders_[i].node == from) holders_[i].heard = now;
  }
}

void SegmentExchange::note_down(NodeId node, const absl::Status& why) {
  absl::Status& down = down_[static_cast<size_t>(node.value)];
  if (down.ok()) down = why;
}

void SegmentExchange::on_lost(NodeId node, const absl::Status& status) {
  if (node.value < 0 || node.value >= std::ssize(down_)) return;
  note_down(node, status);
  for (size_t i = 0; i < used_; ++i) holders_[i].lose(node, status);
}

absl::Status SegmentExchange::lost(const Holder& holder) {
  note_down(holder.node, holder.failed);
  used_ = 0;  // Nobody is waited for any more.
  loss_.owner = holder.node;
  loss_.status = Unavailable(
      "node '{}' lost: {}, while node '{}' waited for its segments of the feed-forward of layer "
      "{}, step {}",
      options_.plan->node(holder.node).name, Message(holder.failed), options_.plan->node(options_.self).name,
      layer_, step_);
  return loss_.status;
}

}  // namespace shoal
