#include "wire/frame.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "wire/payload.h"

namespace shoal {
namespace {

Frame SampleFrame(size_t rows = 3, size_t cols = 5) {
  PayloadWriter writer;
  std::vector<float> values(rows * cols);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) * 0.5f;
  writer.array<float>(values);
  Frame frame;
  frame.header = {.kind = FrameKind::kExpertReply,
                  .flags = 3,
                  .dtype = DType::kF32,
                  .sender = NodeId{2},
                  .epoch = Epoch{7},
                  .layer = LayerId{41},
                  .step = StepId{uint64_t{1} << 40},
                  .rows = static_cast<uint32_t>(rows),
                  .cols = static_cast<uint32_t>(cols)};
  frame.payload = writer.finish();
  return frame;
}

std::vector<std::byte> Bytes(const Frame& frame) {
  const Buffer encoded = EncodeFrame(frame);
  return {encoded.bytes().begin(), encoded.bytes().end()};
}

TEST(Frame, DecodingGivesBackEveryFieldAndByte) {
  const Frame frame = SampleFrame();
  const auto decoded = DecodeFrame(Bytes(frame), {});
  ASSERT_TRUE(decoded.ok()) << Message(decoded.status());
  FrameHeader expected = frame.header;
  expected.length = frame.payload.size();
  EXPECT_EQ(decoded->header, expected);
  EXPECT_TRUE(std::ranges::equal(decoded->payload.bytes(), frame.payload.bytes()));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(decoded->payload.data()) % kWireAlignment, 0u);
}

TEST(Frame, HeaderLiesOnTheWireAsDocumented) {
  const auto bytes = Bytes(SampleFrame());
  const auto at = [&](size_t i) { return static_cast<int>(bytes[i]); };
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), 4), "SHL0");
  EXPECT_EQ(at(4), 8);           // version, low byte first
  EXPECT_EQ(at(6), 20);          // kind
  EXPECT_EQ(at(7), 3);           // flags
  EXPECT_EQ(at(12), 2);          // sender
  EXPECT_EQ(at(16), 7);          // epoch
  EXPECT_EQ(at(20), 41);         // layer
  EXPECT_EQ(at(24 + 5), 1);      // step 2^40
  EXPECT_EQ(at(32), 3);          // rows
  EXPECT_EQ(at(36), 5);          // cols
  EXPECT_EQ(at(40), 3 * 5 * 4);  // length
}

TEST(Frame, AnEmptyPayloadTravels) {
  Frame frame;
  frame.header.kind = FrameKind::kPosition;
  const auto decoded = DecodeFrame(Bytes(frame), {});
  ASSERT_TRUE(decoded.ok()) << Message(decoded.status());
  EXPECT_TRUE(decoded->payload.empty());
}

TEST(Frame, EverySingleFlippedBitIsFound) {
  const auto good = Bytes(SampleFrame());
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    auto bad = good;
    bad[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    ASSERT_FALSE(DecodeFrame(bad, {}).ok()) << "bit " << bit;
  }
}

