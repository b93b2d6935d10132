#include "exec/mtp_runner.h"

#include <algorithm>
#include <vector>

#include "base/status.h"
#include "compute/row_ops.h"
#include "exec/block_table.h"
#include "exec/together_or_apart.h"

namespace shoal {
namespace {

/// Rows before the first that is sampled.
int64_t UnsampledRows(const SeqSlice& slice) {
  return slice.sample_from == kNoSample ? std::ssize(slice.tokens) : slice.sample_from;
}

/// The token at position `slice.position + row + 1` as the slice has it.
int32_t GivenNext(const SeqSlice& slice, int64_t row) {
  return row + 1 < std::ssize(slice.tokens) ? slice.tokens[static_cast<size_t>(row + 1)] : slice.next_token;
}

}  // namespace

// Up to the row whose token is the last that the sequence has: what is behind it was drafted wrong.
int64_t MtpRunner::rows_of(const Slice& one) const {
  const int64_t first = UnsampledRows(*one.slice);
  if (one.tokens.empty()) return std::ssize(one.slice->tokens);
  size_t right = 0;
  while (right + 1 < one.tokens.size() &&
         one.tokens[right].id == GivenNext(*one.slice, first + static_cast<int64_t>(right))) {
    ++right;
  }
  return first + static_cast<int64_t>(right) + 1;
}

// Where nobody knows it, as at the end of a prompt that is embedded only, the row's own token stands for it.
int32_t MtpRunner::next_of(const Slice& one, int64_t row) const {
  const int64_t first = UnsampledRows(*one.slice);
  if (row >= first && !one.tokens.empty()) return one.tokens[static_cast<size_t>(row - first)].id;
  const int32_t given = GivenNext(*one.slice, row);
  return given >= 0 && given < options_.vocabulary ? given : one.slice->tokens[static_cast<size_t>(row)];
}

absl::Status MtpRunner::run(Arena& scratch, std::span<Slice> slices, MatView<const float> x,
                            const std::function<absl::Status(LayerId)>& before_layer) {
  const ArenaScope scope(scratch);
  const auto count = std::ssize(slices);
  const MatView<float> last = scratch.allocate_rows<float>(count, options_.width);
  RETURN_IF_ERROR(TogetherOrApart(
      count,
      [&](Range part) {
        return forward(scratch,
                       slices.subspan(static_cast<size_t>(part.begin), static_cast<size_t>(part.size())), x,
                       before_layer, last.rows_between(part.begin, part.end));
      },
      [&](int64_t i, const absl::Status&) { slices[static_cast<size_t>(i)].failed = true; }));
  const std::span<Slice*> asked = scratch.allocate<Slice*>(count);
  size_t wanted = 0;
  for (int64_t i = 0; i < count; ++i) {
    Slice& one = slices[static_cast<size_t>(i)];
    if (one.failed || one.tokens.empty() || !one.slice->draft) continue;
    CopyRows(last.rows_between(i, i + 1), last, static_cast<int64_t>(wanted));
    asked[wanted++] = &one;
  }
  const auto most = static_cast<size_t>(options_.logit_rows);
  for (size_t begin = 0; begin < wanted; begin += most) {
    const size_t size = std::min(most, wanted - begin);
    const auto from = static_cast<int64_t>(begin);
    RETURN_IF_ERROR(
        draft(asked.subspan(begin, size), last.rows_between(from, from + static_cast<int64_t>(size))));
  }
  return absl::OkStatus();
}

// last: [slices, D], the last row of each as it leaves the head's layer.
absl::Status MtpRunner::forward(Arena& scratch, std::span<const Slice> slices, MatView<const float> x,
                                const std::function<absl::Status(LayerId)>& before_layer,
                                MatView<float> last) const {
  const ArenaScope scope(scratch);
  const std::span<StepSlice> views = scratch.allocate<StepSlice>(std::ssize(slices));
  int64_t total = 0;
  for (const Slice& one : slices) total += rows_of(one);
  const MatView<float> rows = scratch.allocate_rows<float>(total, options_.width);
  const std::span<int32_t> next = scratch.allocate<int32_t>(total);
  int64_t at = 0;
  for (size_t i = 0; i < slices.size(); ++i) {
    const Slice& one = slices[i];
    const int64_t count = rows_of(one);
    const MatView<const float> of_model = x.rows_between(one.row, one.row + count);
    CopyRows(of_model.cols_between(0, options_.width), rows, at);  // Without what layers hand on behind it.
    for (int64_t r = 0; r < count; ++r) next[static_cast<size_t>(at + r)] = next_of(one, r);
    views[i] = {.row_begin = at,
                .rows = count,
                .position = one.slice->position,
                .blocks = TableFor(*one.slice, scratch),
                .long_rope = one.slice->long_rope};
    at += count;
  }
  const StageStep step{.slices = views, .before_layer = before_layer};
  RETURN_IF_ERROR(options_.compute->mtp_forward(step, next, rows));
  for (size_t i = 0; i < slices.size(); ++i) {
    const int64_t end = views[i].row_begin + views[i].rows;
    CopyRows(rows.rows_between(end - 1, end), last, static_cast<int64_t>(i));
  }
  return absl::OkStatus();
}

absl::Status MtpRunner::draft(std::span<Slice* const> asked, MatView<const float> last) {
  RETURN_IF_ERROR(TogetherOrApart(
      std::ssize(asked),
      [&](Range part) {
        return options_.compute->mtp_head(last.rows_between(part.begin, part.end), part.begin);
      },
      [&](int64_t i, const absl::Status&) { asked[static_cast<size_t>(i)]->failed = true; }));
  for (size_t i = 0; i < asked.size(); ++i) {
    if (!asked[i]->failed) draw(*asked[i], static_cast<int64_t>(i));
  }
  return absl::OkStatus();
}

// With the random number of the position that it guesses: where two distributions agree, so do their tokens.
void MtpRunner::draw(Slice& one, int64_t row) {
  const int64_t known = rows_of(one);
  const int64_t position = one.slice->position + known;  // Of the token that was sampled last.
  const int32_t sampled = next_of(one, known - 1);
  one.history->place(one.slice->position, std::span(one.slice->tokens).first(static_cast<size_t>(known)));
  one.history->place(position, {&sampled, 1});
  const absl::StatusOr<SampledToken> token =
      options_.compute->sample(row, {*one.sampling, *one.history, position + 1, {}});
  if (token.ok()) one.drafted = token->id;
}

}  // namespace shoal
