#include "exec/planned_exchange.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "compute/expert_bank.h"
#include "exec/code_rows.h"
#include "exec/model_facts.h"
#include "numeric/byte_planes.h"
#include "numeric/fixed_sum.h"
#include "wire/payload.h"
#include "wire/row_codec.h"

namespace shoal {
namespace {

/// Bounds what a peer may make us multiply, and keeps its sums from wrapping around: rows of a frame are bounded
/// by its size, calls by this per row.
constexpr int kCallsPerRowMax = kFixedTermsMax;

/// Sums of 31 terms below 2^18 are below it, with what rounding adds; as fixed point it is below 2^63.
constexpr float kSumLimit = 0x1p23f;

/// Rounds sums to `format`.
void WriteLossySums(PayloadWriter& out, RowFormat format, MatView<const int64_t> acc, FrameHeader& header) {
  std::vector<float> sums(static_cast<size_t>(acc.rows * acc.cols));
  for (size_t i = 0; i < sums.size(); ++i) sums[i] = FloatFromFixed(acc.data[i]);
  WriteRows(out, format, MatView<const float>(sums.data(), acc.rows, acc.cols), header);
}

/// As fixed point, which is exact but for what lies below its unit.
absl::Status ReadLossySums(PayloadReader& in, RowFormat format, Arena& scratch, MatView<int64_t> sums) {
  const MatView<float> rows = scratch.allocate_rows<float>(sums.rows, sums.cols);
  RETURN_IF_ERROR(ReadRows(in, "expert_reply.rows", format, rows));
  for (int64_t i = 0; i < sums.rows * sums.cols; ++i) {
    if (!(rows.data[i] > -kSumLimit && rows.data[i] < kSumLimit)) {
      return InvalidArgument("expert_reply.rows: expected sums below 2^23 in magnitude, got {}",
                             rows.data[i]);
    }
    sums.data[i] = FixedFromFloat(rows.data[i]);
  }
  return absl::OkStatus();
}

absl::Status ReadExactSums(PayloadReader& in, MatView<int64_t> sums) {
  ASSIGN_OR_RETURN(const uint8_t width, in.u8("expert_reply.width"));
  if (width < kBytePlanesMin || width > kBytePlanesMax) {
    return InvalidArgument("expert_reply.width: expected {} to {}, got {}", kBytePlanesMin, kBytePlanesMax,
                           width);
  }
  const int64_t count = sums.rows * sums.cols;
  ASSIGN_OR_RETURN(const auto planes,
                   in.array<uint8_t>("expert_reply.rows", static_cast<uint64_t>(count) * width));
  DecodeBytePlanes(planes.data(), count, width, sums.data);
  return absl::OkStatus();
}

}  // namespace

Frame EncodeExpertRequest(const ExpertRequestKey& key, const ExpertRows& rows,
                          std::span<const ExpertCall> calls) {
  PayloadWriter out;
  out.u64(key.ticket);
  out.u32(static_cast<uint32_t>(calls.size()));
  for (const ExpertCall& call : calls) {
    out.i32(call.row);
    out.i32(call.expert.value);
    out.f32(call.weight);
  }
  Frame frame;
  frame.header.kind = FrameKind::kExpertRequest;
  frame.header.epoch = key.epoch;
  frame.header.step = key.step;
  frame.header.layer = key.layer;
  if (rows.quantized != nullptr) {
    WriteCodes(out, *rows.quantized, frame.header);
  } else {
    WriteRows(out, key.format, rows.x, frame.header);
  }
  frame.payload = out.finish();
  return frame;
}

absl::Status DecodeExpertRequest(const Frame& frame, ExpertMessage& request, RowFormat format) {
  PayloadReader in(frame.payload);
  const int64_t rows = frame.header.rows;
  const int64_t cols = frame.header.cols;
  request.ticket = 0;
  ASSIGN_OR_RETURN(request.ticket, in.u64("expert_request.ticket"));
  ASSIGN_OR_RETURN(const uint32_t calls, in.count("expert_request.calls", 12));
  request.calls.resize(calls);
  int of_row = 0;
  int32_t last_row = -1;
  for (ExpertCall& call : request.calls) {
    ASSIGN_OR_RETURN(call.row, in.i32("expert_request.call.row"));
    ASSIGN_OR_RETURN(call.expert.value, in.i32("expert_request.call.expert"));
    ASSIGN_OR_RETURN(call.weight, in.f32("expert_request.call.weight"));
    if (call.row < 0 || call.row >= rows) {
      return InvalidArgument("expert_request.call.row: expected 0 to {}, got {}", rows - 1, call.row);
    }
    of_row = call.row == last_row ? of_row + 1 : 1;
    if (call.row < last_row || of_row > kCallsPerRowMax) {
      return InvalidArgument(
          "expert_request.call.row: {} follows {}, expected ascending rows, each at most {} times", call.row,
          last_row, kCallsPerRowMax);
    }
    last_row = call.row;
  }
  request.rows = {};
  if (HasCodes(frame.header)) {
    ASSIGN_OR_RETURN(request.quantized, ReadCodes(in, "expert_request", frame.header));
    request.rows.quantized = &request.quantized;
    request.rows.x = MatView<const float>(nullptr, rows, cols);
  } else if (const auto came = FormatOf(frame.header); !came.ok() || *came != format) {
    return InvalidArgument(
        "expert_request: expected codes of dtype i8 or rows as {}, got format {} of dtype {}", Name(format),
        frame.header.flags, DTypeName(frame.header.dtype));
  } else if (format == RowFormat::kExact) {
    ASSIGN_OR_RETURN(const auto x,
                     in.array<float>("expert_request.rows", static_cast<uint64_t>(rows) * cols));
    request.rows.x = MatView<const float>(x.data(), rows, cols);
  } else {
    RETURN_IF_ERROR(ReadRows(in, "expert_request.rows", format, frame.header, request.decoded));
    request.rows.x = MatView<const float>(request.decoded.data(), rows, cols);
  }
  return in.finish("expert_request");
}

Frame EncodeExpertReply(const FrameHeader& request, uint64_t ticket, int64_t compute_ns,
                        MatView<const int64_t> acc, RowFormat format) {
  SHOAL_CHECK(acc.contiguous());
  const int64_t count = acc.rows * acc.cols;
  Frame frame;
  frame.header = request;
  frame.header.kind = FrameKind::kExpertReply;
  if (format != RowFormat::kExact) {
    PayloadWriter out;
    out.u64(ticket);
    out.i64(compute_ns);
    WriteLossySums(out, format, acc, frame.header);
    frame.payload = out.finish();
    return frame;
  }
  const int width = BytePlanesWidth(acc.data, count);
  PayloadWriter out(kWireAlignment + static_cast<size_t>(count * width));
  out.u64(ticket);
  out.i64(compute_ns);
  out.u8(static_cast<uint8_t>(width));
  EncodeBytePlanes(acc.data, count, width,
                   out.reserve_array<uint8_t>(static_cast<size_t>(count * width)).data());
  frame.header.flags = 0;
  frame.header.dtype = DType::kU8;  // Planes of bytes, at least four an element.
  frame.header.rows = static_cast<uint32_t>(acc.rows);
  frame.header.cols = static_cast<uint32_t>(acc.cols);
  frame.payload = out.finish();
  return frame;
}

absl::StatusOr<int64_t> AddExpertReply(const Frame& frame, std::span<const int32_t> targets, Arena& scratch,
                                       MatView<int64_t> acc, RowFormat format) {
  PayloadReader in(frame.payload);
  const auto rows = static_cast<int64_t>(targets.size());
  if (frame.header.rows != rows || frame.header.cols != acc.cols) {
    return InvalidArgument("expert_reply: expected {} rows of {}, got {} of {}", rows, acc.cols,
                           frame.header.rows, frame.header.cols);
  }
  ASSIGN_OR_RETURN([[maybe_unused]] const uint64_t ticket,
                   in.u64("expert_reply.ticket"));  // The caller matched it.
  ASSIGN_OR_RETURN(const int64_t compute_ns, in.i64("expert_reply.compute_ns"));
  if (format != RowFormat::kExact) {
    const absl::StatusOr<RowFormat> came = FormatOf(frame.header);
    if (!came.ok() || *came != format) {
      return InvalidArgument("expert_reply: expected sums as {}, got format {} of dtype {}", Name(format),
                             frame.header.flags, DTypeName(frame.header.dtype));
    }
  }
  const ArenaScope scope(scratch);
  const MatView<int64_t> sums = scratch.allocate_rows<int64_t>(rows, acc.cols);
  if (format == RowFormat::kExact) {
    RETURN_IF_ERROR(ReadExactSums(in, sums));
  } else {
    RETURN_IF_ERROR(ReadLossySums(in, format, scratch, sums));
  }
  RETURN_IF_ERROR(in.finish("expert_reply"));
  for (int64_t r = 0; r < rows; ++r) {
    int64_t* target = acc.row(targets[static_cast<size_t>(r)]);
    for (int64_t c = 0; c < acc.cols; ++c) {  // A peer's sums may be any: they wrap around as unsigned ones.
      target[c] =
          static_cast<int64_t>(static_cast<uint64_t>(target[c]) + static_cast<uint64_t>(sums.at(r, c)));
    }
  }
  return compute_ns;
}

PlannedExchange::PlannedExchange(Options options, ReplyWait::Pump pump)
    : options_(options),
      format_(RowFormatOf(*options.plan)),
      wait_(options.reply_timeout, pump),
      load_(options.plan->nodes.size()),
      down_(options.plan->nodes.size()),
      segments_({options.plan, options.self, options.compute, options.transport, options.reply_timeout},
                std::move(pump)) {}

PlannedExchange::~PlannedExchange() = default;

void PlannedExchange::begin_step(StepId step, Arena& arena) {
  step_ = step;
  arena_ = &arena;
  waited_ns_ = 0;
  overhead_ns_ = 0;
  loss_ = {};
  segments_.begin_step(step, arena);
}

template <typename Experts>
absl::Status PlannedExchange::choose_holders(const Experts& experts) {
  const std::vector<ExpertHolders>& holders =
      options_.plan->experts[static_cast<size_t>(pending_.layer.value)];
  rows_of_.assign(holders.size(), 0);
  holder_of_.resize(holders.size());
  experts([this](ExpertId expert) { ++rows_of_[static_cast<size_t>(expert.value)]; });
  asked_.clear();
  for (size_t e = 0; e < rows_of_.size(); ++e) {
    if (rows_of_[e] > 0) asked_.push_back({ExpertId{static_cast<int32_t>(e)}, rows_of_[e]});
  }
  const auto is_local = [this](ExpertId expert) { return options_.compute->holds(pending_.layer, expert); };
  const auto is_up = [this](NodeId node) { return down_[static_cast<size_t>(node.value)].ok(); };
  if (format_ == RowFormat::kExact) {
    ChooseHolders(holders, options_.self, asked_, load_, is_local, is_up);
  } else {  // Sums that are rounded depend on who adds what up: neither load nor a loss may decide it (ServesWithout).
    ChooseOwners(holders, options_.self, asked_, is_local, is_up);
  }
  for (const AskedExpert& asked : asked_) {
    if (asked.holder.value < 0) return lost(asked.expert);
    holder_of_[static_cast<size_t>(asked.expert.value)] = asked.holder;
  }
  return absl::OkStatus();
}

PlannedExchange::Remote& PlannedExchange::remote_of(NodeId owner, size_t first) {
  for (size_t i = first; i < pending_.asked; ++i) {
    if (pending_.remotes[i].node == owner) return pending_.remotes[i];
  }
  if (pending_.asked == pending_.remotes.size()) pending_.remotes.emplace_back();
  Remote& remote = pending_.remotes[pending_.asked++];
  remote.begin(owner, first == 0 ? pending_.ticket : next_ticket_++);
  remote.calls.clear();
  remote.rows.clear();
  remote.elsewhere = false;
  return remote;
}

void PlannedExchange::give(int32_t row, const ExpertCall& call, size_t first) {
  const NodeId holder = holder_of_[static_cast<size_t>(call.expert.value)];
  if (holder == options_.self) {
    pending_.own.push_back({row, call.expert, call.weight});
    return;
  }
  Remote& remote = remote_of(holder, first);
  if (remote.rows.empty() || remote.rows.back() != row) remote.rows.push_back(row);
  remote.calls.push_back({static_cast<int32_t>(remote.rows.size() - 1), call.expert, call.weight});
}

absl::Status PlannedExchange::assign(const Routing& routing) {
  const auto experts =
      static_cast<int32_t>(options_.plan->experts[static_cast<size_t>(pending_.layer.value)].size());
  for (int64_t t = 0; t < routing.ids.rows; ++t) {
    for (int64_t k = 0; k < routing.ids.cols; ++k) {
      const int32_t expert = routing.ids.at(t, k);
      if (expert == kNoExpert || (expert >= 0 && expert < experts)) continue;
      return FailedPrecondition("layer {}: the router chose expert {}, the plan knows {}", pending_.layer,
                                expert, experts);
    }
  }
  RETURN_IF_ERROR(choose_holders([&](const auto& visit) {
    for (int64_t t = 0; t < routing.ids.rows; ++t) {
      for (int64_t k = 0; k < routing.ids.cols; ++k) {
        if (routing.ids.at(t, k) != kNoExpert) visit(ExpertId{routing.ids.at(t, k)});
      }
    }
  }));
  for (int64_t t = 0; t < routing.ids.rows; ++t) {
    for (int64_t k = 0; k < routing.ids.cols; ++k) {
      if (routing.ids.at(t, k) == kNoExpert) continue;
      give(static_cast<int32_t>(t), {0, ExpertId{routing.ids.at(t, k)}, routing.weights.at(t, k)}, 0);
    }
  }
  return absl::OkStatus();
}

void PlannedExchange::count_use(const Routing& routing) {
  if (options_.use == nullptr) return;
  ExpertRowCounts counts{.rows = static_cast<uint64_t>(routing.ids.rows), .messages = pending_.asked};
  leaves_.assign(static_cast<size_t>(routing.ids.rows), false);
  for (size_t i = 0; i < pending_.asked; ++i) {
    counts.rows_sent += pending_.remotes[i].rows.size();
    for (const int32_t row : pending_.remotes[i].rows) leaves_[static_cast<size_t>(row)] = true;
  }
  counts.rows_local = static_cast<uint64_t>(std::ranges::count(leaves_, false));
  options_.use->note(pending_.layer, routing, counts);
}

absl::Status PlannedExchange::send_from(size_t first) {
  for (size_t i = first; i < pending_.asked; ++i) {
    Remote& remote = pending_.remotes[i];
    const ArenaScope scope(*arena_);
    QuantizedRows storage;
    const ExpertRows rows = GatherRows(*arena_, pending_.rows, remote.rows, storage);
    if (format_ != RowFormat::kExact && rows.quantized == nullptr && !RowsFit(rows.x)) {
      return OutOfRange("a row for experts is not finite, or not below 2^127, and can't be sent as {}",
                        Name(format_));
    }
    const Frame frame = EncodeExpertRequest(
        {options_.plan->epoch, step_, pending_.layer, remote.ticket, format_}, rows, remote.calls);
    RETURN_IF_ERROR(wait_.send(*options_.transport, remote, frame));
    if (!remote.failed.ok()) RETURN_IF_ERROR(go_elsewhere(i));
  }
  return absl::OkStatus();
}

absl::StatusOr<ExpertExchange::Ticket> PlannedExchange::dispatch(LayerId layer, const ExpertRows& rows,
                                                                 const Routing& routing) {
  pending_.begin_ns = NowNs();
  pending_.ticket = next_ticket_++;
  pending_.layer = layer;
  pending_.rows = rows;
  pending_.own.clear();
  pending_.asked = 0;
  RETURN_IF_ERROR(assign(routing));
  count_use(routing);
  options_.compute->expect_experts(layer, pending_.own);
  RETURN_IF_ERROR(send_from(0));
  pending_.dispatched_ns = NowNs();
  pending_.segments_waited_ns = segments_.waited_ns();
  return Ticket{pending_.ticket};
}

absl::Status PlannedExchange::combine(Ticket ticket, MatView<float> y) {
  SHOAL_CHECK_EQ(ticket.value, pending_.ticket);
  const ArenaScope scope(*arena_);
  const MatView<int64_t> acc = arena_->allocate_rows<int64_t>(y.rows, y.cols);
  std::fill_n(acc.data, y.rows * y.cols, int64_t{0});
  if (!pending_.own.empty()) {
    RETURN_IF_ERROR(options_.compute->run_experts(pending_.layer, pending_.rows, pending_.own, acc));
  }
  const int64_t started_ns = NowNs();
  const int64_t elsewhere_ns = segments_.waited_ns() - pending_.segments_waited_ns;
  int64_t compute_ns = started_ns - pending_.dispatched_ns - elsewhere_ns;
  begin_wait(0);
  // Messages to other holders of what a lost owner was asked for are added at the end.
  for (size_t i = 0; i < pending_.asked; ++i) RETURN_IF_ERROR(collect(i, acc, compute_ns));
  if (pending_.asked > 0) waited_ns_ += NowNs() - started_ns;
  options_.compute->add_sums(acc, y);
  // No owner computed for longer than the whole took, whatever it says.
  if (pending_.asked > 0) {
    overhead_ns_ += std::max<int64_t>(0, NowNs() - pending_.begin_ns - compute_ns - elsewhere_ns);
  }
  return absl::OkStatus();
}

absl::Status PlannedExchange::collect(size_t index, MatView<int64_t> acc, int64_t& compute_ns) {
  Remote& remote = pending_.remotes[index];
  RETURN_IF_ERROR(wait_.wait_for(remote));
  if (remote.elsewhere) return absl::OkStatus();
  if (!remote.bad_rows.ok()) {  // No fault of the owner, and no other would give another answer.
    return Annotate(remote.bad_rows, fmt::format("expert owner '{}'", options_.plan->node(remote.node).name));
  }
  if (remote.answered) {
    const absl::StatusOr<int64_t> added = AddExpertReply(remote.reply, remote.rows, *arena_, acc, format_);
    remote.reply = {};
    if (added.ok()) {
      compute_ns = std::max(compute_ns, *added);
      return absl::OkStatus();
    }
    remote.failed = added.status();
  }
  const size_t first = pending_.asked;
  RETURN_IF_ERROR(go_elsewhere(index));
  RETURN_IF_ERROR(send_from(first));
  begin_wait(first);
  return absl::OkStatus();
}

void PlannedExchange::begin_wait(size_t first) {
  const Duration now = wait_.now();
  for (size_t i = first; i < pending_.asked; ++i) pending_.remotes[i].heard = now;
}

absl::Status PlannedExchange::go_elsewhere(size_t index) {
  const size_t first = pending_.asked;
  std::vector<ExpertCall> calls;
  std::vector<int32_t> rows;
  Remote& given_up = pending_.remotes[index];
  calls.swap(given_up.calls);
  rows.swap(given_up.rows);
  given_up.answered = false;
  given_up.elsewhere = true;
  const NodeId owner = given_up.node;
  const absl::Status why = given_up.failed;
  note_down(owner, why);
  RETURN_IF_ERROR(choose_holders([&](const auto& visit) {
    for (const ExpertCall& call : calls) visit(call.expert);
  }));
  // From here on the list grows.
  for (const ExpertCall& call : calls) give(rows[static_cast<size_t>(call.row)], call, first);
  LogWarning("node '{}' lost: {}. Others that hold its experts are asked, from layer {}, step {} on",
             options_.plan->node(owner).name, Message(why), pending_.layer, step_);
  return absl::OkStatus();
}

void PlannedExchange::note_down(NodeId node, const absl::Status& why) {
  absl::Status& down = down_[static_cast<size_t>(node.value)];
  if (!down.ok()) return;
  down = why;
  fallen_.push_back(node);
}

void PlannedExchange::on_reply(NodeId from, Frame frame) {
  absl::StatusOr<NodeAnswer> answer = ReadAnswer(std::move(frame));
  if (!answer.ok()) return;
  for (size_t i = 0; i < pending_.asked; ++i) {
    if (pending_.remotes[i].take(from, *answer)) return;
  }
}

void PlannedExchange::on_heartbeat(NodeId from) {
  segments_.on_heartbeat(from);
  const Duration now = wait_.now();
  for (size_t i = 0; i < pending_.asked; ++i) {
    if (pending_.remotes[i].node == from) pending_.remotes[i].heard = now;
  }
}

void PlannedExchange::on_lost(NodeId node, const absl::Status& status) {
  if (node.value < 0 || node.value >= std::ssize(down_)) return;
  segments_.on_lost(node, status);
  note_down(node, status);
  for (size_t i = 0; i < pending_.asked; ++i) pending_.remotes[i].lose(node, status);
}

/// Whatever broke at the holders, the step is unavailable because of them: of the last one first.
absl::Status PlannedExchange::lost(ExpertId expert) {
  const ExpertHolders& holders = options_.plan->holders(pending_.layer, expert);
  std::vector<std::string> texts;
  for (auto node = fallen_.rbegin(); node != fallen_.rend(); ++node) {
    if (*node != holders.owner && std::ranges::find(holders.replicas, *node) == holders.replicas.end())
      continue;
    if (texts.empty()) loss_.owner = *node;
    texts.push_back(fmt::format("node '{}' lost: {}", options_.plan->node(*node).name,
                                Message(down_[static_cast<size_t>(node->value)])));
  }
  loss_.status = Unavailable("{}, while node '{}' waited for {} experts at layer {}, step {}",
                             Join(texts, "; "), options_.plan->node(options_.self).name,
                             texts.size() == 1 ? "its" : "their", pending_.layer, step_);
  return loss_.status;
}

}  // namespace shoal