TEST(Frame, EveryTruncationAndAnExtraByteAreFound) {
  const auto good = Bytes(SampleFrame());
  for (size_t size = 0; size < good.size(); ++size) {
    const auto decoded = DecodeFrame(std::span(good).first(size), {});
    ASSERT_EQ(decoded.status().code(), absl::StatusCode::kInvalidArgument) << size;
  }
  auto longer = good;
  longer.push_back(std::byte{0});
  EXPECT_EQ(DecodeFrame(longer, {}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Frame, CorruptionIsDataLossThatDescribesTheFrame) {
  auto bytes = Bytes(SampleFrame());
  bytes[kFrameHeaderBytes + 9] ^= std::byte{1};
  const auto status = DecodeFrame(bytes, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(Message(status),
              testing::HasSubstr("expert_reply epoch 7 step 1099511627776 layer 41 from node 2"));
}

TEST(Frame, ALengthAboveTheLimitIsRefusedBeforeAnythingElseIsLookedAt) {
  auto bytes = Bytes(SampleFrame());
  bytes.resize(kFrameHeaderBytes);  // The peer promises, and never sends.
  for (size_t i = 40; i < 48; ++i) bytes[i] = std::byte{0xff};
  const auto status = DecodeHeader(bytes, {.payload_bytes_max = 1000}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(status), testing::HasSubstr("18446744073709551615 bytes is above the limit of 1000"));
}

TEST(Frame, AnotherVersionIsNamedOnBothSides) {
  auto bytes = Bytes(SampleFrame());
  bytes[4] = std::byte{9};
  const auto status = DecodeHeader(bytes, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(status),
              testing::HasSubstr(fmt::format("speaks wire version {}, the peer 9", kWireVersion)));
}

TEST(Frame, RowsThatDoNotFitThePayloadAreRefusedAlsoWhereTheProductOverflows) {
  Frame frame = SampleFrame();
  frame.header.rows = frame.header.cols = 0xffffffffu;
  frame.header.dtype = DType::kF64;
  EXPECT_EQ(DecodeFrame(Bytes(frame), {}).status().code(), absl::StatusCode::kInvalidArgument);
  frame = SampleFrame();
  frame.header.rows += 1;
  EXPECT_EQ(DecodeFrame(Bytes(frame), {}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Frame, KindsWithoutANameAreStillWrittenForPeople) {
  EXPECT_EQ(FrameKindText(FrameKind::kStep), "step");
  EXPECT_EQ(FrameKindText(static_cast<FrameKind>(99)), "kind_99");
}

TEST(Payload, FieldsComeBackInOrder) {
  PayloadWriter writer;
  writer.u8(200);
  writer.u32(4000000000u);
  writer.i64(-5);
  writer.f32(1.5f);
  writer.f64(-0.25);
  writer.string("größe");
  const std::vector<uint16_t> halves{1, 2, 3};
  writer.u32(3);
  writer.array<uint16_t>(halves);
  writer.i32(-7);
  const Buffer payload = writer.finish();
  EXPECT_EQ(writer.size(), 0u);

  PayloadReader reader(payload);
  EXPECT_EQ(*reader.u8("a"), 200);
  EXPECT_EQ(*reader.u32("b"), 4000000000u);
  EXPECT_EQ(*reader.i64("c"), -5);
  EXPECT_EQ(*reader.f32("d"), 1.5f);
  EXPECT_EQ(*reader.f64("e"), -0.25);
  EXPECT_EQ(*reader.string("f"), "größe");
  const auto count = reader.count("g", sizeof(uint16_t));
  ASSERT_TRUE(count.ok());
  const auto array = reader.array<uint16_t>("h", *count);
  ASSERT_TRUE(array.ok());
  EXPECT_THAT(*array, testing::ElementsAre(1, 2, 3));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(array->data()) % kWireAlignment, 0u);
  EXPECT_EQ(*reader.i32("i"), -7);
  EXPECT_TRUE(reader.finish("all").ok());
}

TEST(Payload, EqualFieldsGiveEqualBytesWhateverTheMemoryHeldBefore) {
  const auto write = [](size_t capacity) {
    PayloadWriter writer(capacity);
    writer.u8(1);
    const std::vector<float> rows{1.0f, 2.0f};
    writer.array<float>(rows);
    return writer.finish();
  };
  const Buffer a = write(0);
  const Buffer b = write(10000);
  EXPECT_TRUE(std::ranges::equal(a.bytes(), b.bytes()));
}

TEST(Payload, ACountThatCannotFitIsRefusedBeforeAnybodyAllocates) {
  PayloadWriter writer;
  writer.u32(1000000);
  writer.u32(1);
  const Buffer payload = writer.finish();
  PayloadReader reader(payload);
  const auto status = reader.count("step.sequences", 4).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), testing::HasSubstr("step.sequences: a count of 1000000"));
}

TEST(Payload, ReadsBeyondTheEndAreErrorsForEveryType) {
  const Buffer payload = Buffer::copy_of(std::vector<std::byte>(3));
  EXPECT_FALSE(PayloadReader(payload).u32("x").ok());
  EXPECT_FALSE(PayloadReader(payload).f64("x").ok());
  EXPECT_FALSE(PayloadReader(payload).string("x").ok());
  EXPECT_FALSE(PayloadReader(payload).count("x", 1).ok());
  EXPECT_FALSE(PayloadReader(payload).array<float>("x", 1).ok());
  EXPECT_FALSE(PayloadReader(payload).array<double>("x", UINT64_MAX / 4).ok());
  EXPECT_FALSE(PayloadReader(payload).finish("x").ok());
  EXPECT_FALSE(PayloadReader(Buffer()).u8("x").ok());
}

TEST(Payload, AStringThatLiesAboutItsLengthIsRefused) {
  PayloadWriter writer;
  writer.u32(0xffffffffu);
  const Buffer payload = writer.finish();
  EXPECT_FALSE(PayloadReader(payload).string("name").ok());
}

}  // namespace
}  // namespace shoal
