#include "exec/step_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/status.h"
#include "exec/kv_report.h"
#include "exec/planned_exchange.h"
#include "exec/stage_runner.h"
#include "numeric/fixed_sum.h"
#include "wire/row_codec.h"

namespace shoal {
namespace {

Step SampleStep() {
  Step step;
  step.id = StepId{7};
  NewSequence sequence;
  sequence.id = SeqId{42};
  sequence.sampling = {.temperature = 0.5f, .top_k = 3, .seed = 99, .logit_bias = {{5, -1.5f}, {7, 2.0f}}};
  sequence.tokens = {1, 2, 3};
  sequence.prompt_tokens = 3;
  step.begins = {sequence};
  step.ends = {SeqId{40}, SeqId{41}};
  step.slices = {{SeqId{42}, 0, {1, 2, 3}, {BlockId{4}}, 1},
                 {SeqId{43}, 40, {9}, {BlockId{1}, BlockId{2}}, kNoSample, true}};
  step.slices[0].scored = {2, 3};
  step.slices[0].pool = Pool::kMean;
  step.slices[0].draft = true;
  step.slices[1].next_token = 77;
  step.want_routing = true;
  return step;
}

/// With orders for the disks.
Step SampleStepWithRuns() {
  Step step = SampleStep();
  step.saves = {{.root = {1, 2}, .tokens = std::vector<int32_t>(64, 5), .blocks = {BlockId{3}}}};
  step.restores = {{SeqId{44}, {3, 4}, std::vector<int32_t>(32, 6), {BlockId{6}}, {{32, SlotId{1}}}}};
  step.copies = {{BlockId{3}, {UINT64_MAX, 1}, 64, UINT64_MAX}, {SlotId{2}, {2, 3}, 32, 1}};
  return step;
}

TEST(StepCodec, AStepWithRowsAndReportComesBackEqual) {
  const Step step = SampleStepWithRuns();
  StepReport report;
  report.failures = {{SeqId{5}, OutOfRange("layer 2: an activation is not finite")}};
  report.timings = {{NodeId{1}, 1000, 20, 15, 3, 4}};
  report.routing = {{LayerId{3}, 2, {0, 1, 2, 3, 1, 0, 5, 4}}};
  std::vector<float> rows(4 * 5);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = 0.1f * static_cast<float>(i);
  const Frame frame = EncodeStep(Epoch{3}, step, report, MatView<const float>(rows.data(), 4, 5));
  EXPECT_EQ(frame.header.epoch, Epoch{3});
  const auto decoded = DecodeStep(frame);
  ASSERT_TRUE(decoded.ok()) << ToString(decoded.status());
  EXPECT_EQ(decoded->step, step);
  EXPECT_EQ(decoded->report, report);
  EXPECT_EQ(decoded->rows, rows);
  EXPECT_EQ(decoded->cols, 5);
}

TEST(StepCodec, TracesThatDoNotMatchTheSlicesAreRefused) {
  const auto decoded = [](const RoutingTrace& trace) {
    return DecodeStep(EncodeStep(Epoch{3}, SampleStep(), {.routing = {trace}}, {})).status().code();
  };
  EXPECT_EQ(decoded({LayerId{3}, 2, {0, 1, 2, 3, 1, 0, 5, 4}}), absl::StatusCode::kOk);
  EXPECT_EQ(decoded({LayerId{3}, 2, {0, 1, 2, 3, 1, 0}}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(decoded({LayerId{3}, 0, {}}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(decoded({LayerId{3}, -4, {}}), absl::StatusCode::kInvalidArgument);
}

TEST(StepCodec, RowsThatDoNotMatchTheSlicesAreRefused) {
  std::vector<float> rows(4 * 5);
  Frame frame = EncodeStep(Epoch{3}, SampleStep(), {}, MatView<const float>(rows.data(), 4, 5));
  frame.header.rows = 3;
  EXPECT_EQ(DecodeStep(frame).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(StepCodec, UnknownFlagsOfASliceAreRefused) {
  Step step;
  step.slices = {{SeqId{1}, 0x01020304, {5}, {}, 0x05060708, true}};
  const Frame frame = EncodeStep(Epoch{1}, step, {}, {});
  std::vector<std::byte> bytes(frame.payload.bytes().begin(), frame.payload.bytes().end());
  const std::byte sample_from[] = {std::byte{8}, std::byte{7}, std::byte{6}, std::byte{5}};
  const auto found = std::ranges::search(bytes, sample_from);
  ASSERT_EQ(*found.end(), std::byte{1});  // The flags stand behind it: the one that is known.
  *found.end() = std::byte{8};
  Frame changed = frame;
  changed.payload = Buffer::copy_of(bytes);
  EXPECT_THAT(Message(DecodeStep(changed).status()), testing::HasSubstr("step.slice.flags"));
}

TEST(StepCodec, EveryTruncationIsAnErrorAndNoneCrashes) {
  const Frame whole = EncodeStep(Epoch{1}, SampleStepWithRuns(), {}, {});
  for (size_t size = 0; size < whole.payload.size(); ++size) {
    Frame cut = whole;
    cut.payload = Buffer::copy_of(whole.payload.bytes().first(size));
    EXPECT_FALSE(DecodeStep(cut).ok()) << size;
  }
}

TEST(StepCodec, ResultAndErrorComeBackEqual) {
  StepResult result;
  result.id = StepId{9};
  result.sequences = {
      {SeqId{1}, {{17}}},
      {SeqId{2}, {{18, -0.5f, {{3, -0.25f}, {18, -0.5f}}}, {19, -2.0f, {}}}},
      {SeqId{3}, {}, InvalidArgument("logit_bias: id 700 is outside the vocabulary")},
      {SeqId{4}, {}, absl::OkStatus(), {{5, -1.5f, {{6, -0.5f}}}, {7, -3.0f, {}}}, {0.5f, -2.0f}},
      {.id = SeqId{5}, .tokens = {{17}}, .drafted = {300}}};
  result.timings = {{NodeId{0}, 5, 6, 7, 8, 9}};
  result.logits = {1.0f, -2.0f, 0.5f};
  const auto decoded = DecodeResult(EncodeResult(Epoch{1}, result));
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->sequences, result.sequences);
  EXPECT_EQ(decoded->timings, result.timings);
  EXPECT_EQ(decoded->logits, result.logits);

  const absl::Status status = Unavailable("node 'b' lost: gone, while node 'a' waited for it");
  const auto error = DecodeStepError(EncodeStepError(Epoch{1}, StepId{9}, LayerId{3}, {status, NodeId{1}}));
  ASSERT_TRUE(error.ok());
  EXPECT_EQ(error->status, status);
  EXPECT_EQ(error->suspected, NodeId{1});
}

TEST(StepCodec, MasksComeBackEqualAndSparseOnesAreSmall) {
  constexpr int64_t kVocabulary = 3200;
  std::vector<uint32_t> few(100);
  few[0] = 0x80000001;
  few[99] = 5;
  std::vector<uint32_t> most(100, ~uint32_t{0});
  most[7] = 0x7fffffff;
  std::vector<uint32_t> half(100, 0x55555555);
  const std::vector<TokenMask> masks = {{SeqId{1}, 17, few, {}},
                                        {SeqId{2}, 3, most, {}},
                                        {SeqId{2}, 4, half, {}},
                                        {SeqId{3}, 5, std::vector<uint32_t>(100), {}},
                                        {SeqId{4}, 6, std::vector<uint32_t>(100, ~uint32_t{0}), {}},
                                        {SeqId{5}, 9, {}, InvalidArgument("grammar: too many states")}};
  const Frame frame = EncodeMasks(Epoch{2}, StepId{8}, masks);
  EXPECT_EQ(frame.header.kind, FrameKind::kMasks);
  EXPECT_EQ(frame.header.epoch, Epoch{2});
  EXPECT_EQ(frame.header.step, StepId{8});
  EXPECT_LT(frame.payload.size(), 700u);  // Of six masks, one travels as 400 bytes of words.
  const auto decoded = DecodeMasks(frame, kVocabulary);
  ASSERT_TRUE(decoded.ok()) << ToString(decoded.status());
  EXPECT_EQ(*decoded, masks);
  for (size_t size = 0; size < frame.payload.size(); ++size) {
    Frame cut = frame;
    cut.payload = Buffer::copy_of(frame.payload.bytes().first(size));
    EXPECT_FALSE(DecodeMasks(cut, kVocabulary).ok()) << size;
  }
}

TEST(StepCodec, AMaskOfMoreIdsThanTheVocabularyIsRefused) {
  const std::vector<TokenMask> masks = {{SeqId{1}, 17, std::vector<uint32_t>(4), {}}};
  const Frame frame = EncodeMasks(Epoch{2}, StepId{8}, masks);
  EXPECT_TRUE(DecodeMasks(frame, 97).ok());
  EXPECT_THAT(Message(DecodeMasks(frame, 96).status()), testing::HasSubstr("mask.words"));
  const Frame none = EncodeMasks(Epoch{2}, StepId{8}, std::vector<TokenMask>{{SeqId{1}, 17, {}, {}}});
  EXPECT_THAT(Message(DecodeMasks(none, 96).status()), testing::HasSubstr("mask.words"));
}

TEST(StepCodec, OnlySlicesThatAreSampledWaitForMasks) {
  Step step;
  step.id = StepId{1};
  step.slices = {
      {.id = SeqId{1}, .tokens = {1, 2}, .blocks = {BlockId{0}}, .sample_from = 1, .masked = true}};
  const StepLimits limits{.context = 64, .vocabulary = 100, .blocks = 8};
  EXPECT_EQ(ValidateStep(step, limits), absl::OkStatus());
  EXPECT_EQ(DecodeStep(EncodeStep(Epoch{1}, step, {}, {}))->step, step);
  step.slices[0].sample_from = kNoSample;
  EXPECT_THAT(Message(ValidateStep(step, limits)), testing::HasSubstr("masked"));
}

TEST(StepCodec, StatesOfSlicesComeBackEqual) {
  Step step = SampleStep();
  step.slices[1].state_from = SlotId{3};
  step.slices[1].state_to = {{41, SlotId{5}}};
  const auto decoded = DecodeStep(EncodeStep(Epoch{1}, step, {}, {}));
  ASSERT_TRUE(decoded.ok()) << ToString(decoded.status());
  EXPECT_EQ(decoded->step, step);
}

TEST(ValidateStep, NamesStatesThatAreNotWhereTheyShouldBe) {
  StepLimits limits{.context = 128, .vocabulary = 10, .blocks = 8, .rows_max = 64, .state_slots = 6};
  Step good;
  good.id = StepId{3};
  good.slices = {
      {SeqId{1}, 0, {1, 2, 3}, {BlockId{4}}, kNoSample, false, kNoState, {{3, SlotId{0}}}},
      {SeqId{2}, 40, {9}, {BlockId{1}, BlockId{2}}, kNoSample, false, SlotId{1}, {{41, SlotId{2}}}},
      {SeqId{3},
       30,
       std::vector<int32_t>(10, 1),
       {BlockId{5}, BlockId{6}},
       kNoSample,
       false,
       SlotId{3},
       {{33, SlotId{4}}, {40, SlotId{5}}}}};
  EXPECT_TRUE(ValidateStep(good, limits).ok()) << ToString(ValidateStep(good, limits));
  const auto broken = [&](auto change) {
    Step step = good;
    change(step);
    const absl::Status status = ValidateStep(step, limits);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return Message(status);
  };
  using testing::HasSubstr;
  EXPECT_THAT(broken([](Step& s) { s.slices[0].state_from = SlotId{5}; }), HasSubstr("nothing came before"));
  EXPECT_THAT(broken([](Step& s) { s.slices[1].state_from = kNoState; }), HasSubstr("one of 6"));
  EXPECT_THAT(broken([](Step& s) { s.slices[1].state_from = SlotId{6}; }), HasSubstr("one of 6"));
  EXPECT_THAT(broken([](Step& s) { s.slices[1].state_to.clear(); }), HasSubstr("a slot for it, got none"));
  EXPECT_THAT(broken([](Step& s) { s.slices[1].state_to[0].slot = SlotId{-1}; }), HasSubstr("slot -1"));
  EXPECT_THAT(broken([](Step& s) { s.slices[1].state_to[0].position = 40; }), HasSubstr("behind 40"));
  EXPECT_THAT(broken([](Step& s) { s.slices[2].state_to[0].position = 30; }), HasSubstr("numbers above 30"));
  EXPECT_THAT(broken([](Step& s) { s.slices[2].state_to[1].position = 41; }), HasSubstr("behind 41"));
  EXPECT_THAT(broken([](Step& s) { std::swap(s.slices[2].state_to[0], s.slices[2].state_to[1]); }),
              HasSubstr("ascending"));
  EXPECT_THAT(broken([](Step& s) { s.slices[2].state_to.pop_back(); }), HasSubstr("behind 40 tokens"));
  EXPECT_THAT(broken([](Step& s) { s.slices[2].state_to[0].slot = SlotId{5}; }), HasSubstr("written twice"));
  EXPECT_THAT(broken([](Step& s) { s.slices[2].state_to[0].slot = SlotId{1}; }),
              HasSubstr("read and written"));
  limits.state_slots = 0;
  EXPECT_THAT(Message(ValidateStep(good, limits)), HasSubstr("keeps no states"));
}

TEST(ValidateStep, NamesWhatLiesOutsideTheNode) {
  const StepLimits limits{
      .context = 64, .vocabulary = 10, .blocks = 8, .rows_max = 16, .short_rope_positions = 40};
  EXPECT_TRUE(ValidateStep(SampleStep(), limits).ok());
  const auto broken = [&](auto change) {
    Step step = SampleStep();
    change(step);
    const absl::Status status = ValidateStep(step, limits);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return Message(status);
  };
  EXPECT_THAT(broken([](Step& s) { s.slices[0].blocks[0] = BlockId{8}; }), testing::HasSubstr("block 8"));
  EXPECT_THAT(broken([](Step& s) { s.slices[0].blocks.clear(); }), testing::HasSubstr("need 1"));
  StepLimits many_logits = limits;
  many_logits.vocabulary = 1 << 24;
  Step with_logits = SampleStep();
  EXPECT_TRUE(ValidateStep(with_logits, many_logits).ok());
  with_logits.want_logits = true;
  EXPECT_THAT(Message(ValidateStep(with_logits, many_logits)), testing::HasSubstr("logits of 4 rows"));
  EXPECT_THAT(broken([](Step& s) { s.slices[0].sample_from = 3; }), testing::HasSubstr("row 3"));
  EXPECT_THAT(broken([](Step& s) { s.slices[0].sample_from = -2; }), testing::HasSubstr("row -2"));
  EXPECT_THAT(broken([](Step& s) { s.slices[1].position = 64; }), testing::HasSubstr("[64, 65)"));
  EXPECT_THAT(broken([](Step& s) { s.slices[1].position = -1; }), testing::HasSubstr("[-1, 0)"));
  EXPECT_THAT(broken([](Step& s) { s.slices[1].id = SeqId{42}; }), testing::HasSubstr("two slices"));
  EXPECT_THAT(broken([](Step& s) { s.slices[1].long_rope = false; }),
              testing::HasSubstr("[40, 41) without long rope"));
  StepLimits one_set = limits;
  one_set.short_rope_positions = std::numeric_limits<int64_t>::max();
  EXPECT_THAT(Message(ValidateStep(SampleStep(), one_set)), testing::HasSubstr("no second set"));
  EXPECT_THAT(broken([](Step& s) {
                s.slices[0].tokens.assign(17, 1);
                s.slices[0].position = 0;
              }),
              testing::HasSubstr("18 rows, expected at most 16"));
  EXPECT_THAT(broken([](Step& s) { s.begins[0].prompt_tokens = 4; }),
              testing::HasSubstr("4 prompt tokens of 3"));
}

TEST(ExpertFrames, ReplyAddsTheSumsToTheRowsThatWereAsked) {
  Arena arena;
  std::vector<int64_t> sums = {1, -2, int64_t{3} << 50, 4, 5, -6};
  FrameHeader request;
  const Frame reply = EncodeExpertReply(request, 1, 42, MatView<const int64_t>(sums.data(), 2, 3));
  std::vector<int64_t> acc(9, 100);
  const std::vector<int32_t> targets = {2, 0};
  const auto compute_ns = AddExpertReply(reply, targets, arena, MatView<int64_t>(acc.data(), 3, 3));
  ASSERT_TRUE(compute_ns.ok());
  EXPECT_EQ(*compute_ns, 42);
  EXPECT_EQ(acc, (std::vector<int64_t>{104, 105, 94, 100, 100, 100, 101, 98, 100 + (int64_t{3} << 50)}));
  const std::vector<int32_t> too_few = {2};
  EXPECT_FALSE(AddExpertReply(reply, too_few, arena, MatView<int64_t>(acc.data(), 3, 3)).ok());
}

TEST(StepFrame, RowsComeInTheFormatOfThePlanOrNotAtAll) {
  const std::vector<float> rows = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20};
  const MatView<const float> view(rows.data(), 4, 5);
  for (const RowFormat format : {RowFormat::kF16, RowFormat::kQ8}) {
    const Frame frame = EncodeStep(Epoch{3}, SampleStep(), {}, view, format);
    const auto decoded = DecodeStep(frame, {format, 5});
    ASSERT_TRUE(decoded.ok()) << ToString(decoded.status());
    ASSERT_EQ(decoded->rows.size(), rows.size());
    for (size_t i = 0; i < rows.size(); ++i) EXPECT_NEAR(decoded->rows[i], rows[i], 0.1);
    EXPECT_EQ(
        Message(DecodeStep(frame).status()),
        fmt::format("step.rows: expected rows as exact, as the plan says, got them as {}", Name(format)));
    EXPECT_THAT(Message(DecodeStep(frame, {format, 6}).status()),
                testing::HasSubstr("4 rows of width 5, expected 4 of 6"));
    Frame many = frame;
    many.header.cols = 1 << 30;  // Nothing is allocated for them.
    EXPECT_THAT(Message(DecodeStep(many, {format}).status()), testing::HasSubstr("do not fit"));
  }
  EXPECT_FALSE(DecodeStep(EncodeStep(Epoch{3}, SampleStep(), {}, view), {RowFormat::kQ8, 5}).ok());
}

TEST(ExpertFrames, RoundedRowsAndSumsComeBackWithinTheirUnit) {
  const std::vector<float> x = {1, -2, 3, 4, 0.5f, 0.25f, 100, 7};
  const std::vector<ExpertCall> calls = {{0, ExpertId{3}, 0.25f}, {1, ExpertId{2}, 0.75f}};
  const std::vector<int64_t> sums = {FixedFromFloat(1.5f),
                                     FixedFromFloat(-2),
                                     FixedFromFloat(1e-9f),
                                     0,
                                     FixedFromFloat(131072),
                                     7 * FixedFromFloat(262143),
                                     1,
                                     -1};
  for (const auto& [format, share] :
       {std::pair{RowFormat::kF16, 0x1p-11}, std::pair{RowFormat::kQ8, 0.5 / 126}}) {
    const Frame frame = EncodeExpertRequest({Epoch{1}, StepId{2}, LayerId{3}, 77, format},
                                            {MatView<const float>(x.data(), 2, 4)}, calls);
    ExpertMessage request;
    ASSERT_EQ(DecodeExpertRequest(frame, request, format), absl::OkStatus());
    EXPECT_FALSE(DecodeExpertRequest(frame, request).ok());
    ASSERT_EQ(DecodeExpertRequest(frame, request, format), absl::OkStatus());
    for (int64_t i = 0; i < 8; ++i)
      EXPECT_NEAR(request.rows.x.data[i], x[static_cast<size_t>(i)], 100 * share);

    const Frame reply =
        EncodeExpertReply(frame.header, 77, 42, MatView<const int64_t>(sums.data(), 2, 4), format);
    Arena arena;
    std::vector<int64_t> acc(8);
    const std::vector<int32_t> targets = {0, 1};
    const MatView<int64_t> target(acc.data(), 2, 4);
    ASSERT_EQ(*AddExpertReply(reply, targets, arena, target, format), 42);
    for (size_t i = 0; i < 8; ++i) {
      const double largest = i < 4 ? 2 : 7 * 262143.0;
      EXPECT_NEAR(FloatFromFixed(acc[i]), FloatFromFixed(sums[i]), largest * share) << i;
    }
    EXPECT_FALSE(AddExpertReply(reply, targets, arena, target).ok());  // Not what an exact plan says.
    for (size_t size = 0; size < reply.payload.size(); size += 3) {
      Frame cut = reply;
      cut.payload = Buffer::copy_of(reply.payload.bytes().first(size));
      EXPECT_FALSE(AddExpertReply(cut, targets, arena, target, format).ok()) << size;
    }
  }
}

TEST(ExpertFrames, SumsThatNoExpertsAddUpToAreRefused) {
  const std::vector<float> beyond = {0x1p23f, 0, 0, 0};
  PayloadWriter out;
  out.u64(1);
  out.i64(0);
  Frame frame;
  frame.header.kind = FrameKind::kExpertReply;
  WriteRows(out, RowFormat::kF16, MatView<const float>(beyond.data(), 1, 4), frame.header);
  frame.payload = out.finish();
  Arena arena;
  std::vector<int64_t> acc(4);
  const std::vector<int32_t> targets = {0};
  EXPECT_THAT(
      Message(AddExpertReply(frame, targets, arena, MatView<int64_t>(acc.data(), 1, 4), RowFormat::kF16)
                  .status()),
      testing::HasSubstr("expected sums below 2^23"));
}

TEST(ExpertFrames, ARowThatIsNamedTooOftenOrOutOfOrderIsRefused) {
  const std::vector<float> x(2 * 4, 1.0f);
  const ExpertRows rows{.x = MatView<const float>(x.data(), 2, 4)};
  const auto decoded = [&](const std::vector<ExpertCall>& calls) {
    const Frame frame = EncodeExpertRequest({Epoch{1}, StepId{2}, LayerId{3}, 77}, rows, calls);
    ExpertMessage request;
    return DecodeExpertRequest(frame, request);
  };
  std::vector<ExpertCall> calls(31, {0, ExpertId{3}, 0.25f});  // As many terms as a sum can hold.
  calls.push_back({1, ExpertId{3}, 0.25f});
  EXPECT_EQ(decoded(calls), absl::OkStatus());
  calls.insert(calls.begin(), {0, ExpertId{3}, 0.25f});
  EXPECT_EQ(decoded(calls).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(decoded({{1, ExpertId{3}, 0.25f}, {0, ExpertId{3}, 0.25f}}).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ExpertFrames, QuantizedRequestComesBackEqualAndTruncationsAreErrors) {
  Arena arena;
  QuantizedRows q = QuantizedRowsIn(arena.allocate_bytes(QuantizedRowsBytes(2, 64, 32)), 2, 64, 32);
  for (int i = 0; i < 128; ++i) q.codes[i] = static_cast<int8_t>(i - 64);
  for (int i = 0; i < 4; ++i) q.scales[i] = q.sums[i] = 0.5f * static_cast<float>(i);
  const std::vector<ExpertCall> calls = {{0, ExpertId{3}, 0.25f}, {1, ExpertId{2}, 0.75f}};
  const Frame frame = EncodeExpertRequest({Epoch{1}, StepId{2}, LayerId{3}, 77}, {{}, &q}, calls);
  ExpertMessage request;
  ASSERT_TRUE(DecodeExpertRequest(frame, request).ok());
  EXPECT_EQ(request.ticket, 77u);
  ASSERT_EQ(request.calls.size(), 2u);
  EXPECT_EQ(request.calls[1].expert, ExpertId{2});
  ASSERT_NE(request.rows.quantized, nullptr);
  EXPECT_EQ(std::memcmp(request.quantized.codes, q.codes, 128), 0);
  EXPECT_EQ(std::memcmp(request.quantized.sums, q.sums, 16), 0);
  for (size_t size = 0; size < frame.payload.size(); size += 3) {
    Frame cut = frame;
    cut.payload = Buffer::copy_of(frame.payload.bytes().first(size));
    EXPECT_FALSE(DecodeExpertRequest(cut, request).ok()) << size;
  }
}

TEST(ValidateStep, ABlockBehindAllWindowsMayBeMissingAndNoOther) {
  const auto valid = [](int32_t position, int64_t window, size_t missing) {
    Step step;
    step.slices = {{SeqId{1}, position, {5}, {BlockId{0}, BlockId{1}, BlockId{2}, BlockId{3}}}};
    for (size_t i = 0; i < missing; ++i) step.slices[0].blocks[i] = kNoBlock;
    return ValidateStep(step, {.context = 128, .vocabulary = 100, .blocks = 4, .window = window}).ok();
  };
  EXPECT_TRUE(valid(100, 37, 2));   // It sees positions 64 to 100.
  EXPECT_FALSE(valid(100, 38, 2));  // And 63.
  EXPECT_TRUE(valid(100, 38, 1));
  EXPECT_FALSE(valid(100, 37, 3));
  EXPECT_FALSE(valid(100, std::numeric_limits<int64_t>::max(), 1));
}

TEST(ValidateStep, CopiesThatDoNotFitThisNodeAreRefused) {
  const StepLimits limits{.context = 96, .vocabulary = 100, .blocks = 4, .state_slots = 3};
  const auto valid = [&](const CachedPlace& copy, size_t count = 1) {
    Step step;
    step.copies.assign(count, copy);
    return ValidateStep(step, limits).ok();
  };
  const auto most = static_cast<size_t>(kCopiesPerStepMax);
  EXPECT_TRUE(valid({BlockId{3}, {}, 64, 1}, most));
  EXPECT_FALSE(valid({BlockId{3}, {}, 64, 1}, most + 1));
  EXPECT_TRUE(valid({SlotId{2}, {}, 64, 1}));
  EXPECT_FALSE(valid({BlockId{4}, {}, 64, 1}));
  EXPECT_FALSE(valid({BlockId{-1}, {}, 64, 1}));
  EXPECT_FALSE(valid({SlotId{3}, {}, 64, 1}));
  EXPECT_FALSE(valid({BlockId{3}, {}, 33, 1}));
  EXPECT_FALSE(valid({BlockId{3}, {}, 0, 1}));
  EXPECT_FALSE(valid({BlockId{3}, {}, 64, 0}));
}

TEST(ValidateStep, RunsThatDoNotFitThisNodeAreRefused) {
  const StepLimits limits{.context = 96, .vocabulary = 100, .blocks = 4, .state_slots = 3};
  const StoredRun good{
      .tokens = std::vector<int32_t>(64), .blocks = {BlockId{3}}, .states = {{64, SlotId{2}}}};
  const auto refused = [&](StoredRun run, const StepLimits& of) {
    Step save;
    save.saves = {run};
    Step restore;
    restore.restores = {run};
    return std::pair(!ValidateStep(save, of).ok(), !ValidateStep(restore, of).ok());
  };
  const auto changed = [&](auto change) {
    StoredRun run = good;
    change(run);
    return refused(run, limits);
  };
  const std::pair both(true, true);
  EXPECT_EQ(refused(good, limits), std::pair(false, false));
  EXPECT_EQ(changed([](StoredRun& run) { run.tokens.pop_back(); }), both);
  EXPECT_EQ(changed([](StoredRun& run) { run.tokens.clear(); }), both);
  EXPECT_EQ(changed([](StoredRun& run) { run.tokens.resize(128); }), both);
  EXPECT_EQ(changed([](StoredRun& run) { run.blocks[0] = BlockId{4}; }), both);
  EXPECT_EQ(changed([](StoredRun& run) { run.blocks[0] = BlockId{-1}; }), both);
  EXPECT_EQ(changed([](StoredRun& run) { run.blocks.resize(3); }), both);
  EXPECT_EQ(changed([](StoredRun& run) { run.states[0].slot = SlotId{3}; }), both);
  EXPECT_EQ(changed([](StoredRun& run) { run.states[0].position = 0; }), both);
  EXPECT_EQ(changed([](StoredRun& run) { run.states[0].position = 40; }), both);
  EXPECT_EQ(changed([](StoredRun& run) { run.states[0].position = 32; }), std::pair(false, true));
  EXPECT_EQ(changed([](StoredRun& run) { run.states.clear(); }), std::pair(false, true));
  StepLimits stateless = limits;
  stateless.state_slots = 0;
  EXPECT_EQ(refused(good, stateless), both);
}

TEST(KvReportCodec, AReportComesBackEqualAndNoTruncationDoes) {
  const KvReport report{.restart = true,
                        .active = true,
                        .changes = {{{1, 2}, true}, {{3, 4}, false}},
                        .restored = {{SeqId{7}, 3, true, 1000, 20}, {SeqId{8}, 0, false, 0, 1}},
                        .bytes = 5,
                        .dropped = 6,
                        .errors = 7};
  const Frame frame = EncodeKvReport(Epoch{2}, report);
  EXPECT_FALSE(IsKvQuestion(frame));
  EXPECT_TRUE(IsKvQuestion(EncodeKvQuestion(Epoch{2})));
  const auto decoded = DecodeKvReport(frame);
  ASSERT_TRUE(decoded.ok()) << ToString(decoded.status());
  EXPECT_EQ(*decoded, report);
  for (size_t size = 0; size < frame.payload.size(); ++size) {
    Frame cut = frame;
    cut.payload = Buffer::copy_of(frame.payload.bytes().first(size));
    EXPECT_FALSE(DecodeKvReport(cut).ok()) << size;
  }
}

TEST(KvReportCodec, NegativeCountsAreRefused) {
  const auto decoded = [](const RestoreOutcome& one) {
    return DecodeKvReport(EncodeKvReport(Epoch{1}, {.restored = {one}})).status().code();
  };
  EXPECT_EQ(decoded({SeqId{1}, 2, false, 3, 4}), absl::StatusCode::kOk);
  EXPECT_EQ(decoded({SeqId{1}, -1}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(decoded({SeqId{1}, 1, false, -1}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(decoded({SeqId{1}, 1, false, 1, -1}), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shoal
