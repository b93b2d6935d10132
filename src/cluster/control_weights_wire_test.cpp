#include "cluster/control_weights_wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "base/status.h"
#include "cluster/chunk_source.h"

namespace shoal {
namespace {

using testing::HasSubstr;

TEST(WeightsWire, ASkeletonArrivesAsItWasSentHoweverLargeItsPieces) {
  ModelSkeleton sent{.files = {{"config.json", 3}, {"model.gguf", int64_t{5} << 20}}, .pieces = {}};
  sent.pieces.push_back({0, 0, "{ }"});
  sent.pieces.push_back({1, 0, std::string(size_t{3} << 20, 'x')});
  sent.pieces.push_back({1, (int64_t{5} << 20) - 2, "yz"});
  ModelSkeleton got;
  const auto parts = SkeletonParts(sent);
  EXPECT_GT(parts.size(), 3u);
  for (const v1::SkeletonPart& part : parts) {
    EXPECT_LT(part.ByteSizeLong(), size_t{2} << 20);
    ASSERT_TRUE(AddPart(part, got).ok());
  }
  EXPECT_TRUE(got == sent);
  EXPECT_TRUE(CheckSkeleton(got).ok());
  EXPECT_EQ(got.hash(), sent.hash());
  EXPECT_EQ(got.entry(), "model.gguf");
}

TEST(WeightsWire, APieceThatBeginsBeforeItsFileIsRefused) {
  constexpr int64_t kEnd = std::numeric_limits<int64_t>::max();
  ModelSkeleton got;
  v1::SkeletonPart part;
  for (const int64_t begin : {kEnd, kEnd - 3}) {
    v1::SkeletonPart::Piece& piece = *part.add_pieces();
    piece.set_begin(begin);
    piece.set_data("ab");
  }
  ASSERT_TRUE(AddPart(part, got).ok());
  EXPECT_EQ(got.pieces.size(), 2u);
  // Behind the first piece, if numbers went on at their other end.
  part.Clear();
  v1::SkeletonPart::Piece& piece = *part.add_pieces();
  piece.set_begin(std::numeric_limits<int64_t>::min() + 1);
  got.pieces.resize(1);
  piece.set_data("ab");
  EXPECT_EQ(AddPart(part, got).code(), absl::StatusCode::kInvalidArgument);
}

TEST(WeightsWire, AskingForTooMuchIsRefused) {
  const std::vector<TensorChunk> chunks(9, {3, 0, kChunkBytesMax});
  v1::ChunksRequest request;
  PutChunks(std::span(chunks).first(8), request);
  EXPECT_EQ(ReadChunks(request)->size(), 8u);
  request.Clear();
  PutChunks(chunks, request);
  EXPECT_THAT(ToString(ReadChunks(request).status()), HasSubstr("bytes in all at most"));
  request.Clear();
  PutChunks(std::vector<TensorChunk>(kRequestChunksMax + 1, {0, 0, 1}), request);
  EXPECT_FALSE(ReadChunks(request).ok());
  request.Clear();
  PutChunks(std::vector<TensorChunk>{{0, 0, -1}}, request);
  EXPECT_FALSE(ReadChunks(request).ok());
  request.Clear();
  PutChunks(std::vector<TensorChunk>{{0, 0, 1}}, request);
  request.add_begins(1);
  EXPECT_FALSE(ReadChunks(request).ok());
}

TEST(WeightsWire, HashesAreAboutTheChunksAskedFor) {
  const std::vector<std::optional<ContentHash128>> hashes = {ContentHash128{1, 2}, std::nullopt};
  v1::HashesReply reply;
  PutHashes(hashes, reply);
  EXPECT_EQ(*ReadHashes(reply, 2), hashes);
  EXPECT_FALSE(ReadHashes(reply, 3).ok());
}

}  // namespace
}  // namespace shoal
